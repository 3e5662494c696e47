"""Connections that are cut and come back, to a server that has what they missed; and what it may not do to them."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any

import attrs
import pytest
from pytest_twisted import ensureDeferred

from benchmarks.null_server import NullConnection, NullServer, frame
from chatflow.load.report import as_report, as_summary
from chatflow.load.run import LoadRun, Outcome
from chatflow.load.wall_clock import system_clock
from chatflow.load.worker import LoadWorker
from tests.load.running import SETTINGS, Listening, faults, reactor
from tests.load.test_faults import Vanishes

_NEVER = 1e9  # seconds on average: in a run of some seconds nobody draws so little


class Remembers(NullServer):
    """Gives each member what it missed, and stores a message that it is sent again only once.

    :ivar ports: of each handshake, in order.
    """

    def __init__(self, reactor: Any) -> None:
        super().__init__(reactor)
        self.ports: list[int] = []
        self._history: dict[str, list[bytes]] = {}
        self._ids: dict[str, bytes] = {}

    def join(self, member: NullConnection) -> None:
        super().join(member)
        self.ports.append(member.transport.getHost().port)
        if member.query:
            member.transport.write(b"".join(self._history[member.room][int(member.query.removeprefix("since=")) :]))

    def take(self, sender: NullConnection, messages: list[bytes]) -> None:
        fresh = []
        for message in messages:
            known = self._ids.get(json.loads(message)["clientMessageId"])
            if known is None:
                fresh.append(message)
            else:
                sender.transport.write(super().ack(known, message))
        super().take(sender, fresh)

    def ack(self, message_id: bytes, message: bytes) -> bytes:
        self._ids[json.loads(message)["clientMessageId"]] = message_id
        return super().ack(message_id, message)

    def deliver(self, room: str, frames: list[bytes]) -> None:
        self._history.setdefault(room, []).extend(frames)
        super().deliver(room, frames)


class Ends(Vanishes, Remembers):
    """Ends one connection in mid-run."""


class RefusesReturn(Ends):
    """Then answers the next handshake in its own way."""

    def __init__(self, reactor: Any, answer: bytes) -> None:
        super().__init__(reactor, self._end)
        self._answer = answer
        self._refuses = False

    def _end(self, connection: NullConnection) -> None:
        self._refuses = True
        connection.transport.abortConnection()

    def response(self, accept: bytes) -> bytes:
        if not self._refuses:
            return super().response(accept)
        self._refuses = False
        return self._answer


async def _run_against(server: NullServer, ports: int = 1, **changed: Any) -> Outcome:
    async with Listening(server) as one, Listening(server) as other:
        urls = (one, other)[:ports]
        settings = attrs.evolve(SETTINGS, urls=urls, warmup_messages=0, timeout_seconds=5.0, **changed)
        clock = system_clock()
        return await LoadRun(settings, [LoadWorker(reactor, settings, 0, clock)], clock, None).run()


@ensureDeferred
async def test_what_is_cut_comes_back_in_turn_to_all_urls_and_gets_every_message_once() -> None:
    server = Remembers(reactor)
    outcome = await _run_against(server, ports=2, rate=200.0, reconnect=0.1)
    assert (outcome.verdict, outcome.causes, faults(outcome)) == ("pass", [], {})
    (main,) = outcome.phases
    assert (main.acked, main.received, main.losses) == (120, 360, {})
    assert main.returns > 0
    ports = server.ports[6:]
    assert len(ports) == main.returns
    assert len(set(ports)) == 2


@ensureDeferred
async def test_a_connection_comes_back_at_the_next_url() -> None:
    server = Ends(reactor, lambda connection: connection.transport.abortConnection())
    outcome = await _run_against(server, ports=2, connections=1, rooms=1, reconnect=_NEVER)
    assert outcome.verdict == "pass"
    first, second = server.ports
    assert first != second


def _close_with(code: int, connection: NullConnection) -> None:
    connection.transport.write(frame(code.to_bytes(2, "big") + b"why", 0x8))
    connection.transport.loseConnection()


@pytest.mark.parametrize("code", [1000, 1002, 1011, 1013])
@ensureDeferred
async def test_a_server_that_closes_out_of_order_is_a_cause_to_fail(code: int) -> None:
    outcome = await _run_against(Ends(reactor, partial(_close_with, code)), reconnect=_NEVER)
    assert outcome.causes == [f"main: connections that the server closed with {code}: 1"]
    (main,) = outcome.phases
    assert (main.returns, main.losses, faults(outcome)) == (1, {str(code): 1}, {})


@ensureDeferred
async def test_who_is_banned_does_not_come_back() -> None:
    outcome = await _run_against(Ends(reactor, partial(_close_with, 4403)), reconnect=_NEVER)
    assert outcome.causes[0].endswith(": the server does not let it come back: why"), outcome.causes
    (main,) = outcome.phases
    assert main.returns == 0


@pytest.mark.parametrize(
    ("how", "told"),
    [
        (partial(_close_with, 1001), "1001"),
        (partial(_close_with, 1012), "1012"),
        (lambda connection: connection.transport.abortConnection(), "no close frame"),
        (lambda connection: connection.transport.loseConnection(), "no close frame"),
    ],
)
@ensureDeferred
async def test_a_server_that_stops_or_dies_is_counted_and_no_fault(
    how: Callable[[NullConnection], None], told: str
) -> None:
    outcome = await _run_against(Ends(reactor, how), reconnect=_NEVER)
    assert (outcome.verdict, outcome.causes, faults(outcome)) == ("pass", [], {})
    assert as_report(outcome)["losses"] == {told: 1}
    assert as_report(outcome)["returns_refused"] == 0
    assert f"reconnects 1, resent {outcome.phases[0].resent}; losses by the server's doing: {told} 1" in as_summary(
        outcome
    )


@pytest.mark.parametrize("status", ["502 Bad Gateway", "503 Service Unavailable", "504 Gateway Timeout"])
@ensureDeferred
async def test_a_return_that_nobody_can_take_now_is_tried_again(status: str) -> None:
    server = RefusesReturn(reactor, f"HTTP/1.1 {status}\r\n\r\n".encode())
    outcome = await _run_against(server, reconnect=_NEVER)
    assert (outcome.verdict, outcome.causes) == ("pass", [])
    assert outcome.phases[0].returns == 1
    report = as_report(outcome)
    assert report["returns_refused"] >= 1
    assert report["away_ms"]["max"] >= 20  # a pause before each of two tries
    assert f"refused {report['returns_refused']}; away for" in as_summary(outcome)


@ensureDeferred
async def test_a_return_that_is_refused_is_a_connection_lost() -> None:
    server = RefusesReturn(reactor, b"HTTP/1.1 500 Internal Server Error\r\n\r\n")
    outcome = await _run_against(server, reconnect=_NEVER)
    assert outcome.verdict == "fail"
    assert faults(outcome)["connections_lost"] == 1
    assert "the server answered 'HTTP/1.1 500 Internal Server Error' to the handshake" in "\n".join(outcome.causes)
