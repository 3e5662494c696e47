"""Connections to a port, of HTTP and of what becomes of it: how many, for how long, and what may wait for them.

Who has not finished a request has so long for it and no longer, whatever comes meanwhile; and gives its place to who
comes next, if there are too many of them. So there is always a place for the questions of a load balancer.

What waits for clients that do not read is bounded: a connection gets no further answer before it has taken the last
one; one that takes nothing of it for too long is ended; and so is, if what waits for all of them is too much, whoever
has taken nothing for the longest time.
"""

from __future__ import annotations

from functools import cached_property
from io import BytesIO
from typing import Any

from attrs import define
from twisted.internet.interfaces import IDelayedCall, IHalfCloseableProtocol, IProtocol
from twisted.web.http import HTTPChannel
from twisted.web.resource import IResource
from twisted.web.server import Request, Site
from zope.interface import implementer

from chatflow.authority import split_target
from chatflow.contracts.identity import ANYONE, Identity
from chatflow.edge.accounts import Account
from chatflow.edge.addresses import client_ip
from chatflow.edge.pace import charge_address, read_little
from chatflow.edge.security import SECURITY_HEADERS
from chatflow.edge.services import EdgeServices
from chatflow.edge.transports import untaken_bytes, waiting_bytes
from chatflow.edge.unfinished import Unfinished

#: No request needs a body; twisted.web would otherwise keep any length on disk.
_MAX_BODY_BYTES = 64 * 1024
#: For a request to begin behind an answer.
_REQUEST_SECONDS = 30

#: A client that has closed its half may have gone altogether, which cannot be told: it is not waited for longer.
HALF_CLOSED_SECONDS = 5

#: Connections of HTTP for which there is room when all WebSocket connections are taken.
SPARE_CONNECTIONS = 1000

#: The most that waits for all clients of HTTP together. One page of history is at most 3.5 MB.
MAX_UNREAD_BYTES = 64 * 1024 * 1024


class _BoundedRequest(Request):
    """Refuses bodies before they are read, and takes a target in absolute form for what it names.

    :ivar client_ip: the address of who made it, as far as it has one; see :mod:`chatflow.edge.proxies`.
    :ivar target_host: the host in a target of absolute form.
    :ivar is_malformed: whether the target is none.
    :ivar identity: who asks, and what they may see and do.
    """

    channel: Any
    client_ip: str | None = None
    target_host: bytes | None = None
    is_malformed = False
    identity: Identity = ANYONE
    _is_refused = False

    def gotLength(self, length: int | None) -> None:
        self.content = BytesIO()
        if length is not None and length > _MAX_BODY_BYTES:
            self._refuse_body()

    def handleContentChunk(self, data: bytes) -> None:
        if self.content.tell() + len(data) <= _MAX_BODY_BYTES:  # type: ignore[union-attr]
            super().handleContentChunk(data)
        else:
            self._refuse_body()

    def _refuse_body(self) -> None:
        if not self._is_refused:
            self._is_refused = True
            self.requestHeaders.removeHeader(b"expect")  # it is not to be sent: nothing more is said
            self.channel.refuse(b"413 Content Too Large")

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        if self._is_refused:
            return
        try:
            self.target_host, path = split_target(path)
        except ValueError:
            self.is_malformed = True
        super().requestReceived(command, path, version)

    def process(self) -> None:
        for name, value in SECURITY_HEADERS:
            self.responseHeaders.setRawHeaders(name, [value])
        super().process()

    def render(self, resource: Any) -> None:
        channel = self.channel
        super().render(resource)
        if channel.upgraded is not None:
            channel.site.left(channel)


