"""Stored messages by room and seq."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence

from attrs import frozen
from twisted.internet.defer import Deferred
from zope.interface import Interface

from chatflow.contracts.messages import StoredMessage


class IHistory(Interface):
    """Stored messages by room and seq."""

    def after(room: int, seq: int, limit: int) -> Deferred[Sequence[StoredMessage]]:
        """The room's first messages with a larger seq, ascending, at most ``limit``.

        Fails with :class:`chatflow.errors.Unavailable` when the database does not answer in time.
        """

    def heads() -> Deferred[Mapping[int, int]]:
        """The last seq of every room that has one. Fails like ``after``."""


@frozen
class Page:
    """What is stored of a range of a room's seqs, ready to be sent.

    :ivar seqs: of the messages, ascending; without those that retention dropped.
    :ivar ends: where each message's bytes end in ``data``.
    :ivar head: the room's last seq just before the messages were read; any that is missing up to it was dropped.
    :ivar next_seq: only if there are no messages: the first one that is stored behind the range, if any.
    """

    last: int
    seqs: Sequence[int]
    ends: Sequence[int]
    data: bytes
    head: int
    next_seq: int | None = None

    @property
    def complete(self) -> bool:
        """Whether nothing can be added any more."""
        return self.head >= self.last


class IPageHistory(Interface):
    """Stored messages as clients get them. What is awaited fails with :class:`chatflow.errors.Unavailable`."""

    def page(room: int, first: int, last: int) -> Awaitable[Page]:
        """The room's messages from ``first`` to ``last``."""

    def heads() -> Awaitable[Mapping[int, int]]:
        """The last seq of every room that has one."""

    def first_seq(room: int) -> Awaitable[int]:
        """The first seq that is held, or the next one that will be; from there on there is no hole."""
