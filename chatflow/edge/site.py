"""Connections to a port, of HTTP and of what becomes of it: how many, and what may wait for them.

What waits for clients that do not read is bounded: a connection gets no further answer before it has taken the last
one, and only so many may have one to take.
"""

from __future__ import annotations

from typing import Any

from twisted.web.http import HTTPChannel
from twisted.web.resource import IResource
from twisted.web.server import Request, Site

from chatflow.edge.connections import ChatFactory

#: No request needs a body; twisted.web would otherwise keep any length on disk.
_MAX_BODY_BYTES = 64 * 1024
_REQUEST_SECONDS = 30

#: Connections of HTTP for which there is room when all WebSocket connections are taken.
SPARE_CONNECTIONS = 1000

#: How many clients may leave more than 64 KiB of an answer unread; of a page that is at most 3.5 MB.
MAX_UNREAD_ANSWERS = 32


class _BoundedRequest(Request):
    """Refuses bodies before they are read."""

    channel: Any

    def gotLength(self, length: int | None) -> None:
        if length is not None and length <= _MAX_BODY_BYTES:
            super().gotLength(length)
            return
        super().gotLength(0)
        if length is not None or self.requestHeaders.hasHeader(b"transfer-encoding"):
            self.channel.transport.write(b"HTTP/1.1 413 Content Too Large\r\nconnection: close\r\n\r\n")
            self.channel.loseConnection()

    def render(self, resource: Any) -> None:
        channel = self.channel
        super().render(resource)
        if channel.transport is None:  # it is a WebSocket connection now, and Autobahn's
            channel.site.left(channel)


class _BoundedChannel(HTTPChannel):
    """Ends with the first request that comes while the answers to earlier ones wait for the client.

    Twisted answers pipelined requests whether or not anybody reads, and keeps all the answers.
    """

    site: ChatSite
    _answers_wait = False

    def connectionMade(self) -> None:
        self.site.came(self)
        super().connectionMade()

    def connectionLost(self, reason: Any) -> None:  # type: ignore[override]
        self.site.left(self)
        super().connectionLost(reason)

    def pauseProducing(self) -> None:
        self._answers_wait = True
        super().pauseProducing()
        self.site.does_not_read(self)

    def resumeProducing(self) -> None:
        self._answers_wait = False
        self.site.has_read(self)
        super().resumeProducing()

    def checkPersistence(self, request: Any, version: bytes) -> bool:
        return bool(super().checkPersistence(request, version)) and not self._answers_wait


class ChatSite(Site):
    """The site of one port. Writes no access log: requests are counted, and bodies and addresses are private.

    :param edge: its limits and counters are those of the port.
    """

    protocol = _BoundedChannel  # type: ignore[assignment]
    requestFactory = _BoundedRequest

    def __init__(self, root: IResource, edge: ChatFactory, reactor: Any) -> None:
        super().__init__(root, timeout=_REQUEST_SECONDS, reactor=reactor)
        self.displayTracebacks = False
        self._edge = edge
        self._channels: set[_BoundedChannel] = set()
        #: Who does not read, longest first.
        self._unread: dict[_BoundedChannel, None] = {}

    def buildProtocol(self, addr: Any) -> Any:
        """None, which closes the connection at once, if there are too many."""
        connections = len(self._channels) + len(self._edge.protocols)
        if connections >= self._edge.limits.max_connections + SPARE_CONNECTIONS:
            self._edge.counters.connections_refused += 1
            return None
        return super().buildProtocol(addr)

    def came(self, channel: _BoundedChannel) -> None:
        """A connection is open."""
        self._channels.add(channel)

    def left(self, channel: _BoundedChannel) -> None:
        """It has ended, or is no longer one of HTTP."""
        self._channels.discard(channel)
        self._unread.pop(channel, None)

    def does_not_read(self, channel: _BoundedChannel) -> None:
        """More waits for it than the system takes. If that is so of too many, the one of longest standing is ended."""
        self._unread[channel] = None
        if len(self._unread) > MAX_UNREAD_ANSWERS:
            slowest = next(iter(self._unread))
            del self._unread[slowest]
            self._edge.counters.slow_clients_closed += 1
            slowest.transport.abortConnection()  # type: ignore[union-attr]

    def has_read(self, channel: _BoundedChannel) -> None:
        """Nothing waits for it any more."""
        self._unread.pop(channel, None)

    def log(self, request: Any) -> None:
        """Nothing; see the class."""
