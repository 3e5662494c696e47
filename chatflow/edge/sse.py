"""Server-sent events: one body for all who listen, and nobody who can hold it up.

https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IPushProducer, IReactorTime
from zope.interface import implementer

from chatflow.edge.refusals import RequestRefused

#: How many may listen at once.
MAX_STREAMS = 32
#: One that has not taken what was written for so long is ended.
MAX_UNREAD_SECONDS = 10.0
#: When a browser that lost its stream comes back.
RETRY_MS = 2000


def event(data: bytes, *, name: str = "", event_id: str = "") -> bytes:
    """One event. :param data: without line breaks, such as JSON."""
    assert b"\n" not in data and b"\r" not in data
    lines = [f"id: {event_id}\n".encode()] if event_id else []
    if name:
        lines.append(f"event: {name}\n".encode())
    return b"".join([*lines, b"data: ", data, b"\n\n"])


@implementer(IPushProducer)
@define(eq=False)
class _Stream:
    """One listener. ``unread_since``: when the system took no more of what was written; None if it does."""

    request: Any
    ended: Deferred[bytes]
    clock: IReactorTime
    unread_since: float | None = field(default=None, init=False)

    def pauseProducing(self) -> None:
        self.unread_since = self.clock.seconds()

    def resumeProducing(self) -> None:
        self.unread_since = None

    def stopProducing(self) -> None:
        pass  # the connection is gone, which the request tells by itself


class EventStreams:
    """All streams of one address. Runs on the reactor thread.

    :param changed: called with the number of listeners whenever that has changed.
    """

    def __init__(
        self, *, clock: IReactorTime, changed: Callable[[int], object], max_streams: int = MAX_STREAMS
    ) -> None:
        self._clock = clock
        self._changed = changed
        self._max_streams = max_streams
        self._streams: dict[_Stream, None] = {}
        self._closed = False
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._streams)

    async def serve(self, request: Any, first: Callable[[str], bytes]) -> bytes:
        """Answer a request with a stream, until its client leaves or :meth:`close` ends it.

        :param first: given the id of the last event that the client has, or nothing; what it gets before all others.
        :raises RequestRefused: there are too many, or they have been closed.
        """
        if self._closed:
            raise RequestRefused(503, "draining", "the server is stopping: ask another", {"retry-after": "1"})
        if len(self._streams) >= self._max_streams:
            raise RequestRefused(
                503, "too_many_streams", f"{self._max_streams} listen already: try again later", {"retry-after": "5"}
            )
        request.setHeader(b"content-type", b"text/event-stream")
        request.setHeader(b"cache-control", b"no-store")
        request.setHeader(b"x-content-type-options", b"nosniff")
        request.setHeader(b"x-accel-buffering", b"no")  # nginx would collect events
        if request.method == b"HEAD":
            return b""
        # The connection is of no use afterwards: who comes back should find an instance that goes on.
        request.setHeader(b"connection", b"close")
        # A browser that closes a stream closes its half first: its place is free at once.
        request.channel.half_closed_seconds = 0
        request.notifyFinish().addCallback(lambda _, channel=request.channel: channel.loseConnection())
        stream = _Stream(request, Deferred(), self._clock)
        request.registerProducer(stream, True)
        self._streams[stream] = None
        self._changed(len(self._streams))
        last_id = (request.getHeader(b"last-event-id") or b"").decode("latin-1")
        try:
            request.write(f"retry: {RETRY_MS}\n\n".encode() + first(last_id))
            await stream.ended
            request.unregisterProducer()
        except CancelledError:
            pass  # the client is gone
        finally:
            del self._streams[stream]
            self._changed(len(self._streams))
        return b""

    def send(self, data: bytes) -> None:
        """Write to everybody who has taken what came before; who has not for too long is ended.

        Others miss this, so that what waits for one of them is bounded.
        """
        now = self._clock.seconds()
        for stream in tuple(self._streams):
            if stream.unread_since is None:
                stream.request.write(data)
            elif now - stream.unread_since >= MAX_UNREAD_SECONDS:
                self.dropped += 1
                stream.request.channel.transport.abortConnection()

    def close(self, last: bytes = b"") -> None:
        """End all, each after ``last``, and take no more."""
        self._closed = True
        for stream in tuple(self._streams):
            if last and stream.unread_since is None:
                stream.request.write(last)
            stream.ended.callback(b"")
