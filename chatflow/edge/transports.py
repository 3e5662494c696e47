"""What a transport of Twisted's holds, and a quicker way through it, of which it says nothing in public."""

from __future__ import annotations

import contextlib
import fcntl
import struct
import termios
from typing import Any

from twisted.internet.tcp import Connection


def innermost(transport: Any) -> Any:
    """The connection itself, around which TLS and PROXY protocol may be wrapped."""
    while hasattr(transport, "wrappedProtocol"):
        transport = transport.transport
    return transport


def waiting_bytes(transport: Any) -> int:
    """What a Twisted transport has not given to the system yet; of TLS what is encrypted already.

    Twisted tells a producer when that is more than 64 KiB and when it is nothing, and not how much. Nor is there a
    public way to ask: this reads what its ``FileDescriptor._isSendBufferFull`` does.
    """
    connection = innermost(transport)
    return int(len(connection.dataBuffer) - connection.offset + connection._tempDataLen)


def untaken_bytes(transport: Any) -> int:
    """The same with what the system has and the other end has not acknowledged (``SIOCOUTQ``, tcp(7)).

    The system takes more in lumps, on Linux once a third of its buffer, of up to 4 MB, is free: a slow client may take
    bytes for a minute before that is seen without this.
    """
    fileno = getattr(innermost(transport), "fileno", None)
    queued = 0
    if fileno is not None:
        with contextlib.suppress(OSError):  # a kind of socket that does not tell
            (queued,) = struct.unpack("i", fcntl.ioctl(fileno(), termios.TIOCOUTQ, bytes(4)))
    return waiting_bytes(transport) + queued


def send(transport: Any, data: bytes) -> None:
    """Give a transport ``data``. A connection without TLS that holds nothing passes it on at once, as far as it can."""
    if isinstance(transport, Connection) and not (
        transport.disconnected or transport.dataBuffer or transport._tempDataBuffer
    ):
        sent = 0
        with contextlib.suppress(OSError):  # the system takes nothing now; or ever again, which the transport finds out
            sent = transport.socket.send(data)
        if sent == len(data):
            return
        data = data[sent:]
    transport.write(data)
