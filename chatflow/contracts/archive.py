"""What is asked of stored messages besides a room's order: places among all rooms, a user's rooms, rooms' heads."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Mapping, Sequence
from typing import ClassVar, Self

from attrs import frozen
from zope.interface import Interface

from chatflow.contracts.messages import StoredMessage


@frozen(order=True)
class PageCursor:
    """A message's place among those of all rooms: by time, then room and seq. As text it is what links carry."""

    PATTERN: ClassVar[str] = "^[0-9]{1,16}-[0-9]{1,9}-[0-9]{1,15}$"

    created_at_us: int
    room: int
    seq: int

    @classmethod
    def of(cls, stored: StoredMessage) -> Self:
        """The place of a message."""
        return cls(stored.message.created_at_us, stored.room, stored.seq)

    @classmethod
    def parse(cls, text: str) -> Self:
        """The place in a link.

        :raises ValueError: it is none.
        """
        if not re.fullmatch(cls.PATTERN.removesuffix("$"), text):
            raise ValueError
        created_at_us, room, seq = map(int, text.split("-"))
        return cls(created_at_us, room, seq)

    def __str__(self) -> str:
        return f"{self.created_at_us}-{self.room}-{self.seq}"


@frozen
class UserRoom:
    """What a user did in a room; times in microseconds since 1970."""

    room: int
    messages: int
    texts: int
    joins: int
    leaves: int
    first_us: int
    last_us: int


@frozen
class RoomHead:
    """:ivar last_us: when its newest message came, in microseconds since 1970; None if there is none."""

    room: int
    head: int
    last_us: int | None


class IArchive(Interface):
    """Stored messages for those who look back. Each fails with :class:`chatflow.errors.Unavailable`."""

    def room_messages(room: int, after: int | None, before: int | None, limit: int) -> Awaitable[list[StoredMessage]]:
        """Ascending. With ``after`` the first ones behind it, otherwise the last ones (before ``before``)."""

    def user_messages(
        user_id: int,
        after: PageCursor | None,
        before: PageCursor | None,
        from_us: int | None,
        to_us: int | None,
        limit: int,
    ) -> Awaitable[list[StoredMessage]]:
        """Descending by place. With ``after`` those next to it, otherwise the newest (before ``before``)."""

    def user_rooms(user_id: int) -> Awaitable[list[UserRoom]]:
        """What a user did, in each room where it did something; by room's number."""

    def room_heads(after: int, limit: int) -> Awaitable[list[RoomHead]]:
        """At most ``limit`` rooms that have messages and a number above ``after``; by room's number."""


class ISeqLookup(Interface):
    """Finds messages that their clients have named."""

    def seqs_of(message_ids: Sequence[str]) -> Awaitable[Mapping[str, int]]:
        """The seq of each that is stored. Fails with :class:`chatflow.errors.Unavailable`."""
