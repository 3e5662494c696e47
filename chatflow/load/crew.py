"""The connections of one process: opened together, put to work, settled, closed; phase after phase."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import attrs
import msgspec
from twisted.internet.defer import Deferred, DeferredList, FirstError, gatherResults, succeed
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.interfaces import IAddress, IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.internet.task import LoopingCall, deferLater
from zope.interface import Attribute, Interface, implementer

from chatflow.errors import ChatFlowError
from chatflow.load import wire
from chatflow.load.client import Counts, LoadConnection
from chatflow.load.clock import Clock, processor_seconds
from chatflow.load.output import KeptAcks, part_path
from chatflow.load.roomlog import RoomLog
from chatflow.load.scenario import MAIN, Phase, Schedule, Settings, kinds, phases
from chatflow.load.verify import PhaseTally

# How many handshakes at once: a listener's backlog is often 50, and a SYN that finds it full is repeated 1 s later.
_OPENING_AT_ONCE = 32
_POLL_SECONDS = 0.02
_TICK_SECONDS = 0.001
_GOODBYE_SECONDS = 2.0

Bounds = dict[int, tuple[int, int]]
"""Of each room the first and the last seq of the phase's messages."""


class CannotOpen(ChatFlowError):
    """A connection could not be opened. The text is one line: where, and why."""


class Progress(msgspec.Struct):
    """How far a process is in its phase."""

    sent: int = 0
    acked: int = 0
    delivered: int = 0


class ICrew(Interface):
    """The connections of one process. The four methods are called in this order for each phase."""

    progress: Progress = Attribute("how far it is")

    def open(phase: int) -> Deferred[None]:
        """Open all connections of the phase with that index.

        Fires when all handshakes are done; fails with :class:`CannotOpen` when one cannot be, all others then being
        closed again.
        """

    def work(start_us: int) -> Deferred[Bounds]:
        """Begin at that CLOCK_MONOTONIC to send.

        Fires when all messages are answered, and all acknowledged ones have been seen in their rooms, or when there
        was no progress for too long, with the bounds as far as this process knows them. It does not fail.
        """

    def settle(bounds: Bounds) -> Deferred[PhaseTally]:
        """Wait until every connection has received its room's last message, then close all.

        Fires with the tally then, or when there was no progress for too long. It does not fail.
        """

    def stop() -> Deferred[PhaseTally | None]:
        """Give up: close all now. Fires with the tally as far as it goes, or None if no phase was open."""

    def close() -> Deferred[None]:
        """No more phases. Fires when whatever the crew ran in is gone; it does not fail."""


def merge_bounds(parts: list[Bounds]) -> Bounds:
    """The bounds as all processes together know them."""
    whole: Bounds = {}
    for part in parts:
        for room, (first, last) in part.items():
            low, high = whole.get(room, (first, last))
            whole[room] = min(low, first), max(high, last)
    return whole


class _OneConnection(Factory):
    noisy = False

    def __init__(self, connection: LoadConnection) -> None:
        self._connection = connection

    def buildProtocol(self, addr: IAddress | None) -> LoadConnection:
        return self._connection


