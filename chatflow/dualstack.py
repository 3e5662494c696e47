"""One port number on IPv6 and IPv4, so that ``localhost`` and host names lead here whichever of the two a client takes.

Two sockets and not one that takes both: a client's address is then always written as what it is, and never as
``::ffff:192.0.2.1``; and it depends on no setting of the system (``net.ipv6.bindv6only``).
"""

from __future__ import annotations

import contextlib
import errno
import re
import socket
from collections.abc import Callable

from attrs import frozen

BACKLOG = 1024
#: How often a port that is free for IPv6 may turn out to be taken for IPv4, when any will do.
_ATTEMPTS = 20

# The kernel was built or booted without a family, or has no address of it.
_ABSENT = (errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT, errno.EADDRNOTAVAIL)

_DESCRIPTION = re.compile(r"(?P<host>localhost:)?(?P<port>[0-9]{1,5})")
_EVERYWHERE = {socket.AF_INET6: "::", socket.AF_INET: "0.0.0.0"}
_LOOPBACK = {socket.AF_INET6: "::1", socket.AF_INET: "127.0.0.1"}
_NAMES = {socket.AF_INET6: "IPv6", socket.AF_INET: "IPv4"}


@frozen
class Both:
    """Where to listen. :ivar port: 0 for a free one, the same on both. :ivar loopback: for this machine alone."""

    port: int
    loopback: bool = False


@frozen
class Bound:
    """What was made of it. :ivar sockets: they listen. :ivar absent: families that this system does not have."""

    sockets: tuple[socket.socket, ...]
    absent: tuple[str, ...] = ()


def parse_both(text: str) -> Both | None:
    """``8080`` or ``localhost:8080``; None for anything else, such as an endpoint of Twisted's.

    :raises ValueError: there is no such port.
    """
    found = _DESCRIPTION.fullmatch(text)
    if found is None:
        return None
    port = int(found["port"])
    if port > 65535:
        raise ValueError("a port is a number from 0 to 65535")
    return Both(port, found["host"] is not None)


def bind_both(where: Both, make_socket: Callable[..., socket.socket] = socket.socket) -> Bound:
    """Listen on both.

    :raises OSError: the port is taken on one of them, or cannot be had, or there is neither IPv6 nor IPv4.
    """
    for _ in range(_ATTEMPTS - 1 if where.port == 0 else 0):
        try:
            return _bind(where, make_socket)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
    return _bind(where, make_socket)


def _bind(where: Both, make_socket: Callable[..., socket.socket]) -> Bound:
    port, absent = where.port, []
    with contextlib.ExitStack() as opened:
        sockets: list[socket.socket] = []
        for family, host in (_LOOPBACK if where.loopback else _EVERYWHERE).items():
            try:
                one = opened.enter_context(make_socket(family, socket.SOCK_STREAM))
                one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                one.bind((host, port))
            except OSError as error:
                if error.errno not in _ABSENT:
                    raise
                absent.append(_NAMES[family])
                continue
            one.listen(BACKLOG)
            one.setblocking(False)
            port = one.getsockname()[1]
            sockets.append(one)
        if not sockets:
            raise OSError(errno.EAFNOSUPPORT, "this system has neither IPv6 nor IPv4")
        opened.pop_all()
    return Bound(tuple(sockets), tuple(absent))
