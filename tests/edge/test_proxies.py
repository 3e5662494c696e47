"""Who a client is behind proxies: nobody can take another's address."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent
from twisted.web.http_headers import Headers

from chatflow.edge.proxies import TrustedProxies, Unbelieved
from chatflow.edge.refusals import RequestRefused

_PROXIES = TrustedProxies.of(
    (
        "10.0.0.0/8",
        "2001:db8:ffff::/48",
    )
)
_PROXY = IPv4Address("TCP", "10.0.0.1", 1)
_STRANGER = IPv4Address("TCP", "192.0.2.66", 1)


def resolved(peer: Any = _PROXY, proxies: TrustedProxies = _PROXIES, **headers: str | list[str]) -> str | None:
    given = {name.replace("_", "-"): [value] if isinstance(value, str) else value for name, value in headers.items()}
    return proxies.client_of(peer, Headers(given))


@pytest.mark.parametrize("peer", [_STRANGER, UNIXAddress(b"/run/x"), IPv6Address("TCP", "2001:db8::1", 1)])
def test_a_stranger_is_not_believed(peer: Any) -> None:
    assert resolved(peer, x_forwarded_for="198.51.100.1", forwarded="for=198.51.100.2") == resolved(peer)


def test_nobody_is_believed_by_default() -> None:
    assert resolved(proxies=TrustedProxies(), x_forwarded_for="198.51.100.1") == "10.0.0.1"


def test_the_operator_is_told_once_an_hour_of_who_is_not_believed_and_each_time_counts() -> None:
    clock = Clock()
    unbelieved = Unbelieved(clock)

    def said(peer: Any, **headers: str) -> list[str]:
        given = Headers({name.replace("_", "-"): [value] for name, value in headers.items()})
        with capturedLogs() as events:
            unbelieved.look(peer, given, _PROXIES)
        return [formatEvent(event) for event in events]

    assert said(_STRANGER) == []
    assert said(_PROXY, x_forwarded_for="198.51.100.1") == []
    (line,) = said(_STRANGER, x_forwarded_for="198.51.100.1")
    assert "192.0.2.66 says" in line
    assert "--trusted-proxy" in line
    assert "198.51.100.1" not in line, "what a stranger writes is not repeated"
    assert said(IPv4Address("TCP", "192.0.2.67", 1), forwarded="for=_x") == []
    clock.advance(3600)
    assert "a UNIX socket" in said(UNIXAddress(b"/run/x"), forwarded="for=_x")[0]
    assert unbelieved.requests == 3


@pytest.mark.parametrize(
    ("told", "ip"),
    [
        ("198.51.100.1", "198.51.100.1"),
        ("198.51.100.1:4711", "198.51.100.1"),
        ("2001:DB8::0:1", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("[2001:db8::1]:4711", "2001:db8::1"),
        ("::ffff:198.51.100.1", "198.51.100.1"),
        ("6.6.6.6, 198.51.100.1", "198.51.100.1"),
        ("not an address, 198.51.100.1", "198.51.100.1"),
        ("6.6.6.6, 198.51.100.1, 10.3.4.5", "198.51.100.1"),
        ("6.6.6.6,198.51.100.1 ,\t[2001:db8:ffff::7]:80", "198.51.100.1"),
        ("10.7.7.7, 10.3.4.5", "10.7.7.7"),
        ("6.6.6.6, unknown", "10.0.0.1"),
        ("6.6.6.6, unknown, 10.3.4.5", "10.3.4.5"),
    ],
)
class TestOfAProxy:
    def test_x_forwarded_for_names_the_nearest_that_is_no_proxy(self, told: str, ip: str) -> None:
        assert resolved(x_forwarded_for=told) == ip

    def test_so_it_does_in_several_headers(self, told: str, ip: str) -> None:
        assert resolved(x_forwarded_for=told.split(",")) == ip

    def test_and_so_does_forwarded(self, told: str, ip: str) -> None:
        elements = [f'for="{hop.strip()}";proto=https' for hop in told.split(",")]
        assert resolved(forwarded=", ".join(elements)) == ip


@pytest.mark.parametrize(
    ("told", "ip"),
    [
        ("for=198.51.100.1", "198.51.100.1"),
        ("For=198.51.100.1;by=10.0.0.1", "198.51.100.1"),
        ('by="a,b;for=6.6.6.6" ; for = 6', "10.0.0.1"),
        ('proto=http;for="[2001:db8::1]:80"', "2001:db8::1"),
        ("for=_hidden", "10.0.0.1"),
        ("proto=https", "10.0.0.1"),
        # What a stranger leaves open on the left swallows nothing of what the proxy wrote.
        ('for=6.6.6.6;x=", for="[2001:db8::1]"', "2001:db8::1"),
        ('for="6.6.6.6, for=198.51.100.1', "198.51.100.1"),
        ('for=6.6.6.6;x="\\", for="198.51.100.1"', "198.51.100.1"),
    ],
)
def test_forwarded_is_read_from_the_right(told: str, ip: str) -> None:
    assert resolved(forwarded=told) == ip


@pytest.mark.parametrize("told", ["", "nowhere", "198.51.100.1,", "300.1.1.1", "1.2.3.4/8", "[::1", "127.0.0.1, a b"])
def test_a_proxy_that_names_no_address_is_refused(told: str) -> None:
    with pytest.raises(RequestRefused, match="names no client in X-Forwarded-For") as refused:
        resolved(x_forwarded_for=told)
    assert refused.value.status == 400


def test_two_headers_that_differ_are_refused_and_others_not() -> None:
    with pytest.raises(RequestRefused, match="different clients"):
        resolved(x_forwarded_for="198.51.100.1", forwarded="for=6.6.6.6")
    assert resolved(x_forwarded_for="198.51.100.1", forwarded='for="198.51.100.1:80"') == "198.51.100.1"


def test_whoever_comes_by_a_unix_socket_may_be_a_proxy() -> None:
    proxies = TrustedProxies.of(("unix",))
    assert resolved(UNIXAddress(None), proxies, x_forwarded_for="198.51.100.1") == "198.51.100.1"
    assert resolved(_PROXY, proxies, x_forwarded_for="198.51.100.1") == "10.0.0.1"


@given(left=st.text(st.characters(codec="latin-1", exclude_characters="\r\n\0"), max_size=60))
def test_whatever_a_stranger_wrote_before_it_the_proxy_is_understood(left: str) -> None:
    assert resolved(x_forwarded_for=f"{left}, 198.51.100.1") == "198.51.100.1"
    assert resolved(forwarded=f'{left}, for="198.51.100.1:80";by=_x') == "198.51.100.1"
