"""A key set at a URL: a server on this machine publishes it, and does all that an issuer should not."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent

from chatflow.errors import TokenRefused, Unavailable
from chatflow.tokens.claims import Expected
from chatflow.tokens.jwks import ASK_AGAIN_SECONDS, MAX_JWKS_BYTES, Jwks, read_in_thread
from chatflow.tokens.keys import BadKeys
from chatflow.tokens.verifier import TokenCounts, TokenVerifier
from testbed.threads import beside
from testbed.tokens import AUDIENCE, Issuer, claims
from tests.support.reactor import on_reactor, reactor, until


class Publisher:
    """Of a key set: answers as the test says, and counts who asks."""

    def __init__(self) -> None:
        self.answer: tuple[int, dict[str, str], bytes] = (200, {}, b"")
        self.paths: list[str] = []
        publisher = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                publisher.paths.append(self.path)
                status, headers, body = publisher.answer
                self.send_response(status)
                for name, value in {"Content-Length": str(len(body)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self._handler = Handler
        self._port = 0
        self.open()
        self.url = f"http://127.0.0.1:{self._port}/keys"

    def open(self) -> None:
        """On the same port each time."""
        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), self._handler)
        self._port = self._server.server_port
        Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class SetClock(Clock):
    """A clock of the test's, and the real reactor's threads."""

    def callFromThread(self, call: Callable[..., object], *arguments: object) -> None:
        reactor.callFromThread(call, *arguments)


@pytest.fixture(scope="module")
def issuer() -> Issuer:
    return Issuer()


@pytest.fixture
def publisher(issuer: Issuer) -> Iterator[Publisher]:
    publisher = Publisher()
    publisher.answer = (200, {}, issuer.document("RS256"))
    yield publisher
    publisher.close()


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
def jwks(publisher: Publisher, clock: SetClock) -> Jwks:
    jwks = Jwks(reactor=clock, source=publisher.url, refresh_seconds=300)
    jwks.start()
    return jwks


def verifier_of(jwks: Jwks) -> TokenVerifier:
    expected = Expected(audiences=[AUDIENCE], issuer=None, leeway_seconds=30)
    return TokenVerifier(secrets=(), jwks=jwks, expected=expected, now=time.time, counts=TokenCounts())


@on_reactor
async def test_it_is_fetched_at_once_and_again_when_that_is_due(
    publisher: Publisher, jwks: Jwks, clock: SetClock, issuer: Issuer
) -> None:
    assert not jwks.is_known
    await jwks.look()
    assert jwks.is_known
    clock.advance(299)
    await jwks.look()
    assert publisher.paths == ["/keys"]
    publisher.answer = (200, {}, issuer.document("ES256"))
    clock.advance(1)
    with capturedLogs() as events:
        await jwks.look()
    assert (len(jwks.find("ES256", "ES256")), len(jwks.find("RS256", "RS256"))) == (1, 0)
    assert [formatEvent(event) for event in events] == [f"the keys of {publisher.url}: 1 keys, 1 new, 1 gone"]


@on_reactor
async def test_a_key_that_is_unknown_is_asked_for_at_most_every_ten_seconds(
    publisher: Publisher, jwks: Jwks, clock: SetClock, issuer: Issuer
) -> None:
    await jwks.look()
    verifier = verifier_of(jwks)
    new, forged = issuer.token("EdDSA", claims()), issuer.token("ES256", claims(), kid="forged")
    publisher.answer = (200, {}, issuer.document("RS256", "EdDSA"))
    with pytest.raises(Unavailable):
        verifier.verify(new)
    with pytest.raises(Unavailable):
        verifier.verify(forged)  # while it is under way, and no other is begun
    await until(lambda: jwks.find("EdDSA", "EdDSA"), "the new key")
    assert verifier.verify(new).user_id == 7
    clock.advance(ASK_AGAIN_SECONDS - 0.01)
    for _ in range(100):
        with pytest.raises(TokenRefused):
            verifier.verify(forged)
    assert len(publisher.paths) == 2
    clock.advance(0.01)
    with pytest.raises(Unavailable):
        verifier.verify(forged)
    await until(lambda: len(publisher.paths) == 3, "it is asked for again")


@on_reactor
async def test_what_cannot_be_used_leaves_the_old_keys_and_is_said_in_one_line(
    publisher: Publisher, jwks: Jwks, issuer: Issuer
) -> None:
    await jwks.look()
    document = issuer.document("ES256")
    elsewhere = {"Location": publisher.url + "-elsewhere"}
    for answer, told in (
        ((500, {}, document), "Internal Server Error"),
        ((404, {}, b""), "Not Found"),
        ((302, elsewhere, b""), "Found"),
        ((307, elsewhere, document), "Temporary Redirect"),
        ((200, {}, b"<html>\nhunter2"), "not a JSON Web Key Set"),
        ((200, {}, b""), "not a JSON Web Key Set"),
        ((200, {}, document + b" " * MAX_JWKS_BYTES), f"longer than {MAX_JWKS_BYTES} bytes"),
        ((200, {"Content-Length": str(len(document) + 9), "Connection": "close"}, document[:-9]), ""),
    ):
        publisher.answer = answer
        with capturedLogs() as events:
            await jwks.reload()
        (line,) = [str(formatEvent(event)) for event in events]
        assert told in line and "the 1 keys that are known stay" in line, line
        assert "\n" not in line and "hunter2" not in line
        assert jwks.find("RS256", "RS256") and not jwks.find("ES256", "ES256")
    assert set(publisher.paths) == {"/keys"}, "no redirect was followed"


@on_reactor
async def test_an_issuer_that_is_away_at_the_start_is_asked_until_it_is_there(
    publisher: Publisher, jwks: Jwks, issuer: Issuer
) -> None:
    publisher.close()
    token, verifier = issuer.token("RS256", claims()), verifier_of(jwks)
    with capturedLogs() as events:
        await jwks.look()
    assert ["Connection refused" in str(formatEvent(event)) for event in events] == [True]
    with capturedLogs() as events:
        with pytest.raises(Unavailable):
            verifier.verify(token)
        await until(lambda: events, "it is asked once more")
    with pytest.raises(Unavailable):
        verifier.verify(token)  # nobody can say that it is not good
    publisher.open()
    await jwks.look()
    assert verifier.verify(token).user_id == 7


_HEAD = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    ("scheme", "begin", "drop"),
    [
        ("http", b"", b" "),
        ("http", _HEAD, b"X"),
        ("http", _HEAD + b"Content-Length: 9999\r\n\r\n", b" "),
        ("http", _HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1"),
        ("https", b"\x16\x03\x03\x40\x00", b"\x02"),  # the header of a record of TLS (RFC 8446, 5.1)
    ],
    ids=["the status", "a header", "the body", "the length of a chunk", "TLS"],
)
def test_an_issuer_that_drips_is_given_up(scheme: str, begin: bytes, drop: bytes) -> None:
    def drip(over: Event) -> None:
        with contextlib.suppress(OSError), server.accept()[0] as client:
            client.sendall(begin)
            for _ in range(200):
                client.sendall(drop)  # which fails once the other end has gone
                if over.wait(0.02):
                    break

    with socket.create_server(("127.0.0.1", 0)) as server, beside("an issuer", drip):
        url = f"{scheme}://127.0.0.1:{server.getsockname()[1]}/keys"
        with pytest.raises(BadKeys, match=r"the answer takes longer than 0\.2 s"):
            read_in_thread(url, seconds=0.2)


def test_a_file_that_is_read_again_says_what_is_new(tmp_path: Path, clock: SetClock, issuer: Issuer) -> None:
    file = tmp_path / "keys.json"
    file.write_bytes(issuer.document("RS256"))
    jwks = Jwks(reactor=clock, source=str(file), refresh_seconds=300)
    jwks.start()
    assert jwks.read_again() is None
    file.write_bytes(issuer.document("RS256", "ES256"))
    assert jwks.read_again() == "2 keys, 1 new, 0 gone"
    file.write_bytes(b"{")
    with pytest.raises(BadKeys):
        jwks.read_again()
    assert jwks.find("ES256", None)
