"""A client's address, whatever somebody says it is, keeps no message from being stored: with real sockets."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import struct
from collections.abc import Iterator

import pytest

from testbed.client import client_frame, handshake, message
from testbed.daemon import Daemon, running_daemon
from testbed.postgres import fresh_database

_V2 = b"\r\n\r\n\0\r\nQUIT\n"


def _v2(command: int, family: int, addresses: bytes) -> bytes:
    """A header of the PROXY protocol, version 2 (haproxy.org, proxy-protocol.txt, 2.2)."""
    return _V2 + struct.pack("!BBH", 0x20 | command, family, len(addresses)) + addresses


_UNIX = b"/run/somebody".ljust(108, b"\0") * 2
_IPV4 = socket.inet_aton("192.0.2.7") + socket.inet_aton("192.0.2.8") + struct.pack("!HH", 1, 2)
_IPV6 = socket.inet_pton(socket.AF_INET6, "2001:db8::7") * 2 + struct.pack("!HH", 1, 2)
_MAPPED = socket.inet_pton(socket.AF_INET6, "::ffff:192.0.2.7") * 2 + struct.pack("!HH", 1, 2)


@pytest.fixture(scope="module")
def behind_proxy() -> Iterator[Daemon]:
    with (
        fresh_database() as url,
        running_daemon(
            *("--listen", "haproxy:tcp:0:interface=127.0.0.1", "--trusted-proxy", "127.0.0.1"), database=url
        ) as daemon,
    ):
        daemon.port = int(re.findall(r"listening on .*port=(\d+)", daemon.output())[-1])  # of the endpoint above
        yield daemon


def receive_until(client: socket.socket, mark: bytes) -> bytes:
    received = b""
    while mark not in received:
        data = client.recv(65536)
        assert data, received
        received += data
    return received


@pytest.mark.parametrize(
    ("header", "ip"),
    [
        (b"PROXY TCP4 nowhere 1.1.1.1 1 1\r\n", None),
        (b"PROXY TCP4 192.0.2.7 192.0.2.8 1 2\r\n", "192.0.2.7"),
        (b"PROXY TCP4 192.0.2.7/24 192.0.2.8 1 2\r\n", None),
        (b"PROXY TCP4 999.0.2.7 192.0.2.8 1 2\r\n", None),
        (b"PROXY TCP6 2001:DB8::7 2001:db8::8 1 2\r\n", "2001:db8::7"),
        (b"PROXY TCP6 fe80::1%eth0 fe80::2 1 2\r\n", "fe80::1"),
        (b"PROXY TCP6 ::ffff:192.0.2.7 ::1 1 2\r\n", "192.0.2.7"),
        (b"PROXY UNKNOWN 192.0.2.7 192.0.2.8 1 2\r\n", "127.0.0.1"),
        (_v2(1, 0x11, _IPV4), "192.0.2.7"),
        (_v2(1, 0x21, _IPV6), "2001:db8::7"),
        (_v2(1, 0x21, _MAPPED), "192.0.2.7"),
        (_v2(1, 0x31, _UNIX), None),
        (_v2(1, 0x00, b""), "127.0.0.1"),
        (_v2(0, 0x00, b""), "127.0.0.1"),
    ],
)
def test_what_a_proxy_says_of_a_client_is_stored_if_it_is_an_address(
    behind_proxy: Daemon, header: bytes, ip: str | None
) -> None:
    ((before,),) = behind_proxy.sql("SELECT coalesce(max(seq), 0) FROM messages")
    with socket.create_connection(("127.0.0.1", behind_proxy.port), 30) as client:
        client.sendall(header + handshake(behind_proxy.port))
        receive_until(client, b"\r\n\r\n")
        client.sendall(client_frame(1, json.dumps(message("hi")).encode()))
        assert b'"ERROR"' not in receive_until(client, b'"status"')
    assert behind_proxy.sql("SELECT host(client_ip) FROM messages WHERE seq > %s", before) == [(ip,)]
    assert behind_proxy.sql("SELECT count(*) FROM dead_letters") == [(0,)]


def test_of_a_stranger_proxy_protocol_is_not_believed(behind_proxy: Daemon) -> None:
    with (
        contextlib.suppress(ConnectionError),  # the daemon may end it before connect() has returned
        socket.create_connection(("127.0.0.1", behind_proxy.port), 30, ("127.0.0.2", 0)) as client,
    ):
        client.sendall(b"PROXY TCP4 192.0.2.7 192.0.2.8 1 2\r\n" + handshake(behind_proxy.port))
        assert client.recv(1) == b""


def test_the_address_that_a_trusted_proxy_forwards_is_stored(behind_proxy: Daemon) -> None:
    head = handshake(behind_proxy.port).removesuffix(b"\r\n") + b"X-Forwarded-For: 6.6.6.6, 198.51.100.1\r\n\r\n"
    with socket.create_connection(("127.0.0.1", behind_proxy.port), 30) as client:
        client.sendall(
            b"PROXY TCP4 127.0.0.1 127.0.0.1 1 2\r\n"
            + head
            + client_frame(1, json.dumps(message("forwarded")).encode())
        )
        receive_until(client, b'"SUCCESS"')
    assert behind_proxy.sql("SELECT host(client_ip) FROM messages WHERE message_text = 'forwarded'") == [
        ("198.51.100.1",)
    ]
