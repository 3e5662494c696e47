"""Who may connect to a room, and what the others are told."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import Any

import pytest

from testbed.client import RawClient, handshake
from testbed.daemon import Daemon, running_daemon
from testbed.http_client import Answer, send_request
from testbed.waiting import eventually


def answer_to(daemon: Daemon, path: str = "/chat/1", **headers: str | None) -> Answer:
    """What a handshake gets. Header names are written with ``_``."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    with RawClient(daemon.port, path, named) as client:
        if client.answer.status == 101:
            return client.answer
        return send_request(daemon.port, handshake(daemon.port, path, named))


def send_until_end(connection: socket.socket, data: bytes) -> None:
    """Send, and read until the server ends the connection, in whichever way."""
    with suppress(ConnectionError):
        connection.sendall(data)
        while connection.recv(1 << 16):
            pass


class TestRoom:
    @pytest.mark.parametrize("room", ["1", "2", "9", "10", "19", "20"])
    def test_one_that_exists_is_entered(self, daemon: Daemon, room: str) -> None:
        assert answer_to(daemon, f"/chat/{room}").status == 101

    @pytest.mark.parametrize(
        "room",
        [
            *("0", "01", "001", "+1", "-1", "21", "100", "1.0", "1e1", "0x1", "abc", "", "%20", "1%20", "%201"),
            *("%D9%A1", "1%00", "1%0A", "9" * 20, "1" * 5000, "1/", "1/x", "1//", "/1", "..", "1%2F", "%2F1", "%FF"),
        ],
        ids=lambda room: room if len(room) < 30 else "very long",
    )
    def test_any_other_is_404(self, daemon: Daemon, room: str) -> None:
        answer = answer_to(daemon, f"/chat/{room}")
        assert answer.status == 404
        assert answer.json()["status"] == "ERROR"

    @pytest.mark.parametrize("path", ["/chat", "/chats/1", "/Chat/1", "/1", "//chat/1", "/x/chat/1", "/health/1"])
    def test_any_other_path_is_404(self, daemon: Daemon, path: str) -> None:
        assert answer_to(daemon, path).status == 404

    @pytest.mark.parametrize("path", ["/", "/health"])
    def test_a_path_of_http_answers_as_ever(self, daemon: Daemon, path: str) -> None:
        assert answer_to(daemon, path).status == 200

    def test_a_query_does_not_matter(self, daemon: Daemon) -> None:
        assert answer_to(daemon, "/chat/1?user=1&x=/chat/99").status == 101


class TestRequest:
    def test_plain_http_is_told_to_upgrade(self, daemon: Daemon) -> None:
        answer = daemon.get("/chat/1")
        assert answer.status == 426
        assert answer.headers["upgrade"] == "websocket"
        assert answer.json()["code"] == "upgrade_required"

    def test_another_upgrade_is_told_to_upgrade_to_websocket(self, daemon: Daemon) -> None:
        assert answer_to(daemon, Upgrade="h2c").status == 426

    @pytest.mark.parametrize(
        ("headers", "status"),
        [
            ({"Sec_WebSocket_Key": None}, 400),
            ({"Sec_WebSocket_Key": "short"}, 400),
            ({"Sec_WebSocket_Version": None}, 400),
            ({"Sec_WebSocket_Version": "abc"}, 400),
            ({"Connection": None}, 400),
            ({"Connection": "keep-alive"}, 400),
        ],
        ids=str,
    )
    def test_a_broken_handshake_is_refused(self, daemon: Daemon, headers: dict[str, Any], status: int) -> None:
        assert answer_to(daemon, **headers).status == status

    def test_an_older_version_is_told_the_right_one(self, daemon: Daemon) -> None:
        answer = answer_to(daemon, Sec_WebSocket_Version="8")
        assert answer.status in (400, 426)
        assert "13" in answer.headers["sec-websocket-version"]

    def test_another_method_opens_nothing(self, daemon: Daemon) -> None:
        data = handshake(daemon.port).replace(b"GET ", b"POST ", 1)
        assert send_request(daemon.port, data).status in (400, 405)

    @pytest.mark.parametrize("value", ["keep-alive, Upgrade", "upgrade", "UPGRADE"])
    def test_the_connection_header_may_be_a_list_in_any_case(self, daemon: Daemon, value: str) -> None:
        assert answer_to(daemon, Connection=value).status == 101

    def test_a_subprotocol_that_the_server_does_not_speak_is_not_agreed_on(self, daemon: Daemon) -> None:
        answer = answer_to(daemon, Sec_WebSocket_Protocol="mqtt, wamp")
        assert answer.status == 101
        assert "sec-websocket-protocol" not in answer.headers


