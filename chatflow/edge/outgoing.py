"""What waits to be sent to one client: how much, since when nothing of it was taken, and what is held back.

What is bounded is what waits now, not what was ever written: a client that keeps up on the whole may never let its
buffer run empty, and stays.
"""

from __future__ import annotations

import contextlib
import fcntl
import struct
import termios
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IPushProducer
from zope.interface import implementer


def _connection(transport: Any) -> Any:
    while hasattr(transport, "wrappedProtocol"):  # TLS and PROXY protocol are wrapped around the connection itself
        transport = transport.transport
    return transport


def waiting_bytes(transport: Any) -> int:
    """What a Twisted transport has not given to the system yet; of TLS what is encrypted already.

    Twisted tells a producer when that is more than 64 KiB and when it is nothing, and not how much. Nor is there a
    public way to ask: this reads what its ``FileDescriptor._isSendBufferFull`` does.
    """
    connection = _connection(transport)
    return int(len(connection.dataBuffer) - connection.offset + connection._tempDataLen)


def untaken_bytes(transport: Any) -> int:
    """The same with what the system has and the other end has not acknowledged (``SIOCOUTQ``, tcp(7)).

    The system takes more in lumps, on Linux once a third of its buffer, of up to 4 MB, is free: a slow client may take
    bytes for a minute before that is seen without this.
    """
    fileno = getattr(_connection(transport), "fileno", None)
    queued = 0
    if fileno is not None:
        with contextlib.suppress(OSError):  # a kind of socket that does not tell
            (queued,) = struct.unpack("i", fcntl.ioctl(fileno(), termios.TIOCOUTQ, bytes(4)))
    return waiting_bytes(transport) + queued


@implementer(IPushProducer)
class Outgoing:
    """The writing side of a connection. It is the transport's producer from :meth:`start` on.

    :param max_bytes: the most that may wait.
    :param seconds: the time of a clock that is never set.
    """

    __slots__ = (
        "_counted_bytes",
        "_drained",
        "_held",
        "_held_bytes",
        "_max_bytes",
        "_moved_at",
        "_passed_on_bytes",
        "_paused",
        "_seconds",
        "_taken_bytes",
        "_transport",
    )

    def __init__(self, transport: Any, max_bytes: int, seconds: Callable[[], float]) -> None:
        self._transport = transport
        self._max_bytes = max_bytes
        self._seconds = seconds
        self._held: list[bytes] | None = None
        self._held_bytes = 0
        # While the transport's own buffer is over its mark: all that waited then and was written since, how much of
        # that the system had when we looked last, and how much the client had taken, which begins below zero with what
        # the system already held then.
        self._paused = False
        self._counted_bytes = 0
        self._passed_on_bytes = 0
        self._taken_bytes = 0
        self._moved_at = 0.0
        self._drained: Deferred[None] | None = None

    def start(self) -> None:
        """Listen to what the transport says of its buffer."""
        # Twisted's HTTP channel had registered itself, and Autobahn's resource leaves it so.
        self._transport.unregisterProducer()
        self._transport.registerProducer(self, True)

    def write(self, data: bytes) -> bool:
        """Send ``data``, or keep it until :meth:`release`. False if more waits now than may: nothing was written."""
        if self._held is not None:
            self._held_bytes += len(data)
            if self._held_bytes > self._max_bytes:
                return False
            self._held.append(data)
            return True
        if self._paused:
            counted = self._counted_bytes + len(data)
            if counted - self._passed_on_bytes > self._max_bytes:
                self._passed_on_bytes = self._counted_bytes - waiting_bytes(self._transport)
                if counted - self._passed_on_bytes > self._max_bytes:
                    return False
            self._counted_bytes = counted
        self._transport.write(data)
        return True

    def hold(self) -> None:
        """Keep what is written from now on."""
        self._held = []

    def release(self, first: bytes) -> None:
        """Send ``first`` and then what was kept."""
        held, self._held = self._held or [], None
        self._held_bytes = 0
        data = b"".join([first, *held])
        if self._paused:
            self._counted_bytes += len(data)
        self._transport.write(data)

    @property
    def holds(self) -> bool:
        """Whether what is written is kept."""
        return self._held is not None

    def drained(self) -> Deferred[None]:
        """Fires when the transport wants more; at once, if it does now."""
        if not self._paused:
            return succeed(None)
        self._drained = Deferred()
        return self._drained

    def stalled_seconds(self) -> float:
        """For how long the client has taken nothing although something waits; 0 if it takes what there is.

        As far as it is known: from the last call, this one included, that found something taken.
        """
        if not self._paused:
            return 0.0
        taken = self._counted_bytes - untaken_bytes(self._transport)
        if taken > self._taken_bytes:
            self._taken_bytes = taken
            self._moved_at = self._seconds()
        return self._seconds() - self._moved_at

    # What the transport says

    def pauseProducing(self) -> None:
        """The transport holds more than it likes (64 KiB) for this client. It says so at each further write."""
        if not self._paused:
            self._paused = True
            self._counted_bytes = waiting_bytes(self._transport)
            self._passed_on_bytes = 0
            self._taken_bytes = self._counted_bytes - untaken_bytes(self._transport)
            self._moved_at = self._seconds()

    def resumeProducing(self) -> None:
        """The client took everything."""
        self._paused = False
        drained, self._drained = self._drained, None
        if drained is not None and not drained.called:
            drained.callback(None)

    def stopProducing(self) -> None:
        """The transport is gone; its protocol is told."""
