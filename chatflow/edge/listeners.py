"""The ports: bound when the daemon starts, so that a busy one ends the start, and logged with their true numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import IListeningPort
from twisted.internet.tcp import Port
from twisted.logger import Logger
from twisted.python.failure import Failure

from chatflow.dualstack import BACKLOG, Both, bind_both, parse_both
from chatflow.edge.door import Door, Inside
from chatflow.edge.site import ChatSite
from chatflow.edge.tls import Certificates, is_tls, tls_reason
from chatflow.errors import ConfigError, StartupError
from chatflow.lifecycle import in_a_turn
from chatflow.lifecycle.process import RootService

#: So many connections are taken in one turn of the reactor, and no more once so much time has gone by; then those that
#: are open are heard. Twisted takes a hundred, and more each time that there were as many, which keeps it for tens of
#: milliseconds; to refuse one takes 0.1 ms or 1, by the system.
ACCEPTS_PER_TURN = 10
ACCEPT_SECONDS = 0.002


class Listener(Service):
    """One endpoint.

    :param description: a port number, for IPv6 and IPv4, with or without ``localhost:`` before it; or a Twisted
        endpoint string, such as ``tcp:8080:interface=127.0.0.1``, which is taken by its word.
    :param option: where that was said.
    """

    _log = Logger()

    def __init__(self, reactor: Any, description: str, site: ChatSite, option: str = "--listen") -> None:
        self._reactor = reactor
        self._description = description
        self._site = site
        self._option = option
        self._ports: Sequence[IListeningPort] = ()
        self._is_tls = is_tls(description)
        self._certificates: Certificates | None = None

    def startService(self) -> None:
        """Bind the port.

        :raises StartupError: it cannot be bound.
        """
        both = parse_both(self._description)
        self._ports = self._listen_on_both(both) if both else [self._listen_on_endpoint()]
        for port in self._ports:
            if isinstance(port, Port):
                accept_few(port, self._reactor.seconds)
        super().startService()
        addresses = [port.getHost() for port in self._ports]
        self._log.info(
            "listening on {addresses}, the page is {page}",
            addresses=" and ".join(map(str, addresses)),
            page=page(addresses, "https" if self._is_tls else "http"),
        )

    def read_again(self) -> str | None:
        """Read key and certificate again; see :meth:`.Certificates.read_again`. None where there are none.

        :raises ChatFlowError: they are of no use.
        """
        if self._certificates is None:
            return None
        try:
            return self._certificates.read_again()
        except Exception as error:
            raise ConfigError(tls_reason(error)) from error

    def stopService(self) -> Deferred[Any] | None:
        """Take no further connections; those that are open stay."""
        super().stopService()
        ports, self._ports = self._ports, ()
        return gatherResults([stopped for port in ports if (stopped := port.stopListening()) is not None])

    def _listen_on_both(self, both: Both) -> Sequence[IListeningPort]:
        try:
            bound = bind_both(both)
        except OSError as error:
            raise self._cannot(error.strerror or str(error)) from None
        for family in bound.absent:
            self._log.warn("there is no {family} on this system: listening without it", family=family)
        ports = []
        for one in bound.sockets:
            with one:  # the port has a duplicate of its own
                ports.append(self._reactor.adoptStreamPort(one.fileno(), one.family, self._site))
        return ports

    def _listen_on_endpoint(self) -> IListeningPort:
        results: list[Any] = []
        try:
            if self._is_tls:
                self._certificates = Certificates(self._reactor, self._description)
                endpoint = self._certificates.endpoint
            else:
                endpoint = serverFromString(self._reactor, _with_backlog(self._description))
            endpoint.listen(Inside(self._site)).addBoth(results.append)
        except Exception as error:
            results.append(Failure(error))
        match results:
            case [Failure() as failure]:
                raise self._cannot(tls_reason(failure.value) if self._is_tls else failure.getErrorMessage())
            case [port]:
                port.factory = Door(self._site, port.factory)
                return port  # type: ignore[no-any-return]
            case _:
                raise StartupError(f"cannot listen on {self._description}: this kind of endpoint is not bound at once")

    @property
    def address(self) -> str:
        """``http://HOST:PORT`` while it listens on TCP, without HOST if on every interface; otherwise empty."""
        if not self._ports:
            return ""
        where = self._ports[0].getHost()
        host, port = getattr(where, "host", None), getattr(where, "port", None)
        if host is None or port is None:
            return ""
        host = "" if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
        return f"{'https' if self._is_tls else 'http'}://{host}:{port}"

    def _cannot(self, reason: str) -> StartupError:
        return StartupError(f"cannot listen on {self._description}: {reason}; choose another with {self._option}")


def add_ports(
    service: RootService, reactor: Any, endpoints: Sequence[str], site: ChatSite, listeners: list[Listener]
) -> None:
    """Have a service listen on these endpoints, in this order.

    :param listeners: one for each is added to it.
    """
    for endpoint in endpoints:
        listener = Listener(reactor, endpoint, site)
        listeners.append(listener)
        service.add(f"port {endpoint}", listener)
        if is_tls(endpoint):
            service.read_again(f"port {endpoint}", listener.read_again)


def accept_few(port: Port, seconds: Callable[[], float]) -> None:
    """Have a port take no more than :data:`ACCEPTS_PER_TURN` connections at a time, and for :data:`ACCEPT_SECONDS`.

    :param seconds: the time of a clock that is never set.
    """
    read = port.doRead

    def accept() -> None:
        for _ in in_a_turn(seconds, ACCEPTS_PER_TURN, ACCEPT_SECONDS):
            port.numberAccepts = 1  # which becomes 0 if there is none, and more otherwise
            read()
            if not port.numberAccepts:
                break

    port.doRead = accept  # type: ignore[method-assign]


def _with_backlog(description: str) -> str:
    """With room for those who wait to be accepted, unless it says how much: Twisted's 50 are full as soon as somebody
    connects as quickly as he can, and whoever else does then tries again a second later."""
    is_tcp = description.startswith(("tcp:", "haproxy:tcp:"))
    return f"{description}:backlog={BACKLOG}" if is_tcp and ":backlog=" not in description else description


def address_of(listeners: Iterable[Listener]) -> str:
    """The address of the first listener that can name one, as ``host:port``; empty if none can."""
    return next((listener.address for listener in listeners if listener.address), "")


def page(addresses: Sequence[Any], scheme: str = "http") -> str:
    """Where a person on this machine finds the page, if the addresses are of TCP."""
    host, port = getattr(addresses[0], "host", None), getattr(addresses[0], "port", None)
    if host is None or port is None:
        return "not on a port of its own"
    if len(addresses) > 1:
        host = "localhost"  # which may be either
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"{scheme}://[{host}]:{port}/" if ":" in host else f"{scheme}://{host}:{port}/"
