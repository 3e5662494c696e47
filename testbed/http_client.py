"""HTTP with the standard library's client, and with bytes of one's own choice."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import socket
from collections.abc import Mapping
from typing import Any

from attrs import frozen

_SECONDS = 20.0


@frozen
class Answer:
    """What a server answered. Header names are lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """The body, parsed."""
        return json.loads(self.body)


def request(
    port: int, method: str, path: str, headers: Mapping[str, str] | None = None, body: bytes | None = None
) -> Answer:
    """One request to this machine, on a connection of its own.

    :raises OSError: nobody listens.
    """
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_SECONDS)
    try:
        connection.request(method, path, body, dict(headers or {}))
        return _answer(connection.getresponse())
    finally:
        connection.close()


def send_request(port: int, data: bytes, method: str = "GET") -> Answer:
    """Send ``data`` as it is, and read one response; the server may answer before it has all of it.

    :raises http.client.HTTPException: what came is no response, or nothing came.
    """
    with socket.create_connection(("127.0.0.1", port), timeout=_SECONDS) as connection:
        with contextlib.suppress(OSError):  # refused midway; the answer was sent before that
            connection.sendall(data)
        return read_answer(connection, method)


def read_answer(connection: socket.socket, method: str = "GET") -> Answer:
    """The response that comes on a connection."""
    response = http.client.HTTPResponse(connection, method=method)
    response.begin()
    return _answer(response)


def parse_head(head: bytes) -> Answer:
    """Status and headers in the bytes up to the empty line."""

    class _Bytes:
        def makefile(self, *_: object) -> io.BytesIO:
            return io.BytesIO(head)

    response = http.client.HTTPResponse(_Bytes())  # type: ignore[arg-type]
    response.begin()
    return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, b"")


def _answer(response: http.client.HTTPResponse) -> Answer:
    headers = {name.lower(): value for name, value in response.getheaders()}
    return Answer(response.status, headers, response.read())
