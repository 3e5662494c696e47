"""The virtual clients of one process: connected together, put to work, settled, closed; phase after phase."""

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
from chatflow.load.client import LoadClient
from chatflow.load.client_session import Session
from chatflow.load.connection import LoadConnection
from chatflow.load.interfaces import Bounds, CannotOpen, ILoadClient, ILoadWorker, Progress
from chatflow.load.output import CannotWrite, KeptAcks, write_part
from chatflow.load.phase import RunningPhase
from chatflow.load.recorder import Recorder
from chatflow.load.returning import ReturningClient
from chatflow.load.roomlog import RoomLog
from chatflow.load.scenario import MAIN, Phase, Schedule, Settings, VirtualClient, kinds, phases
from chatflow.load.tally import PhaseTally
from chatflow.load.wall_clock import Clock
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


@implementer(ILoadWorker)
class LoadWorker:
    """:param reactor: opens connections and keeps time (IReactorTime, IReactorTCP, IReactorPluggableNameResolver).
    :param index: this process's, from 0.
    """

    def __init__(self, reactor: Any, settings: Settings, index: int, clock: Clock) -> None:
        self._reactor = reactor
        self._settings = settings
        self._index = index
        self._clock = clock
        self._kinds = kinds(settings.mix)
        self._open: RunningPhase | None = None

    @property
    def progress(self) -> Progress:
        if self._open is None:
            return Progress()
        tally = self._open.recorder.tally
        return Progress(tally.sent, tally.acked, tally.delivered)

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
    def _opened(self) -> RunningPhase:
        if self._open is None:
            raise RuntimeError("no phase is open")
        return self._open

    async def _open_all(self, phase: Phase) -> None:
        kept = KeptAcks(ids=self._settings.keep_ids, lines=self._settings.output is not None and phase.name == MAIN)
        recorder = Recorder(phase.name, self._clock, self._kinds, kept)
        ours = phase.of_process(self._index)
        members: dict[int, list[VirtualClient]] = {client.room: [] for client in ours}
        for client in phase.clients:
            if client.room in members:
                members[client.room].append(client)
        first, run = phase.clients[0].number, self._settings.run
        logs = {
            room: RoomLog(room, run, of_room, first, self._kinds, recorder.tally) for room, of_room in members.items()
        }
        clients = [
            self._client(Session(client, self._settings, logs[client.room], recorder, self._kinds)) for client in ours
        ]
        self._open = RunningPhase(phase, recorder, logs, clients)
        await self._connect(self._open)

    def _client(self, session: Session) -> ILoadClient:
        every_seconds = self._settings.reconnect
        if every_seconds is None:
            return LoadClient(session, self._reach)
        return ReturningClient(session, self._settings, every_seconds, self._reach, self._reactor)

    def _reach(self, connection: LoadConnection) -> Deferred[Any]:
        return self._endpoint(connection.address).connect(_OneConnection(connection))

    async def _connect(self, running: RunningPhase) -> None:
        to_connect = iter(running.clients)

        async def connect_some() -> None:
            for client in to_connect:
                await self._connect_one(client)

        attempts = [Deferred.fromCoroutine(connect_some()) for _ in range(_OPENING_AT_ONCE)]
        try:
            await gatherResults(attempts, consumeErrors=True)
        except FirstError as first:
            for attempt in attempts:
                attempt.cancel()
            running.abort()
            self._open = None
            first.subFailure.raiseException()

    async def _connect_one(self, client: ILoadClient) -> None:
        try:
            await client.connect()
            await client.opened.addTimeout(self._settings.timeout_seconds, self._reactor)
        except Exception as error:
            client.abort()
            url, room = client.session.client.url, client.session.client.room
            why = "no answer to the handshake" if isinstance(error, TookTooLong) else str(error) or repr(error)
            where = f"{mask_password(url)}, room {room}"
            raise CannotOpen(f"cannot connect to {where}: {without_passwords(why, url)}") from error

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

    async def _work(self, running: RunningPhase, start_us: int) -> Bounds:
        await deferLater(self._reactor, max(0.0, (start_us - self._clock.monotonic_us()) / 1e6))
        running.begin(start_us)
        rate = self._settings.rate
        schedule = None if rate is None else self._follow_schedule(running, start_us, rate)
        if schedule is None:
            for client in running.clients:
                client.send()
        try:
            if not await self._until(running.unanswered, running.is_servers_turn):
                running.recorder.no_progress(
                    self._settings.timeout_seconds,
                    f"messages waiting for an answer: {running.waiting()},"
                    f" for their broadcast: {running.never_broadcast()}",
                )
        finally:
            if schedule is not None:
                schedule.stop()
        return running.bounds()

    def _follow_schedule(self, running: RunningPhase, start_us: int, rate: float) -> LoopingCall | None:
        senders = [client for client in running.clients if client.session.client.messages]
        ours = sum(sender.session.client.messages for sender in senders)
        if not ours:
            return None
        schedule = Schedule(start_us, rate * ours / running.phase.messages, ours)

        def tick() -> None:
            turn = schedule.issued
            touched = set()
            for intended_us in schedule.due(self._clock.monotonic_us()):
                sender = senders[turn % len(senders)]
                sender.session.due(intended_us)
                touched.add(sender)
                turn += 1
            for sender in touched:
                sender.send()

        call = LoopingCall(tick)
        call.clock = self._reactor
        call.start(_TICK_SECONDS)
        return call

    async def _settle(self, running: RunningPhase, bounds: Bounds) -> PhaseTally:
        if not await self._until(lambda: running.behind(bounds), lambda: True):
            running.recorder.no_progress(
                self._settings.timeout_seconds, f"deliveries to come: {running.behind(bounds)}"
            )
        # What is delivered twice may come the second time when all is there.
        await deferLater(self._reactor, min(_LINGER_SECONDS, self._settings.timeout_seconds / 5))
        return await self._finish(running, bounds)

    async def _stop(self) -> PhaseTally | None:
        if self._open is None:
            return None
        running = self._open
        if not running.recorder.tally.start_us:  # not all connections are open
            running.abort()
            self._open = None
            return None
        return await self._finish(running, running.bounds())

    async def _finish(self, running: RunningPhase, bounds: Bounds) -> PhaseTally:
        tally = running.finish(bounds)
        if self._settings.output is not None and running.phase.name == MAIN:
            lines = running.recorder.kept.lines(self._kinds, self._clock, running.unanswered_rows())
            try:
                write_part(self._settings.output, self._index, lines)
            except CannotWrite as error:
                tally.causes.append(str(error))
        self._open = None
        for client in running.clients:
            client.close()
        gone = DeferredList([client.closed for client in running.clients], consumeErrors=True)
        await gone.addTimeout(_GOODBYE_SECONDS, self._reactor, onTimeoutCancel=lambda *_: running.abort())
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