@implementer(IHalfCloseableProtocol)
class _BoundedChannel(HTTPChannel):
    """Ends with the first request that comes while the answers to earlier ones wait for the client.

    Twisted answers pipelined requests whether or not anybody reads, and keeps all the answers.
    """

    site: ChatSite
    #: What took the connection over, if anything did.
    upgraded: IProtocol | None = None
    #: For how long a client that has closed its half still gets its answer. An answer without end sets it to 0.
    half_closed_seconds: float = HALF_CLOSED_SECONDS
    _answers_wait = False
    _is_half_closed = False
    _rest: IDelayedCall | None = None
    _is_ending = False
    _last_wait: IDelayedCall | None = None

    def connectionMade(self) -> None:
        self.site.came(self)
        super().connectionMade()
        accounts, ip = self.site.services.accounts, client_ip(self.transport.getPeer())  # type: ignore[union-attr]
        if not self.is_of_proxy and accounts.of_address(ip) is not None:
            read_little(self.transport)
        if not self.site.services.proxies.may_speak(self.transport):
            self.site.services.accounts.limited["proxy"] += 1
            self.transport.abortConnection()  # type: ignore[union-attr]

    def dataReceived(self, data: bytes) -> None:
        super().dataReceived(data)
        if self.upgraded is None and not self._is_ending and self._account is not None:
            wait = charge_address(self.site.services, self._account, len(data))
            if wait and self._rest is None:
                self._rest = self.callLater(wait, self._rested)
                self._stay_at_rest()

    def _stay_at_rest(self) -> None:
        """Read nothing while the address owes for what was read; what Twisted would read on for is behind that."""
        if self._rest is not None and self.upgraded is None:
            self._networkProducer.pauseProducing()

    def _end_rest(self) -> None:
        if self._rest is not None:
            self._rest.cancel()
            self._rested()

    def _rested(self) -> None:
        self._rest = None
        if self.upgraded is None and not (self._answers_wait or (self._handlingRequest and not self._is_ending)):
            self._networkProducer.resumeProducing()

    def headerReceived(self, line: bytes) -> bool:
        try:
            return bool(super().headerReceived(line))
        except ValueError:  # a Content-Length of more digits than int() takes
            self.refuse(b"400 Bad Request")
            return False

    def allContentReceived(self) -> None:
        """A request is whole."""
        self.site.unfinished.forget(self)
        super().allContentReceived()

    def connectionLost(self, reason: Any) -> None:  # type: ignore[override]
        self._wait_no_more()
        if self._rest is not None:
            self._rest.cancel()
        self.site.left(self)
        super().connectionLost(reason)

    @cached_property
    def _account(self) -> Account | None:
        """What its address has and takes; None if that has no limits, or is a proxy's. Known once something came."""
        peer = self.transport.getPeer()  # type: ignore[union-attr]
        return None if self.is_of_proxy else self.site.services.accounts.of_address(client_ip(peer))

    def loseConnection(self) -> Any:
        self._is_ending = True
        self._end_rest()  # in TLS the other end has a last word, too
        return super().loseConnection()

    def readConnectionLost(self) -> None:
        """The client sends no more, as ``nc`` says at the end of its input; what it asked for is answered yet."""
        if self._is_half_closed:
            return
        self._is_half_closed = True
        self._end_unless_busy()

    def writeConnectionLost(self) -> None:
        """Never: this side is not closed by halves."""

    def requestDone(self, request: Any) -> None:
        if self.persistent:
            self.site.unfinished.add(self, _REQUEST_SECONDS)
        super().requestDone(request)
        self._stay_at_rest()
        if self._is_half_closed:
            self._wait_no_more()
            self._last_wait = self.callLater(0, self._end_unless_busy)  # the next request may be read already

    def _end_unless_busy(self) -> None:
        if self._handlingRequest:
            self._last_wait = self.callLater(self.half_closed_seconds, self.forceAbortClient)
        else:
            self.loseConnection()

    def _wait_no_more(self) -> None:
        if self._last_wait is not None and self._last_wait.active():
            self._last_wait.cancel()

    def timeoutConnection(self) -> None:
        """Nothing came for a while: the end, unless an answer is still on its way to a slow client."""
        if self._answers_wait:
            self.setTimeout(self.timeOut)
        else:
            super().timeoutConnection()

    def pauseProducing(self) -> None:
        self._answers_wait = True
        super().pauseProducing()
        self.site.does_not_read(self)

    def resumeProducing(self) -> None:
        self._answers_wait = False
        self.site.has_read(self)
        super().resumeProducing()
        self._stay_at_rest()

    def lineLengthExceeded(self, line: bytes) -> None:
        """A header, or the target, is longer than any that a client has cause to send."""
        self.refuse(b"431 Request Header Fields Too Large")

    def refuse(self, status: bytes) -> None:
        """Answer what is no whole request, and end the connection."""
        head = [b"HTTP/1.1 " + status, b"connection: close", b"content-length: 0"]
        head += [name + b": " + value for name, value in SECURITY_HEADERS]
        self.transport.write(b"\r\n".join([*head, b"", b""]))  # type: ignore[union-attr]
        self._wait_no_more()
        self._last_wait = self.callLater(HALF_CLOSED_SECONDS, self.transport.abortConnection)  # type: ignore[union-attr]
        self.loseConnection()

    def _respondToBadRequestAndDisconnect(self) -> None:
        """What Twisted calls when it cannot read a request."""
        self.refuse(b"400 Bad Request")

    @property
    def is_slow(self) -> bool:
        """Whether an answer is still on its way."""
        return self._answers_wait

    @property
    def is_of_proxy(self) -> bool:
        """Whether who asks is somebody else than who connected."""
        return self.site.services.proxies.trusts(self.transport.getPeer())  # type: ignore[union-attr]

    def rawDataReceived(self, data: bytes) -> None:
        """Bytes behind a request: of its body, of the next one, or frames that came together with a handshake."""
        if self.upgraded is not None:
            self.upgraded.dataReceived(data)
        else:
            super().rawDataReceived(data)

    def checkPersistence(self, request: Any, version: bytes) -> bool:
        # Twisted looks for "close" alone, and not in a list.
        options = b",".join(request.requestHeaders.getRawHeaders(b"connection", [])).lower().split(b",")
        if b"close" in (option.strip() for option in options):
            request.responseHeaders.setRawHeaders(b"connection", [b"close"])
            return False
        return bool(super().checkPersistence(request, version)) and not self._answers_wait


