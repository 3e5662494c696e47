"""The ports: bound when the daemon starts, so that a busy one ends the start, and logged with their true numbers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import IListeningPort, IProtocolFactory
from twisted.logger import Logger
from twisted.python.failure import Failure

from chatflow.errors import StartupError


class Listener(Service):
    """One endpoint.

    :param description: a Twisted endpoint string, such as ``tcp:8080:interface=127.0.0.1``.
    """

    _log = Logger()

    def __init__(self, reactor: Any, description: str, factory: IProtocolFactory) -> None:
        self._reactor = reactor
        self._description = description
        self._factory = factory
        self._port: IListeningPort | None = None

    def startService(self) -> None:
        """Bind the port.

        :raises StartupError: it cannot be bound.
        """
        results: list[object] = []
        try:
            serverFromString(self._reactor, self._description).listen(self._factory).addBoth(results.append)
        except Exception as error:
            results.append(Failure(error))
        match results:
            case [Failure() as failure]:
                raise StartupError(
                    f"cannot listen on {self._description}: {failure.getErrorMessage()}; choose another with --listen"
                )
            case [port]:
                self._port = port  # type: ignore[assignment]
            case _:
                raise StartupError(f"cannot listen on {self._description}: this kind of endpoint is not bound at once")
        super().startService()
        address = self._port.getHost()  # type: ignore[union-attr]
        self._log.info("listening on {address}, the page is {page}", address=address, page=_page(address))

    @property
    def address(self) -> str:
        """``http://HOST:PORT`` while it listens on TCP, without HOST if on every interface; otherwise empty."""
        where = self._port.getHost() if self._port is not None else None
        host, port = getattr(where, "host", None), getattr(where, "port", None)
        if host is None or port is None:
            return ""
        host = "" if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
        return f"{'https' if self._description.startswith('ssl:') else 'http'}://{host}:{port}"

    def stopService(self) -> Deferred[Any] | None:
        """Take no further connections; those that are open stay."""
        super().stopService()
        port, self._port = self._port, None
        return port.stopListening() if port is not None else None


def address_of(listeners: Iterable[Listener]) -> str:
    """Of the first that has one; see :attr:`Listener.address`."""
    return next((listener.address for listener in listeners if listener.address), "")


def _page(address: Any) -> str:
    """Where a person on this machine finds the page, if the address is one of TCP."""
    host, port = getattr(address, "host", None), getattr(address, "port", None)
    if host is None or port is None:
        return "not on a port of its own"
    if host in ("0.0.0.0", "::", "127.0.0.1"):
        host = "localhost"
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"