@implementer(ICrew)
class Crew:
    """:param reactor: opens connections and keeps time (IReactorTime, IReactorTCP, IReactorPluggableNameResolver).
    :param index: this process's, from 0.
    """

    def __init__(self, reactor: Any, settings: Settings, index: int, clock: Clock) -> None:
        self._reactor = reactor
        self._settings = settings
        self._index = index
        self._clock = clock
        self._kinds = kinds(settings.mix)
        self._open: _OpenPhase | None = None

    @property
    def progress(self) -> Progress:
        if self._open is None:
            return Progress()
        sent = sum(connection.ledger.sent for connection in self._open.connections)
        return Progress(sent, self._open.counts.acked, self._open.counts.delivered)

    def open(self, phase: int) -> Deferred[None]:
        return Deferred.fromCoroutine(self._open_all(phases(self._settings)[phase]))

    def work(self, start_us: int) -> Deferred[Bounds]:
        return Deferred.fromCoroutine(self._work(self._opened, start_us))

    def settle(self, bounds: Bounds) -> Deferred[PhaseTally]:
        return Deferred.fromCoroutine(self._settle(self._opened, bounds))

    def stop(self) -> Deferred[PhaseTally | None]:
        return Deferred.fromCoroutine(self._stop())

    def close(self) -> Deferred[None]:
        return succeed(None)

    @property
    def _opened(self) -> _OpenPhase:
        if self._open is None:
            raise RuntimeError("no phase is open")
        return self._open

    async def _open_all(self, phase: Phase) -> None:
        counts = Counts()
        seats = phase.of_process(self._index, self._settings.processes)
        kept = KeptAcks(ids=self._settings.keep_ids, lines=bool(self._settings.output) and phase.name == MAIN)
        logs = {}
        for room in {seat.room for seat in seats}:
            members = [seat for seat in phase.seats if seat.room == room]
            logs[room] = RoomLog(room, self._settings.run, members, self._kinds)
        connections = [
            LoadConnection(seat, self._settings, logs[seat.room], counts, self._clock, self._kinds, kept)
            for seat in seats
        ]
        self._open = _OpenPhase(phase, counts, kept, logs, connections)
        await self._connect(self._open)

    async def _connect(self, phase: _OpenPhase) -> None:
        to_open = iter(phase.connections)

        async def connect_some() -> None:
            for connection in to_open:
                await self._connect_one(connection)

        attempts = [Deferred.fromCoroutine(connect_some()) for _ in range(_OPENING_AT_ONCE)]
        try:
            await gatherResults(attempts, consumeErrors=True)
        except FirstError as first:
            for attempt in attempts:
                attempt.cancel()
            phase.abort()
            self._open = None
            first.subFailure.raiseException()

    async def _connect_one(self, connection: LoadConnection) -> None:
        seat = connection.seat
        address = wire.parse_url(seat.url, seat.room)
        try:
            await self._endpoint(address).connect(_OneConnection(connection))
            await connection.opened.addTimeout(self._settings.timeout_seconds, self._reactor)
        except Exception as error:
            connection.abort()
            why = str(error) or type(error).__name__
            raise CannotOpen(f"cannot connect to {seat.url}, room {seat.room}: {why}") from error

    def _endpoint(self, address: wire.Address) -> IStreamClientEndpoint:
        endpoint: IStreamClientEndpoint = HostnameEndpoint(
            self._reactor, address.host.encode("idna"), address.port, self._settings.timeout_seconds
        )
        if address.secure:
            # pyOpenSSL is needed for wss:// only. Whom to trust, OpenSSL's SSL_CERT_FILE says.
            from twisted.internet.ssl import optionsForClientTLS

            endpoint = wrapClientTLS(optionsForClientTLS(address.host), endpoint)
        return endpoint

    async def _work(self, phase: _OpenPhase, start_us: int) -> Bounds:
        await deferLater(self._reactor, max(0.0, (start_us - self._clock.monotonic_us()) / 1e6))
        phase.begin(start_us)
        schedule = self._follow_schedule(phase, start_us) if self._settings.rate else None
        if schedule is None:
            for connection in phase.connections:
                connection.send()
        try:
            if not await self._until(phase.unanswered, phase.waiting):
                phase.counts.causes.append(
                    f"no progress for {self._settings.timeout_seconds:g} s, with {phase.waiting()} messages waiting"
                    f" for an answer and {phase.never_broadcast()} for their broadcast"
                )
        finally:
            if schedule is not None:
                schedule.stop()
        return phase.bounds()

    def _follow_schedule(self, phase: _OpenPhase, start_us: int) -> LoopingCall | None:
        senders = [connection for connection in phase.connections if connection.seat.messages]
        ours = sum(connection.seat.messages for connection in senders)
        if not ours:
            return None
        schedule = Schedule(start_us, self._settings.rate * ours / phase.phase.messages, ours)

        def tick() -> None:
            turn = schedule.issued
            touched = set()
            for intended_us in schedule.due(self._clock.monotonic_us()):
                sender = senders[turn % len(senders)]
                sender.due(intended_us)
                touched.add(sender)
                turn += 1
            for sender in touched:
                sender.send()

        call = LoopingCall(tick)
        call.clock = self._reactor
        call.start(_TICK_SECONDS)
        return call

    async def _settle(self, phase: _OpenPhase, bounds: Bounds) -> PhaseTally:
        if not await self._until(lambda: phase.behind(bounds), lambda: True):
            phase.counts.causes.append(
                f"no progress for {self._settings.timeout_seconds:g} s, with {phase.behind(bounds)} deliveries to come"
            )
        return await self._finish(phase, bounds)

    async def _stop(self) -> PhaseTally | None:
        if self._open is None:
            return None
        phase = self._open
        if not phase.counts.start_us:  # not all connections are open
            phase.abort()
            self._open = None
            return None
        return await self._finish(phase, phase.bounds())

    async def _finish(self, phase: _OpenPhase, bounds: Bounds) -> PhaseTally:
        tally = phase.tally(bounds, self._kinds)
        if self._settings.output and phase.phase.name == MAIN:
            with part_path(self._settings.output, self._index).open("w", encoding="ascii") as part:
                part.writelines(phase.kept.lines(self._kinds, self._clock, phase.unanswered_rows()))
        self._open = None
        for connection in phase.connections:
            connection.close()
        gone = DeferredList([connection.closed for connection in phase.connections])
        await gone.addTimeout(_GOODBYE_SECONDS, self._reactor, onTimeoutCancel=lambda *_: phase.abort())
        return tally

    async def _until(self, remaining: Callable[[], int], waiting: Callable[[], Any]) -> bool:
        """Wait until nothing remains: True; or until what remains has not changed for too long: False.

        :param waiting: whether it is the server's turn.
        """
        clock = self._reactor
        before, since = remaining(), clock.seconds()
        while before:
            await deferLater(clock, _POLL_SECONDS)
            now = remaining()
            if now != before or not waiting():
                before, since = now, clock.seconds()
            elif clock.seconds() - since > self._settings.timeout_seconds:
                return False
        return True


