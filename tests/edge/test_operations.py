"""Operations over HTTP: how many are worked on, whoever leaves meanwhile; and how a fault is answered."""

from __future__ import annotations

import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

import msgspec
import pytest
import pytest_twisted
from attrs import define, field
from klein import Klein
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.threads import deferToThread
from twisted.logger import LogEvent, globalLogPublisher
from twisted.web.http import HTTPChannel
from twisted.web.server import Site

from chatflow.edge.concurrency import ConcurrencyLimit
from chatflow.edge.gate import AdminTokens, Gate
from chatflow.edge.operations import Operation, add_operations
from chatflow.edge.refusals import RequestRefused
from chatflow.errors import Unavailable
from testbed import http_client as http
from tests.support.reactor import on_reactor, reactor, until


@define
class Work:
    """Ends when the test says so. ``begun``: in this order, ``under_way``: those that have not ended."""

    begun: list[int] = field(factory=list)
    under_way: dict[int, Deferred[int]] = field(factory=dict)

    def of(self, number: int) -> Callable[[], Awaitable[int]]:
        async def work() -> int:
            self.begun.append(number)
            self.under_way[number] = Deferred()
            return await self.under_way[number]

        return work

    def end(self, number: int) -> None:
        self.under_way.pop(number).callback(number)

    def fail(self, number: int, error: Exception) -> None:
        self.under_way.pop(number).errback(error)


def leave(request: Deferred[Any]) -> None:
    """As Klein does when the client is gone."""
    request.addErrback(lambda failure: failure.trap(CancelledError) and None)
    request.cancel()


@pytest.fixture
def work() -> Work:
    return Work()


class TestConcurrencyLimit:
    @on_reactor
    async def test_as_many_are_worked_on_as_there_are_places_and_the_others_in_their_order(self, work: Work) -> None:
        limit = ConcurrencyLimit(running=2, waiting=10)
        results = [limit.run(work.of(number)) for number in range(5)]
        assert work.begun == [0, 1]
        for number in (1, 0, 3, 2, 4):
            work.end(number)
            assert await results[number] == number
        assert work.begun == [0, 1, 2, 3, 4]

    @on_reactor
    async def test_beyond_what_may_wait_each_is_refused(self, work: Work) -> None:
        limit = ConcurrencyLimit(running=1, waiting=2)
        results = [limit.run(work.of(number)) for number in range(3)]
        with pytest.raises(RequestRefused) as caught:
            await limit.run(work.of(3))
        assert (caught.value.status, caught.value.code) == (503, "unavailable")
        for number, result in enumerate(results):
            work.end(number)
            assert await result == number

    @on_reactor
    async def test_what_is_under_way_holds_its_place_though_its_client_leaves(self, work: Work) -> None:
        limit = ConcurrencyLimit(running=1, waiting=10)
        first, second = limit.run(work.of(0)), limit.run(work.of(1))
        leave(first)
        assert work.begun == [0]
        work.end(0)
        assert work.begun == [0, 1]
        work.end(1)
        assert await second == 1

    @on_reactor
    async def test_what_has_not_begun_when_its_client_leaves_never_begins(self, work: Work) -> None:
        limit = ConcurrencyLimit(running=1, waiting=2)
        results = [limit.run(work.of(number)) for number in range(3)]
        leave(results[1])
        results.append(limit.run(work.of(3)))  # there is a place again
        for number in (0, 2, 3):
            work.end(number)
            assert await results[number] == number
        assert work.begun == [0, 2, 3]

    @on_reactor
    async def test_a_failure_is_the_requests_own(self, work: Work) -> None:
        limit = ConcurrencyLimit(running=1, waiting=2)
        results = [limit.run(work.of(number)) for number in range(3)]
        work.fail(0, KeyError("0"))
        with pytest.raises(KeyError):
            await results[0]
        leave(results[1])
        work.fail(1, Unavailable("nobody hears this"))
        work.end(2)
        assert await results[2] == 2

    @on_reactor
    async def test_any_number_that_end_at_once_are_worked_off(self, work: Work) -> None:
        limit = ConcurrencyLimit(running=1, waiting=10_000)
        results = [limit.run(work.of(0))] + [limit.run(lambda: succeed(1)) for _ in range(10_000)]
        work.end(0)
        assert sum([await result for result in results]) == 10_000


class Number(msgspec.Struct):
    number: int


class Channel(HTTPChannel):
    """Counts those that have ended."""

    ended = 0

    def connectionLost(self, reason: Any) -> None:  # type: ignore[override]
        super().connectionLost(reason)
        Channel.ended += 1


@define
class Server:
    """One operation, ``/work``, behind a limit for two."""

    work: Work
    port: int = 0

    async def handle(self) -> Number:
        number = len(self.work.begun)
        return Number(await self.work.of(number)())

    def connect(self) -> socket.socket:
        """A client that has asked."""
        client = socket.create_connection(("127.0.0.1", self.port))
        client.sendall(b"GET /work HTTP/1.1\r\nHost: x\r\n\r\n")
        return client


@pytest_twisted.async_yield_fixture
async def server(work: Work) -> AsyncIterator[Server]:
    server = Server(work)
    app = Klein()
    operation = Operation(path="/work", summary="Work", answer=Number, handler=server.handle)
    add_operations(app, [operation], ConcurrencyLimit(running=2, waiting=1000), Gate(admin_tokens=AdminTokens()))
    site = Site(app.resource())
    site.protocol = Channel  # type: ignore[assignment]
    Channel.ended = 0
    port = reactor.listenTCP(0, site, interface="127.0.0.1")
    server.port = port.getHost().port
    yield server
    await port.stopListening()


def reset(client: socket.socket) -> None:
    """Leave as a client that is killed does."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def heard_of(clients: int) -> bool:
    return Channel.ended == clients


class TestClientsThatLeave:
    @on_reactor
    async def test_however_many_ask_and_leave_no_more_is_under_way_than_the_gate_lets_through(
        self, server: Server, work: Work
    ) -> None:
        for batch in range(1, 6):
            clients = [await deferToThread(server.connect) for _ in range(10)]
            await until(lambda: len(work.under_way) == 2, "the limit is full")
            for client in clients:
                reset(client)
            await until(partial(heard_of, 10 * batch), "the server has heard of that")
        assert work.begun == [0, 1]
        stays = await deferToThread(server.connect)
        work.end(0)
        await until(lambda: work.begun == [0, 1, 2], "who stays has its turn")
        work.end(2)
        answer = await deferToThread(http.read_answer, stays)
        assert (answer.status, answer.json()) == (200, {"number": 2})
        stays.close()
        work.end(1)


@on_reactor
async def test_a_fault_is_logged_and_answered_in_the_shape_of_other_errors(server: Server, work: Work) -> None:
    logged: list[LogEvent] = []
    globalLogPublisher.addObserver(logged.append)  # type: ignore[arg-type]  # any callable is one
    try:
        asked = deferToThread(http.request, server.port, "GET", "/work")
        await until(lambda: work.under_way, "it is under way")
        work.fail(0, KeyError("secret"))
        answer = await asked
    finally:
        globalLogPublisher.removeObserver(logged.append)  # type: ignore[arg-type]  # any callable is one
    assert answer.status == 500
    assert answer.json() == {
        "status": "ERROR",
        "code": "internal_error",
        "errorMessage": "a fault of the server: it is in its log",
    }
    (event,) = [event for event in logged if "log_failure" in event]
    assert event["log_failure"].check(KeyError)
