"""The dashboard's sampler and its streams, on a clock that the test moves; requests keep what is written to them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.web.http_headers import Headers

from chatflow.contracts.membership import InstanceState
from chatflow.edge.dashboard import Dashboard
from chatflow.edge.figures import Snapshot
from chatflow.edge.refusals import RequestRefused
from chatflow.edge.sse import MAX_UNREAD_SECONDS
from chatflow.errors import Unavailable
from chatflow.metrics import Metrics


class Request:
    """A client's: ``written`` is what it got. Its channel is itself."""

    method = b"GET"

    def __init__(self) -> None:
        self.written = b""
        self.aborted = False
        self.responseHeaders = Headers()
        self.channel = self.transport = self
        self.finished: Deferred[None] = Deferred()
        self.answer: Deferred[bytes] = Deferred()
        self.producer: Any = None

    def setHeader(self, name: bytes, value: bytes) -> None:
        self.responseHeaders.setRawHeaders(name, [value])

    def getHeader(self, name: bytes) -> bytes | None:
        return None

    def notifyFinish(self) -> Deferred[None]:
        return self.finished

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        self.producer = producer

    def unregisterProducer(self) -> None:
        self.producer = None

    def write(self, data: bytes) -> None:
        self.written += data

    def loseConnection(self) -> None:
        pass

    def abortConnection(self) -> None:
        self.aborted = True
        self.answer.cancel()  # as Klein does when a client is gone

    def samples(self) -> list[dict[str, Any]]:
        lines = self.written.decode().splitlines()
        return [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")]


class DashboardRig:
    def __init__(self) -> None:
        self.clock = Clock()
        self.snapshots = 0
        self.census: Deferred[Sequence[InstanceState]] | None = None
        self.asked = 0
        self.metrics = Metrics()
        self.dashboard = Dashboard(
            clock=self.clock,
            now=lambda: 1e9 + self.clock.seconds(),
            server_id="s1",
            cluster=True,
            snapshot=self._snapshot,
            census=self._ask,
            silent_seconds=11.0,
            away_seconds=lambda: 0.0,
            ready=lambda: True,
        )

    def _snapshot(self) -> Snapshot:
        self.snapshots += 1
        return self.metrics.snapshot()

    async def _ask(self) -> Sequence[InstanceState]:
        self.asked += 1
        self.census = Deferred()
        return await self.census

    def answer(self, *states: InstanceState) -> None:
        assert self.census is not None
        self.census.callback(states)

    def listen(self) -> Request:
        request = Request()
        request.answer = Deferred.fromCoroutine(self.dashboard.serve(request))
        return request

    def advance(self, seconds: int) -> None:
        for _ in range(seconds):
            self.clock.advance(1)


@pytest.fixture
def rig() -> DashboardRig:
    return DashboardRig()


def leave(request: Request) -> None:
    request.finished.errback(Failure(ConnectionError()))
    request.finished.addErrback(lambda failure: None)
    request.answer.cancel()


def test_while_nobody_looks_nothing_runs(rig: DashboardRig) -> None:
    assert not rig.clock.getDelayedCalls()
    one, other = rig.listen(), rig.listen()
    rig.advance(3)
    leave(one)
    rig.advance(1)
    assert len(other.samples()) == 4
    leave(other)
    assert not rig.dashboard.runs
    assert not rig.clock.getDelayedCalls()
    done = rig.snapshots
    rig.advance(60)
    assert rig.snapshots == done


def test_one_sample_serves_all(rig: DashboardRig) -> None:
    requests = [rig.listen() for _ in range(10)]
    rig.advance(5)
    assert rig.snapshots == 1 + 5
    assert len({request.written for request in requests}) == 1


def test_a_database_that_does_not_answer_is_asked_once_and_told(rig: DashboardRig) -> None:
    request = rig.listen()
    rig.advance(8)
    assert rig.asked == 1, "it is still asked"
    (alarm,) = request.samples()[-1]["alarms"]
    assert (alarm["key"], alarm["since_seconds"]) == ("database", 8.0)
    assert rig.census is not None
    rig.census.errback(Unavailable("gone"))
    rig.advance(2)
    assert request.samples()[-1]["alarms"][0]["since_seconds"] == 10.0
    rig.answer(InstanceState("s1", 5.0, 1.0))
    rig.advance(1)
    assert request.samples()[-1]["alarms"] == []
    assert [server["id"] for server in request.samples()[-1]["servers"]] == ["s1"]


def test_an_instance_that_falls_silent_is_told(rig: DashboardRig) -> None:
    request = rig.listen()
    rig.answer(InstanceState("s1", 50.0, 1.0), InstanceState("s2", 50.0, 12.0))
    rig.advance(1)
    assert [alarm["key"] for alarm in request.samples()[-1]["alarms"]] == ["instance s2"]


def test_who_does_not_read_is_given_nothing_more_and_then_ended_and_holds_up_nobody(rig: DashboardRig) -> None:
    slow, other = rig.listen(), rig.listen()
    rig.advance(2)
    slow.producer.pauseProducing()
    written = slow.written
    rig.advance(int(MAX_UNREAD_SECONDS) - 1)
    assert (slow.written, slow.aborted) == (written, False)
    rig.advance(1)
    assert slow.aborted
    assert len(other.samples()) == 2 + MAX_UNREAD_SECONDS


def test_who_reads_again_in_time_goes_on(rig: DashboardRig) -> None:
    request = rig.listen()
    rig.advance(2)
    request.producer.pauseProducing()
    rig.advance(5)
    request.producer.resumeProducing()
    rig.advance(20)
    assert not request.aborted
    assert len(request.samples()) == 22


def test_a_sample_that_fails_ends_no_stream(rig: DashboardRig) -> None:
    request = rig.listen()
    rig.advance(1)
    rig.metrics, kept = None, rig.metrics  # type: ignore[assignment]
    rig.advance(1)
    rig.metrics = kept
    rig.advance(1)
    assert len(request.samples()) == 2


def test_after_the_close_nobody_is_let_in(rig: DashboardRig) -> None:
    request = rig.listen()
    rig.advance(1)
    rig.dashboard.close()
    assert request.answer.result == b""
    assert not rig.clock.getDelayedCalls()
    refused = rig.listen().answer.result
    assert isinstance(refused, Failure)
    assert isinstance(refused.value, RequestRefused)
    assert refused.value.status == 503
