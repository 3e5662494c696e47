"""What browsers, apps, proxies and scripts send beside the usual, over sockets: answered as a good server does."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator

import pytest

from testbed.client import TEXT, RawClient, client_frame, handshake, message
from testbed.daemon import Daemon, running_daemon
from testbed.http_client import Answer, read_answer, send_request
from tests.system.test_handshake import answer_to

_ALLOWED = ("https://app.example", "capacitor://localhost", "null", "https://bücher.example")


@pytest.fixture(scope="module")
def choosy(module_database_url: str) -> Iterator[Daemon]:
    """A daemon that allows some origins."""
    options = [argument for origin in _ALLOWED for argument in ("--allowed-origins", origin)]
    with running_daemon(*options, database=module_database_url) as choosy:
        yield choosy


def ask(daemon: Daemon, request_line: str, *headers: str, body: bytes = b"") -> Answer:
    """One request as it is written here; the connection ends with it."""
    lines = [request_line, *headers, "Connection: close", "", ""]
    return send_request(daemon.port, "\r\n".join(lines).encode("utf-8") + body, request_line.split(" ")[0])


def say_all_and_end(daemon: Daemon, data: bytes) -> bytes:
    """Everything that the server says to a client that closes its half behind what it sends."""
    with socket.create_connection(("127.0.0.1", daemon.port), 20) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        received = b""
        while more := connection.recv(1 << 16):
            received += more
        return received


class TestExtensions:
    @pytest.mark.parametrize(
        "offer",
        [
            *("permessage-deflate", "permessage-deflate; server_max_window_bits=8", "permessage-deflate; foo"),
            *("permessage-deflate; client_max_window_bits=16", "permessage-deflate; client_max_window_bits"),
            *('permessage-deflate; server_max_window_bits="10"', "x-unknown; a=1, y", "permessage-deflate, x, x"),
            *("permessage-deflate; server_max_window_bits=8; server_max_window_bits=9", "", ",", "; ;", "="),
            *('x; y="', "ü"),
        ],
    )
    def test_one_that_is_not_spoken_is_left_aside(self, daemon: Daemon, offer: str) -> None:
        answer = answer_to(daemon, Sec_WebSocket_Extensions=offer)
        assert answer.status == 101
        assert "sec-websocket-extensions" not in answer.headers

    def test_several_headers_of_them_are_too(self, daemon: Daemon) -> None:
        data = handshake(daemon.port).replace(b"Upgrade: ", b"Sec-WebSocket-Extensions: a\r\n" * 3 + b"Upgrade: ", 1)
        with socket.create_connection(("127.0.0.1", daemon.port), 20) as connection:
            connection.sendall(data)
            assert connection.recv(1 << 16).startswith(b"HTTP/1.1 101 ")


class TestHost:
    @pytest.mark.parametrize(
        ("host", "origin", "status"),
        [
            *(("chat.example:443", "https://chat.example", 101), ("chat.example:80", "http://chat.example", 101)),
            *(("chat.example.", "https://chat.example", 101), ("[::1]:443", "https://[::1]", 101)),
            *(("xn--bcher-kva.example", "https://xn--bcher-kva.example", 101),),
            *(("chat.example:444", "https://chat.example", 403), ("chat.example:443", "http://chat.example", 403)),
        ],
    )
    def test_the_default_port_of_its_scheme_is_the_same_host(
        self, daemon: Daemon, host: str, origin: str, status: int
    ) -> None:
        assert answer_to(daemon, Host=host, Origin=origin).status == status

    @pytest.mark.parametrize("path", ["/health", "/chat/1", "/nowhere"])
    def test_none_or_several_are_400(self, daemon: Daemon, path: str) -> None:
        for hosts in (
            (),
            ("Host: a", "Host: b"),
            ("Host: a", "Host: a"),
            ("Host: [",),
            ("Host: x:abc",),
            ("Host: a/b",),
        ):
            answer = ask(daemon, f"GET {path} HTTP/1.1", *hosts)
            assert (answer.status, answer.json()["code"]) == (400, "bad_request"), hosts

    def test_http_1_0_needs_none(self, daemon: Daemon) -> None:
        assert ask(daemon, "GET /health/live HTTP/1.0").json() == {"status": "UP"}


class TestTarget:
    @pytest.mark.parametrize("scheme", ["http", "https", "ws", "HTTP"])
    def test_an_address_is_its_path(self, daemon: Daemon, scheme: str) -> None:
        assert ask(daemon, f"GET {scheme}://chat.example/health/live HTTP/1.1", "Host: x").json() == {"status": "UP"}
        assert answer_to(daemon, f"{scheme}://chat.example/chat/1?last=3").status == 101

    def test_its_host_counts_and_not_the_header(self, daemon: Daemon) -> None:
        address = "http://chat.example:80/chat/1"
        assert answer_to(daemon, address, Host="evil.example", Origin="http://chat.example").status == 101
        assert answer_to(daemon, address, Host="evil.example", Origin="http://evil.example").status == 403

    def test_the_query_of_an_absolute_url_counts(self, daemon: Daemon) -> None:
        assert answer_to(daemon, "http://x/chat/1?since=x").json()["field"] == "since"
        assert ask(daemon, "GET http://x/api/rooms/1/messages?limit=x HTTP/1.1", "Host: x").status == 400

    @pytest.mark.parametrize("target", ["http:///health", "ftp://x/health", "http://u@x/health", "http://[/health"])
    def test_another_address_is_400(self, daemon: Daemon, target: str) -> None:
        assert ask(daemon, f"GET {target} HTTP/1.1", "Host: x").status == 400

    def test_without_a_path_it_is_the_page(self, daemon: Daemon) -> None:
        assert b"<!doctype html>" in ask(daemon, "GET http://chat.example HTTP/1.1", "Host: x").body

    @pytest.mark.parametrize("path", ["/chat/%31", "/%63hat/1"])
    def test_a_path_may_be_percent_encoded(self, daemon: Daemon, path: str) -> None:
        assert answer_to(daemon, path).status == 101

    @pytest.mark.parametrize("path", ["/%", "/%zz", "/%e4", "/health%", "/./health", "/x/../health"])
    def test_what_names_nothing_is_404(self, daemon: Daemon, path: str) -> None:
        assert ask(daemon, f"GET {path} HTTP/1.1", "Host: x").status == 404

    @pytest.mark.parametrize(
        "query", ["limit=", "limit=1&limit=2", "limit=%ff", "limit=%", "before=%00", "x=1", "limit=1;limit=2"]
    )
    def test_a_query_with_a_fault_is_400(self, daemon: Daemon, query: str) -> None:
        answer = ask(daemon, f"GET /api/rooms/1/messages?{query} HTTP/1.1", "Host: x")
        assert (answer.status, answer.json()["code"]) == (400, "invalid_parameter")


class TestHandshake:
    def test_a_header_may_be_folded(self, daemon: Daemon) -> None:
        assert answer_to(daemon, Connection="keep-alive,\r\n Upgrade").status == 101

    def test_long_headers_are_taken_and_far_longer_ones_are_not(self, daemon: Daemon) -> None:
        assert answer_to(daemon, Cookie="x" * 12_000).status == 101
        long = handshake(daemon.port, headers={"Cookie": "x" * 20_000})
        assert send_request(daemon.port, long).status == 431

    @pytest.mark.parametrize("version", ["8", "14"])
    def test_another_version_is_426_with_the_right_one(self, daemon: Daemon, version: str) -> None:
        answer = answer_to(daemon, Sec_WebSocket_Version=version)
        assert (answer.status, answer.headers["sec-websocket-version"]) == (426, "13")

    @pytest.mark.parametrize("protocols", ["a, chatflow.v2", "chatflow.v2,chatflow.v2"])
    def test_the_subprotocol_is_found_in_a_list(self, daemon: Daemon, protocols: str) -> None:
        answer = answer_to(daemon, Sec_WebSocket_Protocol=protocols)
        assert (answer.status, answer.headers["sec-websocket-protocol"]) == (101, "chatflow.v2")

    def test_post_is_405_and_told_get(self, daemon: Daemon) -> None:
        answer = send_request(daemon.port, handshake(daemon.port).replace(b"GET ", b"POST ", 1))
        assert (answer.status, "GET" in answer.headers["allow"]) == (405, True)

    def test_http_1_0_is_426(self, daemon: Daemon) -> None:
        assert send_request(daemon.port, handshake(daemon.port).replace(b"HTTP/1.1", b"HTTP/1.0", 1)).status == 426

    def test_a_body_is_400_and_never_taken_for_frames(self, daemon: Daemon) -> None:
        head = handshake(daemon.port, headers={"Content-Length": "5"})
        assert send_request(daemon.port, head + b"hello").status == 400
        assert answer_to(daemon, Content_Length="0").status == 101

    def test_frames_that_come_with_the_handshake_are_heard(self, daemon: Daemon) -> None:
        frame = client_frame(TEXT, json.dumps(message("eager")).encode())
        with socket.create_connection(("127.0.0.1", daemon.port), 20) as connection:
            connection.sendall(handshake(daemon.port, "/chat/7") + frame)
            received = b""
            while b'"SUCCESS"' not in received:
                received += connection.recv(1 << 16)
            assert b"eager" in received


class TestAllowedOrigins:
    @pytest.mark.parametrize(
        "origin", ["https://app.example", "https://APP.example:443", "capacitor://localhost", "null"]
    )
    def test_a_page_of_one_may_connect_and_read(self, choosy: Daemon, origin: str) -> None:
        assert answer_to(choosy, Origin=origin).status == 101
        for path in ("/chatflow.js", "/api/rooms", "/health", "/nowhere"):
            answer = choosy.get(path, headers={"Origin": origin})
            assert answer.headers["access-control-allow-origin"] == origin
            assert "Origin" in answer.headers["vary"]
            assert "access-control-allow-credentials" not in answer.headers

    def test_a_name_in_another_script_is_the_one_that_browsers_send(self, choosy: Daemon) -> None:
        assert answer_to(choosy, Origin="https://xn--bcher-kva.example").status == 101

    @pytest.mark.parametrize("origin", ["https://evil.example", "http://app.example", "tauri://localhost", "x", ""])
    def test_a_page_of_another_may_not(self, choosy: Daemon, origin: str) -> None:
        assert answer_to(choosy, Origin=origin).status == 403
        answer = choosy.get("/api/rooms", headers={"Origin": origin})
        assert "access-control-allow-origin" not in answer.headers
        assert answer.headers["vary"] == "Origin", "a cache may not give it to those that are allowed"

    def test_by_default_none_may_read(self, daemon: Daemon) -> None:
        answer = daemon.get("/api/rooms", headers={"Origin": "https://app.example"})
        assert {"access-control-allow-origin", "vary"}.isdisjoint(answer.headers)

    def test_a_preflight_is_told_what_it_may_for_a_while(self, choosy: Daemon) -> None:
        asked = {"Access-Control-Request-Method": "GET", "Access-Control-Request-Headers": "if-none-match"}
        answer = choosy.get("/api/rooms", method="OPTIONS", headers={"Origin": "https://app.example", **asked})
        assert (answer.status, answer.body) == (204, b"")
        assert answer.headers["access-control-allow-methods"] == "GET, HEAD, OPTIONS"
        assert "If-None-Match" in answer.headers["access-control-allow-headers"]
        assert 0 < int(answer.headers["access-control-max-age"]) <= 7200

    def test_a_preflight_of_another_is_told_nothing(self, choosy: Daemon) -> None:
        headers = {"Origin": "https://evil.example", "Access-Control-Request-Method": "GET"}
        answer = choosy.get("/api/rooms", method="OPTIONS", headers=headers)
        assert not [name for name in answer.headers if name.startswith("access-control")]


class TestMethods:
    @pytest.mark.parametrize("path", ["/", "/health", "/chatflow.js", "/api/rooms/1/presence", "/chat/1"])
    def test_options_names_those_that_are_taken(self, daemon: Daemon, path: str) -> None:
        answer = daemon.get(path, method="OPTIONS")
        assert (answer.status, answer.headers["allow"]) == (204, "GET, HEAD, OPTIONS")

    def test_options_of_what_is_not_there_is_404_and_of_the_server_is_answered(self, daemon: Daemon) -> None:
        assert daemon.get("/nowhere", method="OPTIONS").status == 404
        assert ask(daemon, "OPTIONS * HTTP/1.1", "Host: x").status in (200, 204)

    @pytest.mark.parametrize("method", ["TRACE", "CONNECT", "PATCH", "DELETE"])
    def test_a_known_one_that_is_not_taken_is_405(self, daemon: Daemon, method: str) -> None:
        answer = ask(daemon, f"{method} /health HTTP/1.1", "Host: x")
        assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD, OPTIONS")

    @pytest.mark.parametrize("method", ["FOO", "get", "PROPFIND"])
    def test_an_unknown_one_is_501(self, daemon: Daemon, method: str) -> None:
        for path in ("/health", "/chat/1"):
            answer = ask(daemon, f"{method} {path} HTTP/1.1", "Host: x")
            assert (answer.status, "GET" in answer.headers["allow"]) == (501, True)


class TestNegotiation:
    @pytest.mark.parametrize(
        "accept",
        [
            *("application/json, text/plain, */*", "application/json, text/plain;q=0.9"),
            *("text/plain;q=0.5, application/json", "text/html,application/xhtml+xml,*/*;q=0.8"),
            *("text/plain;q=0", "text/plain;q=0, */*", "nonsense", "text/plain;q=x"),
        ],
    )
    def test_metrics_are_json_for_who_prefers_that_or_neither(self, daemon: Daemon, accept: str) -> None:
        answer = daemon.get("/metrics", headers={"Accept": accept})
        assert (answer.headers["content-type"], answer.headers["vary"]) == ("application/json", "Accept")

    @pytest.mark.parametrize(
        "accept",
        [
            *("text/plain", "TEXT/Plain; Version=0.0.4", "text/*", "text/plain, application/json"),
            *("application/json;q=0.1, text/*", "application/openmetrics-text"),
            *("application/openmetrics-text;version=1.0.0;q=0.5,*/*;q=0.1",),
        ],
    )
    def test_metrics_are_text_for_who_prefers_that(self, daemon: Daemon, accept: str) -> None:
        assert daemon.get("/metrics", headers={"Accept": accept}).headers["content-type"].startswith("text/plain")

    @pytest.mark.parametrize("item", ["a/b,", "text/plain;q=0.1,", "a/b;x=y;", '"', ",", "x*=utf-8''%aa;"])
    def test_a_header_as_long_as_a_book_is_not_weighed_and_holds_nobody_up(self, daemon: Daemon, item: str) -> None:
        header = item * (12_000 // len(item))
        answer = daemon.get("/metrics", headers={"Accept": header})
        assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
        assert daemon.get("/chatflow.js", headers={"If-None-Match": header}).status == 200

    @pytest.mark.parametrize("form", ["{}", "W/{}", '"x", {}', '"x",W/{},"y"', "*"])
    @pytest.mark.parametrize("method", ["GET", "HEAD"])
    def test_who_has_the_newest_is_told_so(self, daemon: Daemon, form: str, method: str) -> None:
        tag = daemon.get("/chatflow.js").headers["etag"]
        answer = daemon.get("/chatflow.js", method=method, headers={"If-None-Match": form.format(tag)})
        assert (answer.status, answer.body, answer.headers["etag"]) == (304, b"", tag)

    @pytest.mark.parametrize("form", ['"x"', 'W/"x"', '"x", "y"', "", "{}x"])
    def test_who_has_another_gets_it(self, daemon: Daemon, form: str) -> None:
        tag = daemon.get("/chatflow.js").headers["etag"].strip('"')
        answer = daemon.get("/chatflow.js", headers={"If-None-Match": form.format(tag)})
        assert (answer.status, len(answer.body) > 1000) == (200, True)


class TestHalfClosed:
    def test_each_request_is_answered(self, daemon: Daemon) -> None:
        for path in ("/health", "/", "/api/rooms", "/nowhere"):
            for _ in range(5):
                said = say_all_and_end(daemon, f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                assert said.startswith(b"HTTP/1.1 404" if path == "/nowhere" else b"HTTP/1.1 200")

    def test_so_are_several_at_once(self, daemon: Daemon) -> None:
        requests = b"GET /api/rooms HTTP/1.1\r\nHost: x\r\n\r\n" * 5
        assert say_all_and_end(daemon, requests).count(b"HTTP/1.1 200 OK") == 5

    @pytest.mark.parametrize(
        "data", [b"", b"GET", b"GET / HTTP/1.1\r\nHost: x\r\n", b"POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nx"]
    )
    def test_half_a_request_is_the_end(self, daemon: Daemon, data: bytes) -> None:
        assert say_all_and_end(daemon, data) == b""

    def test_nothing_is_left_of_who_asks_and_goes(self, daemon: Daemon) -> None:
        with daemon.held_database():
            for _ in range(3):
                with socket.create_connection(("127.0.0.1", daemon.port), 20) as connection:
                    connection.sendall(b"GET /api/rooms HTTP/1.1\r\nHost: x\r\n\r\n")
        assert daemon.get("/api/rooms").status == 200


def test_requests_in_a_row_are_answered_in_their_order(daemon: Daemon) -> None:
    paths = ["/health/live", "/nowhere", "/api/rooms", "/chat/1", "/health/ready"]
    with socket.create_connection(("127.0.0.1", daemon.port), 20) as connection:
        connection.sendall(b"".join(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode() for path in paths))
        connection.shutdown(socket.SHUT_WR)
        received = connection.makefile("rb").read()
    assert [int(part[:3]) for part in received.split(b"HTTP/1.1 ")[1:]] == [200, 404, 200, 426, 200]


def test_a_body_that_was_asked_about_is_waited_for(daemon: Daemon) -> None:
    head = b"POST /health HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: "
    with socket.create_connection(("127.0.0.1", daemon.port), 20) as connection:
        connection.sendall(head + b"5\r\n\r\n")
        assert connection.recv(1 << 16) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(b"hello")
        assert read_answer(connection).status == 405
    with socket.create_connection(("127.0.0.1", daemon.port), 20) as connection:
        connection.sendall(head + b"100000\r\n\r\n")
        received = connection.makefile("rb").read()
    assert received.startswith(b"HTTP/1.1 413") and b"100" not in received, "it is not to be sent"


def test_an_empty_line_before_a_request_is_passed_over(daemon: Daemon) -> None:
    """RFC 9112, 2.2: some clients send one behind the body of the request before."""
    request = b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    assert send_request(daemon.port, b"\r\n" + request, "GET").status == 200


def test_connection_close_in_a_list_closes(daemon: Daemon) -> None:
    with socket.create_connection(("127.0.0.1", daemon.port), 20) as connection:
        connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: x\r\nConnection: Close,x\r\n\r\n")
        assert connection.makefile("rb").read().endswith(b"0\r\n\r\n")


def test_the_log_stays_free_of_failures(daemon: Daemon, choosy: Daemon) -> None:
    for each in (daemon, choosy):
        assert each.errors() == ""
        assert "Traceback" not in each.output() and "#critical]" not in each.output()


def test_a_client_after_all_this_is_served(daemon: Daemon) -> None:
    with RawClient(daemon.port, "/chat/8") as client:
        client.send_message()
        assert client.receive().opcode == TEXT
