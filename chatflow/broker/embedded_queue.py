"""The room queue and fan-out of a daemon that runs alone: in this process, durable through the database.

An envelope counts as published when it is committed, since nothing outlives this process but PostgreSQL. So
``publish`` fires with the consumer's ``done``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from attrs import Factory, define
from twisted.internet.defer import Deferred, succeed
from zope.interface import implementer

from chatflow.contracts.envelopes import Envelope
from chatflow.contracts.fanout import IFanout
from chatflow.contracts.messages import StoredMessage
from chatflow.contracts.room_queue import Delivery, IRoomQueue
from chatflow.errors import NotStored, Unavailable

_MAX_DELIVERIES = 10


@define
class _Room:
    #: Envelopes in order; the first ``held`` of them are with the consumer.
    envelopes: deque[Envelope] = Factory(deque)
    held: int = 0
    receiver: Deferred[Sequence[Delivery]] | None = None


@implementer(IRoomQueue)
class EmbeddedRoomQueue:
    """One shard per room. Runs on the reactor thread.

    :param rooms: how many rooms there are, numbered from 1.
    :param until_commit_seconds: until the next commit should begin. What a room gathers until then is one envelope of
        it; envelopes made earlier would only wait, and what came after them would wait for the commit after that.
    """

    def __init__(self, rooms: int, until_commit_seconds: Callable[[], float] = lambda: 0.0) -> None:
        self.shards = range(1, rooms + 1)
        self._rooms = {room: _Room() for room in self.shards}
        self._until_commit_seconds = until_commit_seconds
        self._published: dict[str, list[Deferred[Sequence[int]]]] = {}
        self._closed = False

    def publish(self, envelope: Envelope) -> Deferred[Sequence[int]]:
        """See :class:`IRoomQueue`. The same id while the first is under way waits for the same commit."""
        result: Deferred[Sequence[int]] = Deferred()
        if self._closed:
            result.errback(Unavailable("the room queue is closed"))
            return result
        waiting = self._published.setdefault(envelope.envelope_id, [])
        waiting.append(result)
        if len(waiting) == 1:
            room = self._rooms[envelope.room]
            room.envelopes.append(envelope)
            self._hand_over(room)
        return result

    def wait_seconds(self, room: int) -> float:
        """See :class:`IPublish`. What is scarce here is commits."""
        return self._until_commit_seconds()

    def receive(self, shard: object) -> Deferred[Sequence[Delivery]]:
        """See :class:`IRoomQueue`. One receiver per shard at a time."""
        room = self._rooms[shard]  # type: ignore[index]
        if room.receiver is not None:
            raise RuntimeError(f"shard {shard} has a receiver already")

        def forget(_: object) -> None:
            room.receiver = None

        receiver: Deferred[Sequence[Delivery]] = Deferred(forget)
        room.receiver = receiver
        self._hand_over(room)
        return receiver

    def shard_rooms(self, shard: object) -> Sequence[int]:
        """See :class:`IRoomQueue`."""
        assert isinstance(shard, int)
        return (shard,)

    def are_leased(self, deliveries: Sequence[Delivery]) -> bool:
        """See :class:`IRoomQueue`. There is nobody else."""
        return True

    def renew(self, deliveries: Sequence[Delivery]) -> Deferred[None]:
        """See :class:`IRoomQueue`. Nothing is in doubt."""
        return succeed(None)

    def ack(self, deliveries: Sequence[Delivery]) -> Deferred[None]:
        """See :class:`IRoomQueue`."""
        for delivery in deliveries:
            self._settle(delivery.envelope, delivery.conflicts)
        return succeed(None)

    def reject(self, delivery: Delivery, reason: NotStored) -> Deferred[None]:
        """See :class:`IRoomQueue`. The publisher is told."""
        self._settle(delivery.envelope, reason)
        return succeed(None)

    def nack(self, deliveries: Sequence[Delivery]) -> Deferred[None]:
        """See :class:`IRoomQueue`."""
        for room in {delivery.envelope.room for delivery in deliveries}:
            self._rooms[room].held = 0
            self._hand_over(self._rooms[room])
        return succeed(None)

    def backlog(self, room: int) -> int:
        """How many envelopes of a room are not settled."""
        return len(self._rooms[room].envelopes)

    def close(self) -> None:
        """Refuse further envelopes, and those that are not settled."""
        self._closed = True
        published, self._published = self._published, {}
        for waiting in published.values():
            for deferred in waiting:
                deferred.errback(Unavailable("the room queue was closed"))

    def _hand_over(self, room: _Room) -> None:
        if room.receiver is None or room.held or not room.envelopes:
            return
        receiver, room.receiver = room.receiver, None
        held = [Delivery(envelope) for envelope, _ in zip(room.envelopes, range(_MAX_DELIVERIES), strict=False)]
        room.held = len(held)
        receiver.callback(held)

    def _settle(self, envelope: Envelope, result: NotStored | Sequence[int]) -> None:
        room = self._rooms[envelope.room]
        if envelope not in room.envelopes:
            return
        room.envelopes.remove(envelope)
        room.held -= 1
        for deferred in self._published.pop(envelope.envelope_id, ()):
            if isinstance(result, NotStored):
                deferred.errback(result)
            else:
                deferred.callback(result)
        self._hand_over(room)


@implementer(IFanout)
class NoFanout:
    """There are no other instances to tell."""

    def publish(self, messages: Sequence[StoredMessage]) -> Deferred[None]:
        """See :class:`IFanout`."""
        return succeed(None)
