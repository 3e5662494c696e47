"""Each room's ordered log of envelopes. One contract test suite holds every implementation to it."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Any

from attrs import frozen
from twisted.internet.defer import Deferred
from zope.interface import Attribute, Interface

from chatflow.contracts.envelopes import Envelope
from chatflow.errors import NotStored


class IPublish(Interface):
    """Where ingress puts its envelopes; a part of :class:`IRoomQueue`."""

    def publish(envelope: Envelope) -> Deferred[Sequence[int]] | Deferred[None]:
        """Fires when the envelope is durable, with the positions of messages that were refused. See ``IRoomQueue``."""

    def wait_seconds(room: int) -> float:
        """How long to gather messages before the room's next envelope is made; 0 when publishing costs nothing."""


@frozen
class Delivery:
    """An envelope that a consumer holds.

    :ivar receipt: belongs to the queue that made it.
    :ivar conflicts: set by the consumer: positions of messages that were refused, since their clientMessageId stands
        for another one.
    """

    envelope: Envelope
    receipt: Any = None
    conflicts: Sequence[int] = ()


@frozen
class Depth:
    """One queue's messages, hence envelopes; approximate on SQS.

    :ivar url: None for a queue that is none of AWS's.
    :ivar in_flight: with a consumer.
    """

    url: str | None = None
    waiting: int = 0
    in_flight: int = 0
    delayed: int = 0


class IDepths(Interface):
    """How much waits in each room's queue."""

    def of(room: int) -> Awaitable[Depth]:
        """Rooms that share a queue have its depth in common. Fails with :class:`chatflow.errors.Unavailable`."""


class IRoomQueue(IPublish):
    """Each room's ordered log of envelopes.

    Promises: envelopes of a room are received in the order in which they were published; while a consumer holds
    deliveries of a room, nobody else is given any of that room; what is not settled is delivered again, in order.
    """

    shards = Attribute("What a consumer receives from, one worker each: a sequence of names.")

    def shard_rooms(shard: object) -> Sequence[int]:
        """The rooms whose envelopes come from one shard."""

    def publish(envelope: Envelope) -> Deferred[Sequence[int]] | Deferred[None]:
        """Fires when the envelope is durable, with the positions of those messages that were refused, if any (embedded
        queue only, where the senders wait for the commit).

        Fails with :class:`~chatflow.errors.Unavailable` when it is not known to be durable: it may be queued all the
        same, if the answer to a try was lost; or with :class:`~chatflow.errors.NotStored` when the database refused
        it (embedded queue only). Publishing the same ``envelope_id`` again within five minutes fires, too, and is a
        redelivery at most: none while the first is under way, and none that its room's head would not recognise.
        """

    def receive(shard: object) -> Deferred[Sequence[Delivery]]:
        """Wait for the shard's next deliveries, at most 10 per room, and hold their rooms.

        May fire with none, to be asked again. Fails with :class:`~chatflow.errors.Unavailable`. Cancelling it is
        safe: nothing is lost.
        """

    def are_leased(deliveries: Sequence[Delivery]) -> bool:
        """Whether certainly nobody else has been given any of these. May be called in any thread."""

    def renew(deliveries: Sequence[Delivery]) -> Deferred[None]:
        """Have these leased for long enough to store them, where that is in doubt. Fires even if it is in vain."""

    def ack(deliveries: Sequence[Delivery]) -> Deferred[None]:
        """These are stored and announced: forget them and release their rooms. Repeating it is harmless."""

    def reject(delivery: Delivery, reason: NotStored) -> Deferred[None]:
        """This one will never be stored and lies among the dead letters: forget it and release its room."""

    def nack(deliveries: Sequence[Delivery]) -> Deferred[None]:
        """Not now: deliver these again, in order, to whoever asks."""
