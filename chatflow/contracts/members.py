"""Who sends to a room and who listens in it. The hub and ingress never see a socket."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from attrs import frozen
from twisted.internet.defer import Deferred
from zope.interface import Interface

from chatflow.contracts.messages import ClientMessage, Message
from chatflow.errors import Refused


class Accepted(NamedTuple):
    """A message on its way, with the client's original of it for the acknowledgement.

    :ivar at: when it was accepted, in seconds of the ingress's clock.
    :ivar content_bytes: see :func:`.envelopes.content_bytes`.
    """

    message: Message
    original: ClientMessage
    at: float = 0.0
    content_bytes: int = 0


class ISender(Interface):
    """Who sent a message and waits for its answer. Each accepted message gets exactly one of the two calls."""

    def acknowledge(accepted: Sequence[Accepted]) -> None:
        """These messages, in the order in which they were accepted, are durable. Does not raise."""

    def refuse(refused: Refused, count: int) -> None:
        """So many of its unanswered messages, the oldest of their envelope, are refused. Does not raise."""


class IMember(Interface):
    """Whoever is given what is stored in a room, from the moment when it joined the hub."""

    def deliver(block: bytes) -> None:
        """Write what the hub's encoder made of one or more messages. Does not block and does not raise."""


@frozen
class Resumed:
    """A member now gets ``first`` to ``last`` as history, then what is live; ``count`` is 0 if it lacks nothing.

    ``last`` is the room's head when the member came: what was stored since then follows without a seam.
    """

    first: int
    last: int
    count: int


@frozen
class Reset:
    """What a member asked for is not there. ``first``: the seq that it gets next instead.

    ``beyond_head``: the room never had that many messages; what is live follows. ``expired``: retention dropped those
    before ``first``; a :class:`Resumed` from there on follows. ``restored``: the database was set back, and the
    room has other messages from ``first`` on.
    """

    reason: Literal["beyond_head", "expired", "restored"]
    first: int


class IResumingMember(IMember):
    """A member to be, that is given history first."""

    def resuming(result: Resumed | Reset) -> None:
        """What becomes of its request for history; told before the messages that it speaks of. Does not raise."""

    def drained() -> Deferred[None]:
        """Fires once what was delivered is on its way to the client. May be cancelled."""
