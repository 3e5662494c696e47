"""What the parts promise each other about rooms: member, publisher, store. Implemented by edge, broker, persistence."""

from __future__ import annotations

from collections.abc import Awaitable, Collection, Mapping, Sequence
from typing import NamedTuple

from attrs import frozen
from twisted.internet.defer import Deferred
from zope.interface import Interface

from chatflow.errors import NotStored, Refused
from chatflow.rooms.deadletters import DeadLetter
from chatflow.rooms.envelope import Envelope
from chatflow.rooms.messages import ClientMessage, Message, StoredMessage


class Accepted(NamedTuple):
    """A message on its way, with the client's original of it for the acknowledgement."""

    message: Message
    original: ClientMessage


class ISender(Interface):
    """Who sent a message and waits for its answer. Each accepted message gets exactly one of the two calls."""

    def acknowledge(accepted: Sequence[Accepted]) -> None:
        """These messages, in the order in which they were accepted, are durable. Does not raise."""

    def refuse(refused: Refused, count: int) -> None:
        """The last ``count`` unanswered messages that this names will not be stored. Does not raise."""


class IMember(Interface):
    """Who listens in a room."""

    def deliver(block: bytes) -> None:
        """Write what the hub's encoder made of one or more messages. Does not block and does not raise."""


class IPublish(Interface):
    """Where ingress puts its envelopes; a part of :class:`chatflow.broker.interfaces.IRoomQueue`."""

    def publish(envelope: Envelope) -> Deferred[None]:
        """Fires when the envelope is durable. See ``IRoomQueue``."""

    def wait_seconds(room: int) -> float:
        """How long to gather messages before the room's next envelope is made; 0 when publishing costs nothing."""


@frozen
class Stored:
    """An envelope's messages are committed, numbered from ``first_seq`` on."""

    envelope: Envelope
    first_seq: int

    def messages(self) -> list[StoredMessage]:
        """The messages with their places."""
        room, server_id = self.envelope.room, self.envelope.server_id
        return [
            StoredMessage(room, seq, server_id, message)
            for seq, message in enumerate(self.envelope.messages, self.first_seq)
        ]


@frozen
class StoredBefore:
    """The room's head remembers this envelope: a redelivery. ``head``: the room's last committed seq."""

    room: int
    head: int


@frozen
class SetAside:
    """The database refused the envelope for good; it is among the dead letters."""

    reason: NotStored


Outcome = Stored | StoredBefore | SetAside


class IBatchWriter(Interface):
    """Commits envelopes of all rooms in large transactions."""

    def write(envelopes: Sequence[Envelope]) -> Deferred[Sequence[Outcome]]:
        """Fires with an outcome per envelope once all are settled. Envelopes of a room keep their order.

        Waits while the database is away. Fails with :class:`chatflow.errors.Unavailable` only when the writer
        stops; then nothing is known of these envelopes, and they may be written again.
        """


class IDeadLetters(Interface):
    """Where envelopes go that the database refuses for good, so that they never block their room."""

    def keep(envelope: Envelope, reason: str) -> Deferred[None]:
        """Fires when the envelope is durably set aside; a second time, another attempt of it is counted.

        Tried again without end: it is the last resort. Fails with :class:`chatflow.errors.Unavailable` only when
        what it needs has been stopped; the envelope is then delivered again, to somebody else.
        """


class IDeadLetterBox(Interface):
    """What commands do with the dead letters. Blocks. One at a time: others may not see what this one has read.

    Every method raises :class:`chatflow.errors.Unavailable` when the place of the letters does not answer.
    """

    def read() -> list[DeadLetter]:
        """Every letter, the oldest first, each ``id`` once. They are held for this reader for some minutes."""

    def replace(letter: DeadLetter, replacement: DeadLetter) -> None:
        """Put another one with the same ``id`` in the place of one that was read."""

    def remove(letters: Sequence[DeadLetter]) -> None:
        """Delete some that were read."""

    def release() -> None:
        """Hold nothing any more."""


class IHistory(Interface):
    """Stored messages by room and seq."""

    def after(room: int, seq: int, limit: int) -> Deferred[Sequence[StoredMessage]]:
        """The room's first messages with a larger seq, ascending, at most ``limit``.

        Fails with :class:`chatflow.errors.Unavailable` when the database does not answer in time.
        """

    def heads() -> Deferred[Mapping[int, int]]:
        """The last seq of every room that has one. Fails like ``after``."""


@frozen
class InstanceStart:
    """One start of an instance, with what it must have removed once it is dead.

    :ivar start: tells the starts of one server apart; a new one for each new fan-out queue.
    :ivar fanout_queue: the name of its queue.
    """

    server_id: str
    start: str
    fanout_queue: str


class IInstanceTable(Interface):
    """Which instances of the cluster live. All times are the database's own, so that nobody's clock matters.

    What is awaited fails with :class:`chatflow.errors.Unavailable` when the database does not answer.
    """

    def register(instance: InstanceStart) -> Awaitable[None]:
        """Call it before the queue is made, so that none is ever unknown."""

    def heartbeat(instance: InstanceStart) -> Awaitable[bool]:
        """It lives. False when it was taken for dead: its queue is being removed, or was."""

    def leave(instance: InstanceStart) -> Awaitable[None]:
        """It has removed its queue itself."""

    def dead(silent_seconds: float) -> Awaitable[Sequence[InstanceStart]]:
        """Those whose last heartbeat is older."""

    def claim_dead(silent_seconds: float) -> Awaitable[Sequence[InstanceStart]]:
        """The same for one caller at a time: nobody else is given them for some minutes, nor are they alive again."""

    def forget(instance: InstanceStart) -> Awaitable[None]:
        """What a claimed one left behind is removed."""

    def fanout_queues() -> Awaitable[Collection[str]]:
        """The names of all queues that have an entry, dead or alive."""
