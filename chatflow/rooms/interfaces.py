"""What the parts promise each other about rooms: member, publisher, store. Implemented by edge, broker, persistence."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Literal, NamedTuple

from attrs import frozen
from twisted.internet.defer import Deferred
from zope.interface import Attribute, Interface

from chatflow.errors import NotStored, Refused
from chatflow.rooms.deadletters import DeadLetter
from chatflow.rooms.envelope import Envelope
from chatflow.rooms.messages import ClientMessage, Message, StoredMessage


class Accepted(NamedTuple):
    """A message on its way, with the client's original of it for the acknowledgement.

    :ivar at: when it was accepted, in seconds of the ingress's clock.
    """

    message: Message
    original: ClientMessage
    at: float = 0.0


class ISender(Interface):
    """Who sent a message and waits for its answer. Each accepted message gets exactly one of the two calls."""

    def acknowledge(accepted: Sequence[Accepted]) -> None:
        """These messages, in the order in which they were accepted, are durable. Does not raise."""

    def refuse(refused: Refused, count: int) -> None:
        """So many of its unanswered messages, the oldest of their envelope, are refused. Does not raise."""


class IMember(Interface):
    """Who listens in a room."""

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
    before ``first``; a :class:`Resumed` from there on follows.
    """

    reason: Literal["beyond_head", "expired", "restored"]
    first: int


class IResumingMember(IMember):
    """A member to be, that is given history first."""

    def resuming(result: Resumed | Reset) -> None:
        """What becomes of its wish; told before the messages that it speaks of. Does not raise."""

    def drained() -> Deferred[None]:
        """Fires once what was delivered is on its way to the client. May be cancelled."""


class IPublish(Interface):
    """Where ingress puts its envelopes; a part of :class:`chatflow.broker.interfaces.IRoomQueue`."""

    def publish(envelope: Envelope) -> Deferred[Sequence[int]] | Deferred[None]:
        """Fires when the envelope is durable, with the positions of messages that were refused. See ``IRoomQueue``."""

    def wait_seconds(room: int) -> float:
        """How long to gather messages before the room's next envelope is made; 0 when publishing costs nothing."""


@frozen
class Stored:
    """An envelope's messages are committed, numbered from ``first_seq`` on.

    :ivar conflicts: positions, in the envelope as it was written, of messages that are not stored because their
        clientMessageId stands for another one.
    """

    envelope: Envelope
    first_seq: int
    conflicts: Sequence[int] = ()

    def messages(self) -> list[StoredMessage]:
        """The messages with their places."""
        room, server_id = self.envelope.room, self.envelope.server_id
        return [
            StoredMessage(room, seq, server_id, message)
            for seq, message in enumerate(self.envelope.messages, self.first_seq)
        ]


@frozen
class StoredBefore:
    """Nothing of this envelope was stored now, as in a redelivery.

    :ivar head: the room's last committed seq.
    :ivar conflicts: as in :class:`Stored`.
    """

    room: int
    head: int
    conflicts: Sequence[int] = ()


@frozen
class SetAside:
    """The database refused the envelope for good; it is among the dead letters."""

    reason: NotStored


@frozen
class NotHeld:
    """Nothing was stored: the envelope may belong to somebody else by now."""


Outcome = Stored | StoredBefore | SetAside | NotHeld


def always() -> bool:
    """For envelopes that nobody else can be given."""
    return True


class IBatchWriter(Interface):
    """Commits envelopes of all rooms in large transactions."""

    available = Attribute("Whether the database answered last time. If not, what is received now only waits here.")

    def write(envelopes: Sequence[Envelope], are_held: Callable[[], bool] = always) -> Deferred[Sequence[Outcome]]:
        """Fires with an outcome per envelope once all are settled. Envelopes of a room keep their order.

        :param are_held: whether all of these are certainly still this consumer's alone. Called in another thread, while
            their rooms' heads are locked: so who was paused for long stores nothing that others have stored meanwhile.

        Waits while the database is away. Fails with :class:`chatflow.errors.Unavailable` when the writer stops, and
        with what a defect raised; then nothing is known of these envelopes, they may be written again, and none of a
        room was stored behind one of the same room that failed.
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


@frozen
class InstanceStart:
    """One start of an instance, with what it must have removed once it is dead.

    :ivar start: tells the starts of one server apart; a new one for each new fan-out queue.
    :ivar fanout_queue: the name of its queue.
    """

    server_id: str
    start: str
    fanout_queue: str


@frozen
class InstanceState:
    """How one server's newest heartbeat is, by the database's clock.

    :ivar up_seconds: since it registered. :ivar silent_seconds: since its last heartbeat.
    """

    server_id: str
    up_seconds: float
    silent_seconds: float


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
