"""Whatever bytes come to the port: answers that are HTTP, or the end of the connection; and nothing fails within."""

from __future__ import annotations

import contextlib
import http.client
import io
import re
import socket
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.daemon import Daemon, running_daemon
from testbed.postgres import fresh_database

_METHODS = st.sampled_from(
    ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "CONNECT", "TRACE", "get", "X", ""]
)
_PATHS = st.sampled_from(
    [
        *(
            "/",
            "*",
            "/health",
            "/health/ready",
            "/metrics",
            "/chat/1",
            "/chat/",
            "/chatflow.js",
            "/dashboard",
            "/queue/all",
        ),
        *("/api/rooms", "/api/rooms/1/messages", "/api/rooms/1/presence", "/api/users/1/rooms", "/api/metrics/stats"),
        *(
            "/api/openapi.json",
            "//",
            "/..",
            "/%00",
            "/%ff",
            "http://x/health",
            "http://",
            "x",
            "/api/rooms/%2f/messages",
        ),
    ]
)
_QUERIES = st.sampled_from(
    ["", "?", "?limit=1", "?since=0", "?userId=1&username=abc", "?%", "?limit=%ff&after=", "?a=b&a=c"]
)
_VERSIONS = st.sampled_from(["HTTP/1.1", "HTTP/1.0", "HTTP/2", "HTTP/0.9", "", "http/1.1"])
_LINE_ENDS = st.sampled_from(["\r\n", "\r\n", "\r\n", "\n", "\r"])
_VALUES = st.one_of(
    st.sampled_from(
        ["", "x", "0", "5", "-1", "99999999999", "chunked", "close", "keep-alive", "Upgrade", "websocket", "13"]
    ),
    st.sampled_from(
        ["gzip", "application/json", "text/plain", "*/*", "a=b;q=x, text/plain;q=9", "https://x", "null", "::1"]
    ),
    st.sampled_from(
        ["for=1.2.3.4", "100-continue", "dGhlIHNhbXBsZSBub25jZQ==", "Bearer x.y.z", 'W/"x", *', "bytes=0-"]
    ),
    st.text(st.characters(codec="latin-1", exclude_characters="\r\n"), max_size=20),
)
_NAMES = st.sampled_from(
    [
        *("Host", "Connection", "Upgrade", "Content-Length", "Transfer-Encoding", "Content-Type", "Content-Encoding"),
        *("Sec-WebSocket-Key", "Sec-WebSocket-Version", "Sec-WebSocket-Protocol", "Sec-WebSocket-Extensions", "Origin"),
        *(
            "Accept",
            "If-None-Match",
            "Expect",
            "Authorization",
            "Idempotency-Key",
            "X-Forwarded-For",
            "Forwarded",
            "Range",
        ),
        *("Access-Control-Request-Method", "Cookie", "", " ", "x y"),
    ]
)
_BODIES = st.one_of(
    st.just(b""),
    st.binary(max_size=40),
    st.sampled_from([b"{}", b"5\r\nhello\r\n0\r\n\r\n", b"0\r\n\r\n", b"fffffffff\r\n", b"\xff\r\n", b'{"userId":1}']),
)


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """What begins like a request."""
    end = draw(_LINE_ENDS)
    first = f"{draw(_METHODS)} {draw(_PATHS)}{draw(_QUERIES)} {draw(_VERSIONS)}"
    lines = [first] if not draw(st.booleans()) else [first, "Host: x"]
    lines += [f"{name}: {value}" for name, value in draw(st.lists(st.tuples(_NAMES, _VALUES), max_size=6))]
    head = end.join([*lines, "", ""]).encode("latin-1")
    return head + draw(_BODIES)


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with fresh_database() as url, running_daemon("--allowed-origins", "https://x", database=url) as daemon:
        yield daemon


def say(daemon: Daemon, data: bytes) -> bytes:
    """All that is said to a client that ends behind these bytes."""
    received = b""
    with socket.create_connection(("127.0.0.1", daemon.port), 20) as connection, contextlib.suppress(ConnectionError):
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        while more := connection.recv(1 << 16):
            received += more
    return received


def check(daemon: Daemon, data: bytes) -> None:
    received = say(daemon, data)
    if received:
        assert re.match(rb"HTTP/1\.[01] [1-5][0-9]{2} ", received), received[:200]
        response = http.client.HTTPResponse(_Bytes(received), method="HEAD")  # type: ignore[arg-type]
        response.begin()
        assert response.status not in (500, 502), received[:500]
    assert "Traceback" not in daemon.output() and "Unhandled" not in daemon.output(), data


class _Bytes:
    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, *_: object) -> io.BytesIO:
        return io.BytesIO(self._data)


@given(st.lists(requests(), min_size=1, max_size=3).map(b"".join))
def test_requests(daemon: Daemon, data: bytes) -> None:
    check(daemon, data)


@given(st.binary(max_size=200))
def test_anything(daemon: Daemon, data: bytes) -> None:
    check(daemon, data)
