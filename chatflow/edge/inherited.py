"""Listening sockets that systemd opened and hands over (sd_listen_fds(3)), so that a restart refuses nobody.

The socket stays open in systemd: whoever connects while no daemon runs waits in its backlog for the next one.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from attrs import frozen
from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import IListeningPort, IProtocolFactory
from twisted.internet.task import deferLater
from twisted.logger import Logger

from chatflow.edge.listeners import page
from chatflow.errors import StartupError

_SCHEME = "systemd"
#: What came just before the last accept is read and answered, before a drain refuses it.
_LAST_REQUESTS_SECONDS = 0.25


def is_inherited(description: str) -> bool:
    """Whether ``--listen`` names sockets of systemd's."""
    return description.partition(":")[0] == _SCHEME


@frozen
class _Inherited:
    """A socket of systemd's. :ivar name: its ``FileDescriptorName=``."""

    descriptor: int
    name: str


class InheritedListener(Service):
    """Takes connections from sockets that systemd handed over.

    Its stop comes before a drain: from then on nobody is accepted here, whoever connects waits for the next process,
    and the sockets stay open.

    :param description: ``systemd`` for all of them, ``systemd:NAME`` for those of one name, or an endpoint of
        Twisted's, such as ``systemd:domain=INET:index=0``.
    """

    _log = Logger()

    def __init__(self, reactor: Any, description: str, factory: IProtocolFactory) -> None:
        self._reactor = reactor
        self._description = description
        self._factory = factory
        self._ports: list[IListeningPort] = []

    def startService(self) -> None:
        """
        :raises StartupError: there is no such socket, or it is none that listens.
        """
        for inherited in self._find():
            self._ports.append(self._adopt(inherited))
        super().startService()
        for port in self._ports:
            address = port.getHost()
            self._log.info(
                "listening on {address} (a socket of systemd's), the page is {page}",
                address=address,
                page=page([address]),
            )

    def stopService(self) -> Deferred[Any]:
        """Accept nobody any more, and leave the sockets to who has opened them."""
        super().stopService()
        ports, self._ports = self._ports, []
        # Not stopListening, which removes the file of a UNIX socket that is systemd's.
        for port in ports:
            port.stopReading()  # type: ignore[attr-defined]
        return deferLater(self._reactor, _LAST_REQUESTS_SECONDS)

    def _find(self) -> list[_Inherited]:
        selector = self._description.partition(":")[2]
        everything = _inherited()
        if "=" in selector:
            return [self._by_endpoint(everything)]
        found = [each for each in everything if selector in ("", each.name)]
        if not found:
            known = ", ".join(sorted({each.name for each in everything})) or "none"
            raise StartupError(
                f"cannot listen on {self._description}: systemd has handed over no such socket ({known}); "
                "start the socket unit, or choose another with --listen"
            )
        return found

    def _by_endpoint(self, everything: list[_Inherited]) -> _Inherited:
        try:
            descriptor = serverFromString(self._reactor, self._description).fileno
        except Exception as error:
            raise StartupError(
                f"cannot listen on {self._description}: systemd has handed over no such socket ({error!r})"
            ) from error
        return next(each for each in everything if each.descriptor == descriptor)

    def _adopt(self, inherited: _Inherited) -> IListeningPort:
        what = f"cannot listen on {self._description}: descriptor {inherited.descriptor} ({inherited.name})"
        try:
            with socket.socket(fileno=os.dup(inherited.descriptor)) as own:
                is_listening = own.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
                if own.type != socket.SOCK_STREAM or not is_listening:
                    raise StartupError(
                        f"{what} is no listening stream socket: the unit needs ListenStream= and Accept=no"
                    )
                own.setblocking(False)
                with _mode_kept(own):
                    port = self._reactor.adoptStreamPort(own.fileno(), own.family, self._factory)
        except OSError as error:
            raise StartupError(f"{what}: {error.strerror}; a UNIX socket needs SocketUser= the daemon's") from error
        return port  # type: ignore[no-any-return]


@contextlib.contextmanager
def _mode_kept(own: socket.socket) -> Iterator[None]:
    """The file of a UNIX socket keeps its ``SocketMode=``: Twisted makes everyone's what it adopts."""
    path = own.getsockname() if own.family == socket.AF_UNIX else ""
    if not path or path[:1] in ("\0", b"\0"):
        yield
        return
    mode = stat.S_IMODE(Path(path).stat().st_mode)
    yield
    Path(path).chmod(mode)


def _inherited() -> list[_Inherited]:
    """In systemd's order.

    Twisted has read the number of them and removed it from the environment; so it is asked one by one. Their names it
    leaves there.
    """
    names = os.environ.get("LISTEN_FDNAMES", "").split(":")
    found: list[_Inherited] = []
    while True:
        try:
            endpoint = serverFromString(None, f"{_SCHEME}:domain=INET:index={len(found)}")
        except IndexError:
            return found
        name = names[len(found)] if len(found) < len(names) else ""
        found.append(_Inherited(endpoint.fileno, name))
