"""A validated message becomes part of its room's open envelope, is published, and is acknowledged.

Messages of a room that arrive while the room's previous publish is under way travel together as the next envelope
(natural batching): no timer when idle, and under load envelopes grow by themselves. One publish in flight per room
keeps the order in which messages were accepted.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from attrs import Factory, define
from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from chatflow.contracts.envelopes import MAX_CONTENT_BYTES, Envelope, content_bytes
from chatflow.contracts.members import Accepted, ISender
from chatflow.contracts.messages import ClientMessage, Message
from chatflow.contracts.room_queue import IPublish
from chatflow.errors import ErrorCode, NotStored, Refused, Unavailable
from chatflow.lifecycle.clocks import WallTime
from chatflow.rooms.identifiers import derived_id, uuid7
from chatflow.rooms.messages import content
from chatflow.rooms.moderator import Moderator

_OVERLOADED = "the server has too many messages under way: send this one again later"
_ID_CONFLICT = "this user has sent another message to this room under the same clientMessageId: use another one"
_DRAINING: tuple[ErrorCode, str] = "draining", "the server is stopping: reconnect and send this message again"


_Sent = tuple[ISender, Accepted]


class Moment(NamedTuple):
    """A time by both clocks: that of durations, in seconds, and that of stamps, in microseconds since 1970."""

    seconds: float
    created_at_us: int


@define
class _Room:
    """Messages of a room that wait for its next envelope, oldest first."""

    waiting: deque[_Sent] = Factory(deque)
    waiting_bytes: int = 0
    publishing: bool = False
    #: While messages are gathered before the next envelope is made.
    gathering: IDelayedCall | None = None


class Ingress:
    """Where accepted messages enter. All of it runs on the reactor thread.

    :param now: for stamps and identifiers.
    :param queue: where envelopes go.
    :param max_pending_messages: accepted but unanswered messages; beyond them clients are refused (``overloaded``).
    :param observe: called once for each acknowledged envelope, with the seconds that its oldest message had waited for
        that.
    :ivar moderator: refuses whom operators have muted or banned.
    """

    _log = Logger()

    def __init__(
        self,
        *,
        clock: IReactorTime,
        now: WallTime,
        queue: IPublish,
        server_id: str,
        max_pending_messages: int,
        observe: Callable[[float], object] = lambda seconds: None,
    ) -> None:
        self._clock = clock
        self._now = now
        self._observe = observe
        self._queue = queue
        self._server_id = server_id
        self.moderator = Moderator()
        self.max_pending_messages = max_pending_messages
        self._rooms: dict[int, _Room] = {}
        #: Those that publish what waits at the end of this turn of the reactor.
        self._gathered: list[tuple[int, _Room]] = []
        #: Rooms that the queue has asked to wait.
        self._gathering: dict[int, _Room] = {}
        #: Why nothing is accepted.
        self._closed: tuple[ErrorCode, str] | None = None
        self._drained: list[Deferred[None]] = []
        self.pending = 0
        self.accepted = 0
        self.acknowledged = 0
        self.failed = 0
        self.envelopes = 0

    def moment(self) -> Moment:
        """Now."""
        return Moment(self._clock.seconds(), int(self._now() * 1e6))

    def accept(
        self,
        room: int,
        original: ClientMessage,
        sender: ISender,
        client_ip: str | None,
        moment: Moment | None = None,
    ) -> Message:
        """Take a message, which gets its id; its sender is answered through :class:`ISender` later.

        :param moment: when it came, if that is known: what is read together has one.
        :raises Refused: ``overloaded``, ``muted``, ``banned``, or why nothing is accepted; then the sender is not
            called.
        """
        if self._closed is not None:
            raise Refused(*self._closed)
        if self.pending >= self.max_pending_messages:
            raise Refused("overloaded", _OVERLOADED)
        if self.moderator.rules is not None:
            self.moderator.check_message(room, int(original.userId), client_ip)
        if moment is None:
            moment = self.moment()
        user_id, own_id = int(original.userId), original.clientMessageId or None
        message = Message(
            # A message that its client may repeat has the same id each time, whichever instance it reaches.
            _named_id(room, user_id, own_id, original) if own_id else uuid7(moment.created_at_us // 1000),
            moment.created_at_us,
            user_id,
            original.username,
            original.message,
            original.messageType,
            original.timestamp,
            client_ip,
            own_id,
        )
        self.pending += 1
        self.accepted += 1
        state = self._rooms.get(room)
        if state is None:
            state = self._rooms[room] = _Room()
        size = content_bytes(message)
        state.waiting.append((sender, Accepted(message, original, moment.seconds, size)))
        state.waiting_bytes += size
        if not state.publishing:
            state.publishing = True
            self._gather(room, state)
        elif state.gathering is not None and state.waiting_bytes >= MAX_CONTENT_BYTES:
            state.gathering.reset(0)
        return message

    def close(self, reason: str) -> None:
        """Accept nothing until :meth:`reopen`; what was accepted goes on."""
        if self._closed is None:
            self._closed = "unavailable", reason

    def reopen(self) -> None:
        """Accept messages again, unless this is draining."""
        if self._closed is not _DRAINING:
            self._closed = None

    def drain(self) -> Deferred[None]:
        """Accept nothing more. Fires when every accepted message is answered. May be cancelled."""
        self._closed = _DRAINING
        drained: Deferred[None] = Deferred(self._drained.remove)
        if self.pending:
            self._drained.append(drained)
        else:
            drained.callback(None)
        return drained

    def _gather(self, room: int, state: _Room) -> None:
        """Wait for what belongs into the same envelope: a turn of the reactor, or as long as the queue asks for."""
        full = state.waiting_bytes >= MAX_CONTENT_BYTES
        seconds = 0.0 if full else self._queue.wait_seconds(room)
        if seconds:
            self._gathering[room] = state
            state.gathering = self._clock.callLater(seconds, self._publish_due, room, state)
            return
        if not self._gathered:
            self._clock.callLater(0, self._publish_gathered)
        self._gathered.append((room, state))

    def _publish_due(self, room: int, state: _Room) -> None:
        """Publish a room whose time has come, and with it all others of which that is true: they share a commit."""
        self._publish(room, state)
        for other in [other for other in self._gathering if not self._queue.wait_seconds(other)]:
            its = self._gathering[other]
            assert its.gathering is not None
            its.gathering.cancel()
            self._publish(other, its)

    def _publish_gathered(self) -> None:
        gathered, self._gathered = self._gathered, []
        for room, state in gathered:
            self._publish(room, state)

    def _publish(self, room: int, state: _Room) -> None:
        if state.gathering is not None:
            state.gathering = None
            del self._gathering[room]
        batch = _take(state)
        envelope_id = uuid7(int(self._now() * 1e3))
        self.envelopes += 1
        try:
            published: Deferred[Any] = self._queue.publish(
                Envelope(envelope_id, room, self._server_id, tuple([accepted.message for _, accepted in batch]))
            )
        except Exception:
            published = fail()
        published.addErrback(self._not_published, envelope_id)
        published.addCallback(self._published, room, state, batch)
        published.addErrback(lambda failure: self._log.failure("publishing in room {room} failed", failure, room=room))

    def _not_published(self, failure: Failure, envelope_id: str) -> Refused:
        if failure.check(NotStored):
            return Refused("not_stored", "the database refused this message: it was set aside for the operator")
        if failure.check(Unavailable):
            return Refused("unavailable", "the server cannot store messages now: send this one again later")
        self._log.failure("envelope {envelope_id} was not published", failure, envelope_id=envelope_id)
        return Refused("internal_error", "the server failed on this message")

    def _published(
        self, result: Sequence[int] | Refused | None, room: int, state: _Room, batch: Sequence[_Sent]
    ) -> None:
        """:param result: the positions of conflicts, if any; or why nothing of the batch is stored."""
        try:
            if isinstance(result, Refused):
                self._answer(batch, result)
                return
            if result:
                conflicts = [batch[at] for at in result]
                self._answer(conflicts, Refused("id_conflict", _ID_CONFLICT, "clientMessageId"))
                batch = [one for at, one in enumerate(batch) if at not in result]
            if batch:
                self._answer(batch, None)
        finally:
            if state.waiting:
                self._gather(room, state)
            else:
                state.publishing = False

    def _answer(self, batch: Sequence[_Sent], refused: Refused | None) -> None:
        by_sender: dict[ISender, list[Accepted]] = {}
        for sender, accepted in batch:
            by_sender.setdefault(sender, []).append(accepted)
        for sender, own in by_sender.items():
            if refused is None:
                sender.acknowledge(own)
            else:
                sender.refuse(refused, len(own))
        self.pending -= len(batch)
        if refused is None:
            self.acknowledged += len(batch)
            self._observe(self._clock.seconds() - batch[0][1].at)
        else:
            self.failed += len(batch)
        if not self.pending:
            drained, self._drained = self._drained, []
            for deferred in drained:
                deferred.callback(None)


def _named_id(room: int, user_id: int, own_id: str, original: ClientMessage) -> str:
    return derived_id(room, user_id, own_id, content(original.username, original.messageType, original.message))


def _take(state: _Room) -> list[_Sent]:
    """The room's oldest messages that fit one envelope, removed from those that wait; at least one."""
    taken: list[_Sent] = []
    taken_bytes = 0
    while state.waiting:
        message_bytes = state.waiting[0][1].content_bytes
        if taken and taken_bytes + message_bytes > MAX_CONTENT_BYTES:
            break
        taken_bytes += message_bytes
        taken.append(state.waiting.popleft())
    state.waiting_bytes -= taken_bytes
    return taken
