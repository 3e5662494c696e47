"""Opening, working and settling of one process's connections, over loopback."""

from __future__ import annotations

import attrs
import pytest
from pytest_twisted import ensureDeferred
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from zope.interface.verify import verifyObject

from benchmarks.null_server import NullConnection, NullServer
from chatflow.load.interfaces import CannotOpen, ILoadWorker
from chatflow.load.remote import RemoteWorker
from chatflow.load.run import LoadRun, merge_bounds
from chatflow.load.scenario import phases
from chatflow.load.wall_clock import system_clock
from chatflow.load.worker import LoadWorker
from tests.load.running import SETTINGS, Listening, faults, reactor, run_against


class NeverShakes(NullServer):
    def response(self, accept: bytes) -> bytes:
        return b""


class RefusesTheFourth(NullServer):
    def response(self, accept: bytes) -> bytes:
        shaken = sum(bool(connection.room) for connection in self.connections)
        return b"HTTP/1.1 404 Not Found\r\n\r\n" if shaken == 3 else super().response(accept)


class NeverCloses(NullServer):
    """Does not answer the close frame."""

    def buildProtocol(self, addr: object) -> NullConnection:  # type: ignore[override]
        connection = super().buildProtocol(addr)
        connection.control_frame = lambda opcode, payload: None  # type: ignore[method-assign]
        return connection


class NeverAnswers(NullServer):
    def take(self, sender: NullConnection, messages: list[bytes]) -> None:
        self.received += len(messages)


@pytest.mark.parametrize(
    ("server", "complaint"),
    [
        (NeverShakes, "no answer to the handshake"),
        (RefusesTheFourth, "the server answered 'HTTP/1.1 404 Not Found' to the handshake"),
    ],
)
@ensureDeferred
async def test_one_connection_that_cannot_be_opened_ends_the_run(server: type[NullServer], complaint: str) -> None:
    outcome = await run_against(server, warmup_messages=0)  # when it returns, all others are closed again
    assert (outcome.verdict, outcome.phases) == ("fail", [])
    (cause,) = outcome.causes
    assert cause.startswith("cannot connect to ws://127.0.0.1:")
    assert complaint in cause


@ensureDeferred
async def test_no_more_connections_are_tried_once_one_has_failed() -> None:
    tried = []

    class Counts(RefusesTheFourth):
        def buildProtocol(self, addr: object) -> NullConnection:  # type: ignore[override]
            tried.append(addr)
            return super().buildProtocol(addr)

    await run_against(Counts, warmup_messages=0, connections=300)
    assert len(tried) < 100


@ensureDeferred
async def test_a_server_that_is_not_there() -> None:
    async with Listening(NullServer(reactor)) as url:
        pass
    settings = attrs.evolve(SETTINGS, urls=(url,))
    with pytest.raises(CannotOpen, match="refused"):
        await LoadWorker(reactor, settings, 0, system_clock()).open(0)


@ensureDeferred
async def test_all_are_open_before_the_first_message_is_sent() -> None:
    server = NullServer(reactor)
    async with Listening(server) as url:
        settings = attrs.evolve(SETTINGS, urls=(url,))
        worker = LoadWorker(reactor, settings, 0, system_clock())
        await worker.open(1)
        assert sum(bool(connection.room) for connection in server.connections) == 6
        assert server.received == 0
        await worker.stop()


@ensureDeferred
async def test_rooms_are_connected_to_as_the_scenario_says() -> None:
    server = NullServer(reactor)
    async with Listening(server) as url:
        settings = attrs.evolve(SETTINGS, urls=(url,), even_rooms=False, seed=4)
        worker = LoadWorker(reactor, settings, 0, system_clock())
        await worker.open(1)
        found = {room: len(members) for room, members in server.members.items()}
        rooms = [client.room for client in phases(settings)[1].clients]
        assert found == {str(room): rooms.count(room) for room in set(rooms)}
        await worker.stop()


@ensureDeferred
async def test_at_a_fixed_rate_each_message_is_sent_when_it_is_due() -> None:
    outcome = await run_against(NullServer, rate=1000.0, in_flight=1000)
    assert (outcome.verdict, faults(outcome)) == ("pass", {})
    main = outcome.phases[-1]
    assert main.acked == 120
    # The last of 120 messages is due 119 ms behind the first.
    assert main.end_us - main.start_us >= 119_000


@ensureDeferred
async def test_at_a_rate_below_one_message_per_timeout_nothing_times_out() -> None:
    outcome = await run_against(NullServer, rate=2.0, messages=2, warmup_messages=0, timeout_seconds=0.2)
    assert outcome.causes == []


@ensureDeferred
async def test_only_senders_send_and_all_receive() -> None:
    outcome = await run_against(NullServer, senders=2)
    assert outcome.verdict == "pass"
    assert outcome.phases[-1].received == 360


@ensureDeferred
async def test_a_server_that_never_closes_is_not_waited_for() -> None:
    outcome = await run_against(NeverCloses, warmup_messages=0)
    assert outcome.verdict == "pass"


@ensureDeferred
async def test_a_run_that_is_interrupted_tells_what_it_knows() -> None:
    server = NeverAnswers(reactor)
    async with Listening(server) as url:
        settings = attrs.evolve(SETTINGS, urls=(url,), warmup_messages=0, timeout_seconds=60.0)
        clock = system_clock()
        run = LoadRun(settings, [LoadWorker(reactor, settings, 0, clock)], clock, None)
        outcome = Deferred.fromCoroutine(run.run())
        while server.received < 30:
            await deferLater(reactor, 0.002)
        assert run.phase == "main"
        assert run.progress.sent == 30
        run.interrupt()
        told = await outcome
    assert told.verdict == "fail"
    assert told.causes[0] == "interrupted"
    assert (told.phases[0].sent, told.phases[0].failed, told.phases[0].unsent) == (30, 30, 90)


@ensureDeferred
async def test_a_run_may_be_interrupted_while_it_opens() -> None:
    server = NeverShakes(reactor)
    async with Listening(server) as url:
        settings = attrs.evolve(SETTINGS, urls=(url,), timeout_seconds=60.0)
        clock = system_clock()
        run = LoadRun(settings, [LoadWorker(reactor, settings, 0, clock)], clock, None)
        outcome = Deferred.fromCoroutine(run.run())
        while len(server.connections) < 2:
            await deferLater(reactor, 0.002)
        run.interrupt()
        told = await outcome
    assert (told.causes, told.phases) == (["interrupted"], [])


def test_both_load_workers_are_load_workers() -> None:
    verifyObject(ILoadWorker, LoadWorker(reactor, SETTINGS, 0, system_clock()))
    verifyObject(ILoadWorker, RemoteWorker(SETTINGS, 0, system_clock()))


def test_bounds_of_processes_are_the_widest() -> None:
    assert merge_bounds([{1: (3, 9), 2: (1, 1)}, {1: (2, 8), 3: (4, 5)}]) == {1: (2, 9), 2: (1, 1), 3: (4, 5)}
