"""One connection of a client: Autobahn's protocol as Deferreds and calls."""

from __future__ import annotations

from typing import Any, Protocol
from urllib.parse import urlencode, urlsplit

import msgspec
import txaio
from autobahn.twisted.websocket import WebSocketClientFactory, WebSocketClientProtocol
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS

SUBPROTOCOL = "chatflow.v2"

_HANDSHAKE_SECONDS = 10
_CLOSE_SECONDS = 5
#: A server of which nothing was heard is asked; one that does not answer in the same time is given up.
_PING_SECONDS = 15
_MAX_FRAME_BYTES = 1 << 20


class Listener(Protocol):
    """Who is told of frames."""

    def heard(self, frame: dict[str, Any]) -> None:
        """A frame, decoded."""


class Connection(WebSocketClientProtocol):
    """:ivar opened: fires with None once the handshake is done; fails with ConnectionError if the server refuses.
    :ivar closed: fires with None when the connection is gone.
    """

    factory: _Factory
    transport: Any

    def __init__(self) -> None:
        super().__init__()
        self.opened: Deferred[None] = Deferred()
        self.closed: Deferred[None] = Deferred()

    def onOpen(self) -> None:
        self.opened.callback(None)

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        try:
            frame = msgspec.json.decode(payload)
        except msgspec.DecodeError:
            self.abort()
            return
        if isinstance(frame, dict):
            self.factory.listener.heard(frame)

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        if not self.opened.called:
            self.opened.errback(ConnectionError(f"the server refuses the connection: {reason}"))
        if not self.closed.called:
            self.closed.callback(None)

    def send(self, frame: bytes) -> None:
        """Send a text frame, unless it is closing."""
        if self.state == self.STATE_OPEN:
            self.sendMessage(frame)

    def abort(self) -> None:
        """End it at once."""
        self.dropConnection(abort=True)


class _Factory(WebSocketClientFactory):
    protocol = Connection  # type: ignore[assignment]

    def __init__(self, url: str, listener: Listener, reactor: Any) -> None:
        # Autobahn's timers follow this.
        if txaio.config.loop is None:  # type: ignore[attr-defined]
            txaio.config.loop = reactor  # type: ignore[attr-defined]
        super().__init__(url, protocols=[SUBPROTOCOL], reactor=reactor)
        self.listener = listener
        self.setProtocolOptions(
            openHandshakeTimeout=_HANDSHAKE_SECONDS,
            closeHandshakeTimeout=_CLOSE_SECONDS,
            autoPingInterval=_PING_SECONDS,
            autoPingTimeout=_PING_SECONDS,
            maxFramePayloadSize=_MAX_FRAME_BYTES,
            maxMessagePayloadSize=_MAX_FRAME_BYTES,
            tcpNoDelay=True,
        )


async def open_connection(reactor: Any, url: str, query: dict[str, Any], listener: Listener) -> Connection:
    """A connection whose handshake is done.

    :param url: of the room, such as ``ws://localhost:8080/chat/1``.
    :raises Exception: of many kinds: no such host, refused, too late.
    """
    address = f"{url}?{urlencode(query)}" if query else url
    parts = urlsplit(url)
    secure = parts.scheme == "wss"
    host = parts.hostname or "localhost"
    endpoint: Any = HostnameEndpoint(reactor, host, parts.port or (443 if secure else 80), timeout=_HANDSHAKE_SECONDS)
    if secure:
        from twisted.internet.ssl import optionsForClientTLS

        endpoint = wrapClientTLS(optionsForClientTLS(host), endpoint)
    connection: Connection = await endpoint.connect(_Factory(address, listener, reactor))
    await connection.opened
    return connection
