"""Receive → writer → hub and fan-out → done, in each shard strictly one after the other.

A crash anywhere before *done* means redelivery, which changes nothing: the room's head remembers the envelope, and
only the head is announced again.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

from attrs import evolve
from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from chatflow.broker.holding import Holding
from chatflow.contracts.fanout import IFanout
from chatflow.contracts.messages import StoredMessage
from chatflow.contracts.room_queue import Delivery, IRoomQueue
from chatflow.contracts.writer import DeadLettered, Duplicate, IBatchWriter, LeaseLost, Stored
from chatflow.errors import Unavailable
from chatflow.lifecycle import Backoff
from chatflow.readings import Reading
from chatflow.rooms.hub import Hub

T = TypeVar("T")


class Consumer:
    """One worker per shard of the queue. Runs on the reactor thread.

    :param backoff: makes the pauses of one worker while the queue does not answer.
    """

    _log = Logger()

    def __init__(
        self,
        *,
        clock: IReactorTime,
        queue: IRoomQueue,
        writer: IBatchWriter,
        hub: Hub,
        fanout: IFanout,
        backoff: Callable[[], Backoff] = Backoff,
    ) -> None:
        self._clock = clock
        self._queue = queue
        self._writer = writer
        self._hub = hub
        self._fanout = fanout
        self._backoff = backoff
        self._waiting: set[Deferred[Any]] = set()
        self._workers: list[Deferred[None]] = []
        self.running = False
        self.processed = 0
        self.redelivered = 0
        self.set_aside = 0
        self.too_late = 0

    def start(self) -> None:
        """Begin to receive in every shard."""
        self.running = True
        self._workers = [Deferred.fromCoroutine(self._work(shard)) for shard in self._queue.shards]

    def readings(self) -> list[Reading]:
        """Counters of envelopes and messages, for Prometheus."""
        return [
            Reading("chatflow_envelopes_redelivered", "Stored before", lambda: self.redelivered),
            Reading("chatflow_envelopes_too_late", "No longer held", lambda: self.too_late),
        ]

    def stop(self) -> Deferred[Any]:
        """Receive nothing more. Fires when what is in hand is settled or given back."""
        self.running = False
        for waiting in tuple(self._waiting):
            waiting.cancel()
        return DeferredList(self._workers, consumeErrors=True)

    async def _work(self, shard: object) -> None:
        backoff = self._backoff()
        while self.running:
            try:
                await self._until_stop(self._writer.when_available())
                known = {room: self._hub.last_seq(room) for room in self._queue.shard_rooms(shard)}
                deliveries = await self._until_stop(self._queue.receive(shard))
                if deliveries:
                    await self._process(Holding(self._queue, deliveries, known))
                backoff.reset()
                continue
            except Unavailable as error:
                self._log.warn("shard {shard} pauses: {reason}", shard=shard, reason=str(error))
            except Exception as error:
                if isinstance(error, CancelledError) and not self.running:
                    return
                self._log.failure("shard {shard} failed and goes on", shard=shard)
            with suppress(CancelledError):
                await self._until_stop(deferLater(self._clock, backoff.next_delay_seconds()))

    async def _until_stop(self, waiting: Deferred[T]) -> T:
        """What it fires with. :meth:`stop` cancels it."""
        if not self.running:
            waiting.cancel()
        self._waiting.add(waiting)
        try:
            return await waiting
        finally:
            self._waiting.discard(waiting)

    async def _process(self, held: Holding) -> None:
        try:
            if held.needs_lease(self._hub.last_seq):
                await self._queue.renew(held.deliveries)
            await self._store_and_announce(held)
        except Exception:
            # All of them, since it is not known how far it came: the room's head knows what is stored.
            await self._queue.nack(held.deliveries)
            raise

    async def _store_and_announce(self, held: Holding) -> None:
        deliveries = held.deliveries
        outcomes = await self._writer.write([delivery.envelope for delivery in deliveries], held.may_be_stored)
        settled: list[Delivery] = []
        too_late: list[Delivery] = []
        published: list[StoredMessage] = []
        for delivery, outcome in zip(deliveries, outcomes, strict=True):
            if isinstance(outcome, Stored):
                messages = outcome.messages()
                self._hub.deliver(messages)
                published += messages
            elif isinstance(outcome, Duplicate):
                self.redelivered += 1
                self._hub.announce(outcome.room, outcome.head)
            elif isinstance(outcome, DeadLettered):
                self.set_aside += 1
                await self._queue.reject(delivery, outcome.reason)
                continue
            elif isinstance(outcome, LeaseLost):
                too_late.append(delivery)
                continue
            settled.append(evolve(delivery, conflicts=outcome.conflicts) if outcome.conflicts else delivery)
        if published:
            self.processed += len(published)
            await self._fanout.publish(published)
        await self._queue.ack(settled)
        if too_late:
            self.too_late += len(too_late)
            await self._queue.nack(too_late)
