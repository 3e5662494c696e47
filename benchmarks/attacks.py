"""Ways in which one address can want everything, each as work for a process of its own.

The impatient are shut out soon. The patient ask for as much as is not refused to them, and cost more.
"""

from __future__ import annotations

import json
import multiprocessing
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from multiprocessing.synchronize import Event

from benchmarks.elsewhere import turns
from testbed.client import TEXT, client_frame, handshake, message

#: Loopback addresses are as good as those of different hosts. The first one is unlimited by default.
_STRANGER = "127.0.0.66"
#: More than the daemon takes of one address, by far.
_IMPATIENT_PER_SECOND = 1000
#: Less than it takes, of handshakes and of any connections.
_HANDSHAKES_PER_SECOND = 18
_CONNECTIONS_PER_SECOND = 50
_CONNECTIONS = 200
_DRIPPING = 2000
_SENDS_PER_SECOND = 10


class Sent:
    """How much of a flood there was, counted across processes."""

    def __init__(self) -> None:
        self._counts = multiprocessing.get_context("spawn").Array("q", [0, 0, 0])

    def add(self, connections: int = 0, sends: int = 0, octets: int = 0) -> None:
        """Count more of it. Only the process of the flood does."""
        for at, count in enumerate((connections, sends, octets)):
            self._counts[at] += count

    def counts(self) -> dict[str, int]:
        """So many connections were made, and so often so many bytes sent on them."""
        return dict(zip(("connections", "sends", "bytes"), self._counts[:], strict=True))


class _Siege:
    """Connections that are held, and made anew when they are closed.

    :param count: of them.
    :param per_second: how many are made.
    :param first: what each says.
    :param more: what it says then, again and again.
    """

    def __init__(self, port: int, sent: Sent, count: int, per_second: float, first: bytes, more: bytes) -> None:
        self._port = port
        self._sent = sent
        self._count = count
        self._per_second = per_second
        self._first = first
        self._more = more
        self._held: list[socket.socket] = []
        self._came_at = time.monotonic()

    @property
    def is_whole(self) -> bool:
        """Whether all are held."""
        return len(self._held) == self._count

    def come(self) -> None:
        """Make those that are lacking, as far as their rate allows by now."""
        now = time.monotonic()
        may = int((now - self._came_at) * self._per_second)
        self._came_at += may / self._per_second
        for _ in range(min(may, self._count - len(self._held))):
            stranger = _connect(self._port)
            if stranger is not None:
                self._sent.add(connections=1)
                self._held.append(stranger)
                with suppress(OSError):
                    stranger.send(self._first)

    def go_on(self, more: bool = True) -> None:
        """Take what came on each, and say more."""
        self._held = [stranger for stranger in self._held if self._goes_on(stranger, more)]

    def _goes_on(self, stranger: socket.socket, more: bool) -> bool:
        try:
            with suppress(BlockingIOError):
                if not stranger.recv(65536):
                    raise ConnectionResetError
            if more:
                with suppress(BlockingIOError):
                    self._sent.add(sends=1, octets=stranger.send(self._more))
        except OSError:
            stranger.close()
            return False
        return True


def _besiege(begun: Event, ended: Event, *sieges: _Siege, pause: float, gather: bool) -> None:
    """
    :param pause: seconds between two turns.
    :param gather: whether to begin with all connections there.
    """
    for _ in turns(ended, 0.05):
        if not gather or all(siege.is_whole for siege in sieges):
            break
        for siege in sieges:
            siege.come()
            siege.go_on(more=False)
    begun.set()
    for _ in turns(ended, pause):
        for siege in sieges:
            siege.come()
            siege.go_on()


def _connect(port: int) -> socket.socket | None:
    stranger = socket.socket()
    stranger.settimeout(0.2)
    try:
        stranger.bind((_STRANGER, 0))
        stranger.connect(("127.0.0.1", port))
    except OSError:
        stranger.close()
        return None
    stranger.setblocking(False)
    return stranger


def _handshakes(begun: Event, ended: Event, port: int, sent: Sent) -> None:
    """Connections that are opened, greeted and left at once."""
    begun.set()
    asked = handshake(port, "/chat/1?since=0")
    pause = 0.05
    for _ in turns(ended, pause):
        crowd = [_connect(port) for _ in range(int(_IMPATIENT_PER_SECOND * pause))]
        came = [stranger for stranger in crowd if stranger is not None]
        for stranger in came:
            with suppress(OSError):
                sent.add(connections=1, sends=1, octets=stranger.send(asked))
        ended.wait(0.01)
        for stranger in came:
            stranger.close()


def _messages(begun: Event, ended: Event, port: int, sent: Sent) -> None:
    """Members of one room who talk without end."""
    frames = client_frame(TEXT, json.dumps(message("flood")).encode()) * 100
    siege = _Siege(port, sent, _CONNECTIONS, _HANDSHAKES_PER_SECOND, handshake(port, "/chat/1"), frames)
    _besiege(begun, ended, siege, pause=1 / _SENDS_PER_SECOND, gather=True)


def _requests(begun: Event, ended: Event, port: int, sent: Sent, per_second: float, paths: tuple[bytes, ...]) -> None:
    """Requests in a row, without waiting for their answers."""
    asked = b"".join(b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n" % path for path in paths) * 40
    siege = _Siege(port, sent, _CONNECTIONS, per_second, asked, asked)
    _besiege(begun, ended, siege, pause=1 / _SENDS_PER_SECOND, gather=False)


def _drips(begun: Event, ended: Event, port: int, sent: Sent) -> None:
    """Requests that never end, as many as there can be."""
    siege = _Siege(port, sent, _DRIPPING, _IMPATIENT_PER_SECOND, _NEVER_WHOLE, b"a")
    _besiege(begun, ended, siege, pause=0.5, gather=False)


def _steady_drips(begun: Event, ended: Event, port: int, sent: Sent) -> None:
    """Requests and messages that never end, no more than there may be, byte by byte as quickly as one can."""
    requests = _Siege(port, sent, 90, 2 * _HANDSHAKES_PER_SECOND, _NEVER_WHOLE, b"a")
    frame = client_frame(TEXT, b" ", claimed_bytes=16000)
    members = _Siege(port, sent, 100, _HANDSHAKES_PER_SECOND, handshake(port, "/chat/1") + frame, b"a")
    _besiege(begun, ended, requests, members, pause=0.001, gather=True)


_NEVER_WHOLE = b"GET / HTTP/1.1\r\nHost: x\r\nX-A: "
_API = (b"/api/rooms/1/messages?limit=1000", b"/api/metrics/all", b"/api/rooms", b"/")
#: What costs nothing by the rates, or is refused before them.
_FREE = (b"/health/ready", b"/chat/99", b"*", b"/")

ATTACKS: dict[str, Callable[[Event, Event, int, Sent], None]] = {
    "handshakes": _handshakes,
    "messages": _messages,
    "requests": partial(_requests, per_second=_IMPATIENT_PER_SECOND, paths=_API),
    "steady-requests": partial(_requests, per_second=_CONNECTIONS_PER_SECOND, paths=_FREE),
    "drips": _drips,
    "steady-drips": _steady_drips,
}