class TestOrigin:
    def test_none_and_the_same_host_may_connect(self, daemon: Daemon) -> None:
        assert answer_to(daemon).status == 101
        assert answer_to(daemon, Origin=f"http://127.0.0.1:{daemon.port}").status == 101
        assert answer_to(daemon, Origin="https://chat.example", Host="chat.example").status == 101
        assert answer_to(daemon, Origin="HTTP://CHAT.example", Host="chat.EXAMPLE").status == 101

    @pytest.mark.parametrize(
        "origin",
        [
            *("http://evil.example", "null", "http://127.0.0.1", "http://127.0.0.1:1"),
            *("", "http://", "http://[::1", "a:b:c", "x", "*", "\xff"),
        ],
    )
    def test_a_page_of_another_origin_may_not_connect(self, daemon: Daemon, origin: str) -> None:
        answer = answer_to(daemon, Origin=origin)
        assert answer.status == 403
        assert answer.json()["code"] == "origin_not_allowed"

    def test_the_same_host_as_a_part_of_another_may_not(self, daemon: Daemon) -> None:
        for origin in ("http://chat.example.evil", "http://evil/chat.example", "http://chat.example@evil"):
            assert answer_to(daemon, Origin=origin, Host="chat.example").status == 403

    def test_those_that_are_allowed_by_option_may_connect(self, daemon: Daemon) -> None:
        options = ("--allowed-origins", "https://one.example", "--allowed-origins", "http://two.example:8080")
        with running_daemon(*options, database=daemon.database) as choosy:
            assert answer_to(choosy, Origin="https://one.example").status == 101
            assert answer_to(choosy, Origin="http://two.example:8080").status == 101
            assert answer_to(choosy, Origin=f"http://127.0.0.1:{choosy.port}").status == 101
            for other in ("http://one.example", "http://two.example", "https://one.example.evil", "null"):
                assert answer_to(choosy, Origin=other).status == 403

    def test_every_one_may_connect_with_a_star(self, daemon: Daemon) -> None:
        with running_daemon("--allowed-origins", "*", database=daemon.database) as open_minded:
            for origin in ("http://anything.example", "null"):
                assert answer_to(open_minded, Origin=origin).status == 101


class TestMaxConnections:
    @pytest.fixture
    def small(self, daemon: Daemon) -> Iterator[Daemon]:
        with running_daemon("--max-connections", "3", database=daemon.database) as small:
            yield small

    def test_one_more_is_503_until_another_leaves(self, small: Daemon) -> None:
        with ExitStack() as stack:
            clients = [stack.enter_context(RawClient(small.port, f"/chat/{room}")) for room in (1, 1, 2)]
            answer = answer_to(small)
            assert answer.status == 503
            assert answer.json()["code"] == "no_more_connections"
            assert "retry-after" in answer.headers
            assert small.is_ready(), "HTTP still answers"
            clients[0].reset()
            eventually(lambda: answer_to(small).status == 101, "there is a place again")

    def test_refused_handshakes_and_plain_requests_take_no_place(self, small: Daemon) -> None:
        for _ in range(5):
            assert answer_to(small, "/chat/99").status == 404
            assert answer_to(small, Origin="http://evil.example").status == 403
            assert answer_to(small, Sec_WebSocket_Key=None).status == 400
            assert small.get("/chat/1").status == 426
        with ExitStack() as stack:
            for _ in range(3):
                client = stack.enter_context(RawClient(small.port))
                assert client.answer.status == 101


class TestSize:
    def test_a_large_body_is_413(self, daemon: Daemon) -> None:
        for path in ("/health", "/chat/1", "/nowhere"):
            head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 100000000\r\n\r\n".encode()
            assert send_request(daemon.port, head).status == 413

    def test_a_large_body_that_is_sent_at_once_does_no_harm(self, daemon: Daemon) -> None:
        body = b"x" * 10_000_000
        head = f"POST /health HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        with suppress(ConnectionError):  # a reset may overtake the answer
            assert send_request(daemon.port, head + body).status == 413
        assert daemon.is_ready()

    def test_a_body_of_unknown_length_is_413_once_it_is_large(self, daemon: Daemon) -> None:
        head = b"POST /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
        assert send_request(daemon.port, head + b"5\r\nhello\r\n0\r\n\r\n").status == 405
        assert send_request(daemon.port, head + b"ffff\r\n" + b"x" * 0xFFFF + b"\r\n2\r\nxx\r\n").status == 413

    def test_huge_headers_end_the_connection(self, daemon: Daemon) -> None:
        for data in (
            b"GET /health HTTP/1.1\r\nX: " + b"x" * 1_000_000,
            b"GET /health HTTP/1.1\r\n" + b"X: x\r\n" * 100_000,
            b"GET /" + b"x" * 1_000_000,
        ):
            with socket.create_connection(("127.0.0.1", daemon.port), 20) as connection:
                send_until_end(connection, data)
        assert daemon.is_ready()

    def test_what_is_no_http_is_400_or_the_end(self, daemon: Daemon) -> None:
        for data in (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", b"hello\r\n\r\n", b"\0" * 100_000):
            with socket.create_connection(("127.0.0.1", daemon.port), 20) as connection:
                send_until_end(connection, data)
        assert daemon.is_ready()


def test_nothing_of_all_this_is_logged_as_a_failure(daemon: Daemon) -> None:
    assert daemon.errors() == ""
    assert "Traceback" not in daemon.output()
    assert "#error]" not in daemon.output() and "#critical]" not in daemon.output()
