"""The connections of one process: opened together, put to work, settled, closed; phase after phase."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, DeferredList, FirstError, gatherResults, succeed
from twisted.internet.defer import TimeoutError as TookTooLong
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.interfaces import IAddress, IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.internet.task import LoopingCall, deferLater
from zope.interface import implementer

from chatflow.load import wire
from chatflow.load.client import Counts, LoadConnection
from chatflow.load.clock import Clock
from chatflow.load.interfaces import Bounds, CannotOpen, ICrew, Progress
from chatflow.load.output import CannotWrite, KeptAcks, write_part
from chatflow.load.returning import ReturningConnection
from chatflow.load.roomlog import RoomLog
from chatflow.load.scenario import MAIN, Phase, Schedule, Seat, Settings, kinds, phases
from chatflow.load.shift import Shift
from chatflow.load.verify import PhaseTally
from chatflow.passwords import mask_password, without_passwords

# How many handshakes at once: a listener's backlog is often 50, and a SYN that finds it full is repeated 1 s later.
_OPENING_AT_ONCE = 32
_POLL_SECONDS = 0.02
_TICK_SECONDS = 0.001
_GOODBYE_SECONDS = 2.0
_LINGER_SECONDS = 0.2


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
        self._open: Shift | None = None

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
    def _opened(self) -> Shift:
        if self._open is None:
            raise RuntimeError("no phase is open")
        return self._open

    async def _open_all(self, phase: Phase) -> None:
        counts = Counts()
        seats = phase.of_process(self._index)
        kept = KeptAcks(ids=self._settings.keep_ids, lines=bool(self._settings.output) and phase.name == MAIN)
        members: dict[int, list[Seat]] = {seat.room: [] for seat in seats}
        for seat in phase.seats:
            if seat.room in members:
                members[seat.room].append(seat)
        first_seat = phase.seats[0].number
        logs = {
            room: RoomLog(room, self._settings.run, of_room, first_seat, self._kinds)
            for room, of_room in members.items()
        }
        connections = [
            self._connection(seat, self._settings, logs[seat.room], counts, self._clock, self._kinds, kept)
            for seat in seats
        ]
        self._open = Shift(phase, counts, kept, logs, connections)
        await self._connect(self._open)

    def _connection(self, *args: Any) -> LoadConnection:
        if not self._settings.reconnect:
            return LoadConnection(*args)
        return ReturningConnection(*args, reactor=self._reactor, connect=self._reach)

    def _reach(self, connection: LoadConnection) -> Deferred[Any]:
        return self._endpoint(connection.address).connect(_OneConnection(connection))

    async def _connect(self, shift: Shift) -> None:
        to_open = iter(shift.connections)

        async def connect_some() -> None:
            for connection in to_open:
                await self._connect_one(connection)

        attempts = [Deferred.fromCoroutine(connect_some()) for _ in range(_OPENING_AT_ONCE)]
        try:
            await gatherResults(attempts, consumeErrors=True)
        except FirstError as first:
            for attempt in attempts:
                attempt.cancel()
            shift.abort()
            self._open = None
            first.subFailure.raiseException()

    async def _connect_one(self, connection: LoadConnection) -> None:
        seat = connection.seat
        try:
            await self._reach(connection)
            await connection.opened.addTimeout(self._settings.timeout_seconds, self._reactor)
        except Exception as error:
            connection.abort()
            why = "no answer to the handshake" if isinstance(error, TookTooLong) else str(error) or repr(error)
            where = f"{mask_password(seat.url)}, room {seat.room}"
            raise CannotOpen(f"cannot connect to {where}: {without_passwords(why, seat.url)}") from error

    def _endpoint(self, address: wire.Address) -> IStreamClientEndpoint:
        endpoint: IStreamClientEndpoint = HostnameEndpoint(
            self._reactor, address.host, address.port, self._settings.timeout_seconds
        )
        if address.secure:
            # Needed for wss:// only. Whom to trust, OpenSSL's SSL_CERT_FILE says.
            try:
                from twisted.internet.ssl import optionsForClientTLS
            except ImportError as error:
                raise CannotOpen(f"wss:// needs more packages, pip install 'twisted[tls]': {error}") from error

            endpoint = wrapClientTLS(optionsForClientTLS(address.host), endpoint)
        return endpoint

    async def _work(self, shift: Shift, start_us: int) -> Bounds:
        await deferLater(self._reactor, max(0.0, (start_us - self._clock.monotonic_us()) / 1e6))
        shift.begin(start_us)
        schedule = self._follow_schedule(shift, start_us) if self._settings.rate else None
        if schedule is None:
            for connection in shift.connections:
                connection.send()
        try:
            if not await self._until(shift.unanswered, shift.is_servers_turn):
                shift.counts.causes.append(
                    f"no progress for {self._settings.timeout_seconds:g} s; messages waiting for an answer:"
                    f" {shift.waiting()}, for their broadcast: {shift.never_broadcast()}"
                )
        finally:
            if schedule is not None:
                schedule.stop()
        return shift.bounds()

    def _follow_schedule(self, shift: Shift, start_us: int) -> LoopingCall | None:
        senders = [connection for connection in shift.connections if connection.seat.messages]
        ours = sum(connection.seat.messages for connection in senders)
        if not ours:
            return None
        schedule = Schedule(start_us, self._settings.rate * ours / shift.phase.messages, ours)

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

    async def _settle(self, shift: Shift, bounds: Bounds) -> PhaseTally:
        if not await self._until(lambda: shift.behind(bounds), lambda: True):
            shift.counts.causes.append(
                f"no progress for {self._settings.timeout_seconds:g} s; deliveries to come: {shift.behind(bounds)}"
            )
        # What is delivered twice may come the second time when all is there.
        await deferLater(self._reactor, min(_LINGER_SECONDS, self._settings.timeout_seconds / 5))
        return await self._finish(shift, bounds)

    async def _stop(self) -> PhaseTally | None:
        if self._open is None:
            return None
        shift = self._open
        if not shift.counts.start_us:  # not all connections are open
            shift.abort()
            self._open = None
            return None
        return await self._finish(shift, shift.bounds())

    async def _finish(self, shift: Shift, bounds: Bounds) -> PhaseTally:
        tally = shift.tally(bounds, self._kinds)
        if self._settings.output and shift.phase.name == MAIN:
            lines = shift.kept.lines(self._kinds, self._clock, shift.unanswered_rows())
            try:
                write_part(self._settings.output, self._index, lines)
            except CannotWrite as error:
                tally.causes.append(str(error))
        self._open = None
        for connection in shift.connections:
            connection.close()
        gone = DeferredList([connection.closed for connection in shift.connections], consumeErrors=True)
        await gone.addTimeout(_GOODBYE_SECONDS, self._reactor, onTimeoutCancel=lambda *_: shift.abort())
        return tally

    async def _until(self, remaining: Callable[[], int], is_servers_turn: Callable[[], bool]) -> bool:
        """Wait until nothing remains: True; or until what remains has not changed for too long: False.

        :param is_servers_turn: whether there is anything to wait for, but the clock.
        """
        clock = self._reactor
        before, since = remaining(), clock.seconds()
        while before:
            await deferLater(clock, _POLL_SECONDS)
            now = remaining()
            if now != before or not is_servers_turn():
                before, since = now, clock.seconds()
            elif clock.seconds() - since > self._settings.timeout_seconds:
                return False
        return True
