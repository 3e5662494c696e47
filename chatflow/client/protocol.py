"""One connection of a client: Autobahn's protocol as Deferreds and calls."""

from __future__ import annotations

from typing import Annotated, Any, Protocol
from urllib.parse import urlencode, urlsplit

import msgspec
import txaio
from autobahn.twisted.websocket import WebSocketClientFactory, WebSocketClientProtocol
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.task import LoopingCall

from chatflow.errors import ChatFlowError

SUBPROTOCOL = "chatflow.v2"

_HANDSHAKE_SECONDS = 10
_CLOSE_SECONDS = 5
#: A server of which nothing was heard for so long is asked; one that does not answer in the same time is given up.
_PING_SECONDS = 15
_MAX_FRAME_BYTES = 1 << 20
#: What is answered so is answered so the next time too. 503 passes, and so may what a proxy says.
_FINAL_STATUSES = {400, 401, 403, 404}


#: The close code of who is banned while connected.
_BANNED = 4403


class Rejected(ChatFlowError):
    """The server does not let this client in: HTTP 400, 401, 403 or 404, or it closed the connection with 4403.

    The text says why.
    """


class Unauthorized(Rejected):
    """HTTP 401: the server wants a token, or another one."""


class TryLater(ConnectionError):
    """The server takes no connection of this client now, and says when it may (HTTP 429).

    :ivar seconds: until then.
    """

    def __init__(self, message: str, seconds: float) -> None:
        super().__init__(message)
        self.seconds = seconds


class Listener(Protocol):
    """Who is told of frames and of the end of a connection."""

    def heard(self, frame: dict[str, Any]) -> None:
        """A text frame arrived; ``frame`` is its JSON object."""


class Connection(WebSocketClientProtocol):
    """:ivar opened: fires with None once the handshake is done; fails with :class:`Rejected` or ConnectionError, of
        which :class:`TryLater` is one.
    :ivar closed: fires with the reason when the connection is gone; fails with :class:`Rejected` if there is to be no
        other one.
    """

    factory: _Factory
    transport: Any

    def __init__(self) -> None:
        super().__init__()
        self.opened: Deferred[None] = Deferred()
        self.closed: Deferred[str] = Deferred()
        self._paused = False
        self._heard = True
        self._pinged = False
        self._watch = LoopingCall(self._look)

    def onOpen(self) -> None:
        self._watch.clock = self.factory.reactor
        self._watch.start(_PING_SECONDS, now=False)
        self.opened.callback(None)

    def dataReceived(self, data: bytes) -> None:
        self._heard = True
        super().dataReceived(data)

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        try:
            frame = msgspec.json.decode(payload)
        except msgspec.DecodeError:
            self.abort()
            return
        if isinstance(frame, dict):
            self.factory.listener.heard(frame)

    def failHandshake(self, reason: str) -> None:
        status = (*self.http_status_line.split(), "", "")[1]
        answer = _error_answer(self.data.partition(b"\r\n\r\n")[2])
        message = answer.errorMessage or reason
        if status.isdigit() and int(status) in _FINAL_STATUSES:
            self.opened.errback(Unauthorized(message) if status == "401" else Rejected(message))
        elif answer.retryAfterMs is not None:
            self.opened.errback(TryLater(message, answer.retryAfterMs / 1000))
        super().failHandshake(reason)

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        if self._watch.running:
            self._watch.stop()
        if not self.opened.called:
            self.opened.errback(ConnectionError(f"the server refuses the connection: {reason}"))
        if not self.closed.called and code == _BANNED:
            self.closed.errback(Rejected(reason or "banned"))
        elif not self.closed.called:
            self.closed.callback(f"the connection ended with {code}: {reason}")

    def send(self, frame: bytes) -> None:
        """Send a text frame, unless it is closing."""
        if self.state == self.STATE_OPEN:
            self.sendMessage(frame)

    def pause(self) -> None:
        """Read nothing until :meth:`resume`. The server is told meanwhile that this client lives."""
        self._paused = True
        self.transport.pauseProducing()

    def resume(self) -> None:
        """Read from the connection again."""
        if self._paused:
            self._paused, self._heard = False, True
            self.transport.resumeProducing()

    def abort(self) -> None:
        """Close the TCP connection without a closing handshake."""
        self.dropConnection(abort=True)

    def _look(self) -> None:
        if self._paused:
            # What the server says is not read: its silence means nothing, and its pings get no answer.
            self.sendPong()
        elif self._heard:
            self._heard = self._pinged = False
        elif self._pinged:
            self.abort()
        else:
            self._pinged = True
            self.sendPing()


class _Factory(WebSocketClientFactory):
    protocol = Connection  # type: ignore[assignment]

    def __init__(self, url: str, listener: Listener, reactor: Any, headers: dict[str, str]) -> None:
        # Autobahn's timers follow this.
        if txaio.config.loop is None:  # type: ignore[attr-defined]
            txaio.config.loop = reactor  # type: ignore[attr-defined]
        super().__init__(url, protocols=[SUBPROTOCOL], reactor=reactor, headers=headers)
        if ":" in self.host:  # it becomes the header Host, where an IPv6 address is in brackets (RFC 9110, 7.2)
            self.host = f"[{self.host}]"
        self.listener = listener
        self.setProtocolOptions(
            openHandshakeTimeout=_HANDSHAKE_SECONDS,
            closeHandshakeTimeout=_CLOSE_SECONDS,
            autoPingInterval=0,  # Connection asks, since it knows when nothing is read
            maxFramePayloadSize=_MAX_FRAME_BYTES,
            maxMessagePayloadSize=_MAX_FRAME_BYTES,
            tcpNoDelay=True,
        )


async def open_connection(
    reactor: Any, url: str, query: dict[str, Any], listener: Listener, token: str | None = None
) -> Connection:
    """A connection whose handshake is done.

    :param url: of the room, such as ``ws://localhost:8080/chat/1``.
    :param token: says who this is, if the server asks for that.
    :raises Rejected: it is not worth while to try again.
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
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    connection: Connection = await endpoint.connect(_Factory(address, listener, reactor, headers))
    await connection.opened
    return connection


class _ErrorAnswer(msgspec.Struct):
    """What ChatFlow says in the answer to a request that it refuses, as far as it is used here."""

    errorMessage: str | None = None
    retryAfterMs: Annotated[float, msgspec.Meta(ge=0)] | None = None


_error_answers = msgspec.json.Decoder(_ErrorAnswer)


def _error_answer(body: bytes) -> _ErrorAnswer:
    """An empty one if that is not all here, or somebody else's."""
    try:
        return _error_answers.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _ErrorAnswer()