@define
class _Unread:
    """What waits for a channel, here and with what the system has; and since when the latter is no less."""

    moved_at: float
    waiting_bytes: int = 0
    untaken_bytes: int = 0

    def look(self, transport: Any, now: float) -> None:
        untaken = untaken_bytes(transport)
        if untaken < self.untaken_bytes:
            self.moved_at = now
        self.untaken_bytes = untaken
        self.waiting_bytes = waiting_bytes(transport)


class ChatSite(Site):
    """The site of one port. Writes no access log: requests are counted, and bodies and addresses are private.

    :param services: their limits and counters are those of the port.
    """

    protocol = _BoundedChannel  # type: ignore[assignment]
    requestFactory = _BoundedRequest

    def __init__(self, root: IResource, services: EdgeServices, reactor: Any) -> None:
        super().__init__(root, timeout=_REQUEST_SECONDS, reactor=reactor)
        self.displayTracebacks = False
        self.services = services
        self._channels: set[_BoundedChannel] = set()
        self.unfinished = Unfinished(services)
        self._unread: dict[_BoundedChannel, _Unread] = {}

    def buildProtocol(self, addr: Any) -> Any:
        """None, which closes the connection at once, for whom it does not take."""
        return self.serve(addr) if self.takes(addr) else None

    def takes(self, peer: Any) -> bool:
        """Whether who comes from there is served: not if its address is shut out, or all places wait for answers.

        To be asked once for each connection.
        """
        if self._comes_too_often(peer):
            self.services.accounts.limited["accept_rate"] += 1
            return False
        connections = len(self._channels) + len(self.services.connections)
        if connections >= self.services.limits.max_connections + SPARE_CONNECTIONS and not self.unfinished.end_one():
            self.services.counters.connections_refused += 1
            return False
        return True

    def serve(self, peer: Any) -> Any:
        """A protocol for who is taken."""
        return super().buildProtocol(peer)

    def _comes_too_often(self, peer: Any) -> bool:
        """Whether it is not even worth telling: each connection that is told costs as much as some messages do.

        What it has begun ends then, too: it would be refused, at that cost, as soon as it was finished.
        """
        limits = self.services.limits
        rates = (limits.connections_per_second_per_address, limits.requests_per_second_per_address)
        account = self.services.accounts.of_address(client_ip(peer))
        if account is None or not all(rates) or self.services.proxies.trusts(peer):
            return False
        now = self.services.clock.seconds()
        if account.accepts.take(now, 2 * sum(rates)):
            account.shut_out(now)
        if not account.is_shut_out(now):
            return False
        self.unfinished.end_all_of(peer)
        return True

    def came(self, channel: _BoundedChannel) -> None:
        """Count an HTTP connection as open."""
        self._channels.add(channel)
        self.unfinished.add(channel)

    def left(self, channel: _BoundedChannel) -> None:
        """It has ended, or is no longer one of HTTP."""
        self._channels.discard(channel)
        self.unfinished.forget(channel)
        self._unread.pop(channel, None)

    def does_not_read(self, channel: _BoundedChannel) -> None:
        """More waits for it than the system takes."""
        if channel not in self._unread:
            self._unread[channel] = _Unread(self.services.clock.seconds())
        self.end_stalled()

    def has_read(self, channel: _BoundedChannel) -> None:
        """Nothing waits for it any more."""
        self._unread.pop(channel, None)

    def end_stalled(self) -> None:
        """End who has taken nothing for too long, and, while too much waits for all, who has for the longest time.

        To be called at times: it sees that something was taken by looking twice.
        """
        now = self.services.clock.seconds()
        for channel, unread in self._unread.items():
            unread.look(channel.transport, now)
        total = sum(unread.waiting_bytes for unread in self._unread.values())
        for channel, unread in sorted(self._unread.items(), key=lambda item: item[1].moved_at):
            if now - unread.moved_at < self.services.limits.send_timeout_seconds and total <= MAX_UNREAD_BYTES:
                break
            total -= unread.waiting_bytes
            del self._unread[channel]
            self.services.counters.slow_clients_closed += 1
            channel.transport.abortConnection()  # type: ignore[union-attr]

    def log(self, request: Any) -> None:
        """Nothing; see the class."""