@attrs.define
class _OpenPhase:
    """A phase under way in this process."""

    phase: Phase
    counts: Counts
    kept: KeptAcks
    logs: Mapping[int, RoomLog]
    connections: list[LoadConnection]
    _used: tuple[float, float] = (0.0, 0.0)

    def begin(self, start_us: int) -> None:
        self.counts.start_us = self.counts.progress_us = start_us
        self._used = processor_seconds()

    def waiting(self) -> int:
        """How many messages are sent but not answered, on living connections."""
        return sum(connection.ledger.waiting for connection in self.connections if not connection.lost)

    def never_broadcast(self) -> int:
        return sum(connection.ledger.never_broadcast() for connection in self.connections)

    def unanswered(self) -> int:
        """What :meth:`ICrew.work` waits for: answers, then broadcasts."""
        return self.counts.owed or sum(c.ledger.never_broadcast() for c in self.connections if not c.lost)

    def behind(self, bounds: Bounds) -> int:
        """How many deliveries are to come, if there are no holes."""
        return sum(
            max(0, last + 1 - max(connection.arrivals.next, first))
            for connection in self.connections
            if not connection.lost
            for first, last in [bounds.get(connection.seat.room, (0, -1))]
        )

    def bounds(self) -> Bounds:
        return {room: (log.first, log.last) for room, log in self.logs.items() if log.last}

    def unanswered_rows(self) -> list[tuple[int, int]]:
        return [
            (sent_us, connection.seat.room)
            for connection in self.connections
            for sent_us in connection.ledger.in_flight.values()
        ]

    def abort(self) -> None:
        for connection in self.connections:
            connection.abort()

    def tally(self, bounds: Bounds, kinds: list[Any]) -> PhaseTally:
        """What was counted and what follows from it."""
        counts = self.counts
        cpu, waited = (now - then for now, then in zip(processor_seconds(), self._used, strict=True))
        tally = PhaseTally(
            name=self.phase.name,
            connections=len(self.connections),
            messages=sum(connection.seat.messages for connection in self.connections),
            acked=counts.acked,
            connections_lost=counts.lost,
            unexpected_frames=counts.unexpected_frames,
            start_us=counts.start_us,
            end_us=counts.progress_us,
            cpu_seconds=[cpu],
            waited_seconds=[waited],
            refusals=dict(counts.refusals),
            acked_in_second=dict(counts.acked_in_second),
            delivered_in_second=dict(counts.delivered_in_second),
            ack_ticks=dict(counts.ack_ticks),
            delivery_ticks=dict(counts.delivery_ticks),
            causes=counts.causes,
        )
        for connection in self.connections:
            ledger, arrivals, room = connection.ledger, connection.arrivals, connection.seat.room
            tally.sent += ledger.sent
            tally.refused += ledger.refused
            tally.failed += ledger.waiting
            tally.unsent += connection.unsent
            tally.unexpected_acks += ledger.unexpected_acks
            tally.changed_ids += ledger.changed_ids
            tally.never_broadcast += ledger.never_broadcast()
            tally.duplicated += arrivals.duplicated
            tally.out_of_order += arrivals.out_of_order
            if room in bounds:
                expected, received = arrivals.judge(*bounds[room])
                tally.expected += expected
                tally.received += received
        for room, log in self.logs.items():
            tally.repeated += log.repeated * len(log.arrivals)
            tally.altered += log.altered
            tally.stray += log.stray
            tally.conflicting += log.conflicting
            tally.foreign += log.foreign
            ids = bytes(self.kept.ids[room]) if room in self.kept.ids else b""
            tally.rooms[room] = log.tally(*bounds.get(room, (0, 0)), ids)
        for kind, count in counts.kinds.items():
            name = kinds[kind].type
            tally.types[name] = tally.types.get(name, 0) + count
        return tally
