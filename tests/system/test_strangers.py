"""A daemon that is open to strangers: each limit of theirs is told, and others do not notice. Over real sockets."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator

import pytest
from websockets.sync.client import connect

from chatflow.edge.security import SECURITY_HEADERS
from testbed.client import TEXT, RawClient, client_frame, kind, message
from testbed.daemon import Daemon, running_daemon
from testbed.postgres import fresh_database

_OPTIONS = {
    "--trusted-proxy": "127.0.0.1",
    "--public-host": "127.0.0.1, localhost",
    "--max-connections-per-address": "3",
    "--connections-per-second-per-address": "5",
    "--requests-per-second-per-address": "0.5",
    "--messages-per-second": "2",
}


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    options = [text for name, value in _OPTIONS.items() for one in value.split(", ") for text in (name, one)]
    with fresh_database() as url, running_daemon("--compress", *options, database=url) as daemon:
        yield daemon


def limited(daemon: Daemon, reason: str) -> float:
    """How often the limit took effect."""
    return daemon.counter(f'chatflow_limited_total{{reason="{reason}"}}')


def stranger(daemon: Daemon, ip: str, path: str = "/chat/1") -> RawClient:
    """Somebody who connects through the proxy."""
    return RawClient(daemon.port, path, headers={"X-Forwarded-For": f"6.6.6.6, {ip}"})


def test_of_one_address_so_many_connect_and_one_more_is_told_when_to_come_again(daemon: Daemon) -> None:
    before = limited(daemon, "connections")
    crowd = [stranger(daemon, "192.0.2.1") for _ in range(4)]
    assert [client.answer.status for client in crowd] == [101, 101, 101, 429]
    refused = crowd[-1].answer
    assert (refused.headers["retry-after"], refused.headers["connection"]) == ("1", "close")
    with stranger(daemon, "192.0.2.2") as other:
        assert other.answer.status == 101
    assert limited(daemon, "connections") == before + 1
    for client in crowd:
        client.socket.close()


def test_who_sends_too_many_messages_is_told_when_to_send_the_next_one(daemon: Daemon) -> None:
    with stranger(daemon, "192.0.2.3", "/chat/2") as client:
        for _ in range(5):
            client.send(client_frame(TEXT, json.dumps(message("often")).encode()))
        frames = [json.loads(client.receive().payload) for _ in range(9)]
        (error,) = [frame for frame in frames if kind(frame) == "error"]
        assert error["code"] == "rate_limited"
        assert 0 < error["retryAfterMs"] <= 500
        assert sum(kind(frame) == "ack" for frame in frames) == 4
        client.send_message("and on it goes")  # is read when it may be
        assert {kind(json.loads(client.receive().payload)) for _ in range(2)} == {"ack", "broadcast"}


def test_who_asks_too_much_is_told_so_and_health_is_always_answered(daemon: Daemon) -> None:
    via = {"X-Forwarded-For": "192.0.2.4"}
    assert daemon.get("/api/rooms", headers=via).status == 200
    refused = daemon.get("/api/rooms", headers=via)
    assert refused.status == 429
    assert json.loads(refused.body)["code"] == "rate_limited"
    assert 0 < json.loads(refused.body)["retryAfterMs"] <= 2000
    assert daemon.get("/health/ready", headers=via).status == 200
    assert daemon.get("/api/rooms", headers={"X-Forwarded-For": "192.0.2.5"}).status == 200
    costly = [daemon.get("/api/%6detrics/nothing", headers={"X-Forwarded-For": "192.0.2.6"}).status for _ in range(2)]
    assert costly == [404, 429], "however the path is written"


@pytest.mark.parametrize(
    ("path", "host", "status", "answers"),
    [
        ("/health/live", "localhost", 200, 2),
        ("/nowhere", "localhost", 404, 2),
        ("/", "two words", 400, 2),
        ("/", "rebound.example", 421, 2),
        ("/chat/99", "localhost", 404, 11),
        ("/chat/1", "rebound.example", 421, 11),
        ("/chat/1", "localhost", 426, 11),
    ],
)
def test_of_requests_in_a_row_no_more_are_answered_than_an_address_may_make(
    daemon: Daemon, path: str, host: str, status: int, answers: int
) -> None:
    ip = f"192.0.2.{100 + len(path) + len(host)}"
    head = f"GET {path} HTTP/1.1\r\nHost: {host}\r\nX-Forwarded-For: {ip}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", daemon.port), timeout=20) as client:
        client.sendall(head.encode() * 100)
        received = b""
        while data := client.recv(1 << 16):
            received += data
    given = re.findall(rb"HTTP/1.1 (\d+)", received)
    assert len(given) == answers
    assert given[:-1] == [str(status).encode()] * (answers - 1)
    assert given[-1] == (b"200" if path == "/health/live" else b"429")


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/", {}, 200),
        ("/dashboard", {}, 200),
        ("/api/rooms", {}, 200),
        ("/metrics", {}, 200),
        ("/nowhere", {}, 404),
        ("/chat/1", {}, 426),
        ("/chat/99", {}, 404),
        ("/api/rooms?limit=x", {}, 400),
        ("/", {"Host": "rebound.example"}, 421),
        ("/chat/1", {"Host": "rebound.example", "Origin": "http://rebound.example"}, 421),
        ("/health/ready", {"Host": "rebound.example"}, 200),
        ("/", {"Host": "LOCALHOST.:8080"}, 200),
        ("/api/rooms", {"X-Forwarded-For": "nobody"}, 400),
    ],
)
def test_every_answer_has_the_security_headers(daemon: Daemon, path: str, headers: dict[str, str], status: int) -> None:
    answer = daemon.get(path, headers=headers)
    assert answer.status == status
    policy = answer.headers["content-security-policy"]
    assert "frame-ancestors 'none'" in policy
    assert policy.startswith(
        "default-src 'self'" if path in ("/", "/dashboard") and status == 200 else "default-src 'none'"
    )
    for name, value in SECURITY_HEADERS:
        if name != b"content-security-policy":
            assert answer.headers[name.decode()] == value.decode()


def test_who_offers_compression_has_it_and_understands_everything(daemon: Daemon) -> None:
    with connect(daemon.chat_url(3), compression="deflate") as client:
        assert "permessage-deflate" in client.response.headers["Sec-WebSocket-Extensions"]  # type: ignore[union-attr]
        client.send(json.dumps(message("x" * 500)))
        frames = [json.loads(client.recv(timeout=20)) for _ in range(2)]
        assert {kind(frame) for frame in frames} == {"ack", "broadcast"}
    with connect(daemon.chat_url(3) + "?since=0", compression=None) as client:
        assert json.loads(client.recv(timeout=20))["message"] == "x" * 500
