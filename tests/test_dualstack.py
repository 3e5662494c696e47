"""A port number alone is that port on IPv6 and IPv4."""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Callable

import pytest

from chatflow.dualstack import Both, Bound, bind_both, parse_both
from testbed.client import ChatClient
from testbed.daemon import Daemon, running_daemon
from testbed.postgres import fresh_database

_ADDRESSES = ("::1", "127.0.0.1")


def close(bound: Bound) -> None:
    for one in bound.sockets:
        one.close()


def without(family: socket.AddressFamily, number: int) -> Callable[..., socket.socket]:
    """Makes sockets as a system does that lacks a family."""

    def make_socket(asked: socket.AddressFamily, kind: int) -> socket.socket:
        if asked == family:
            raise OSError(number, "as without it")
        return socket.socket(asked, kind)

    return make_socket


@pytest.mark.parametrize(
    ("text", "both"),
    [
        ("8080", Both(8080)),
        ("0", Both(0)),
        ("localhost:65535", Both(65535, loopback=True)),
        ("tcp:8080", None),
        ("127.0.0.1:80", None),
    ],
)
def test_what_is_written_is_a_port_of_both_or_an_endpoint(text: str, both: Both | None) -> None:
    assert parse_both(text) == both


@pytest.mark.parametrize("loopback", [True, False])
def test_a_free_port_is_the_same_on_both(loopback: bool) -> None:
    bound = bind_both(Both(0, loopback))
    try:
        assert len(bound.sockets) == 2
        (port,) = {one.getsockname()[1] for one in bound.sockets}
        for host in _ADDRESSES:
            socket.create_connection((host, port), 20).close()
    finally:
        close(bound)


@pytest.mark.parametrize("host", _ADDRESSES)
def test_a_port_that_is_taken_on_either_is_taken(host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as other, pytest.raises(OSError) as raised:
        bind_both(Both(other.getsockname()[1], loopback=True))
    assert raised.value.errno == errno.EADDRINUSE


@pytest.mark.parametrize("number", [errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL])
@pytest.mark.parametrize(("family", "name"), [(socket.AF_INET6, "IPv6"), (socket.AF_INET, "IPv4")])
def test_a_system_without_one_of_them_has_the_other(family: socket.AddressFamily, name: str, number: int) -> None:
    bound = bind_both(Both(0, loopback=True), without(family, number))
    with contextlib.closing(bound.sockets[0]):
        assert (bound.absent, len(bound.sockets), bound.sockets[0].family != family) == ((name,), 1, True)


def test_a_system_without_both_says_so() -> None:
    def no_socket(*_: object) -> socket.socket:
        raise OSError(errno.EAFNOSUPPORT, "no")

    with pytest.raises(OSError, match="neither"):
        bind_both(Both(0), no_socket)


class TestDaemon:
    def test_both_addresses_of_localhost_lead_to_it(self) -> None:
        with fresh_database() as url, Daemon(database=url, listen="localhost:0") as daemon:
            daemon.start()
            for host in ("localhost", "127.0.0.1", "[::1]"):
                with ChatClient(f"ws://{host}:{daemon.port}/chat/1") as client:
                    client.send(host)
                    client.receive_kind("ack")
            addresses = {str(ip) for (ip,) in daemon.sql("SELECT host(client_ip) FROM messages")}
            assert addresses == {"127.0.0.1", "::1"}
            assert f"the page is http://localhost:{daemon.port}/" in daemon.output()
            assert daemon.stop() == 0

    def test_an_endpoint_is_taken_by_its_word(self) -> None:
        with fresh_database() as url, running_daemon(database=url) as daemon:
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("::1", daemon.port), 20)
            assert f"the page is http://127.0.0.1:{daemon.port}/" in daemon.output()
