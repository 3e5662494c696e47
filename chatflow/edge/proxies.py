"""Who a client is behind proxies: its address, resolved once for each request.

What a proxy says of a client, in PROXY protocol, ``X-Forwarded-For`` or ``Forwarded`` (RFC 7239), is believed of those
proxies alone that ``--trusted-proxy`` names: anybody else could take any address, to get round limits and bans.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any

from attrs import frozen
from twisted.internet.address import UNIXAddress
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.protocols.haproxy._wrapper import HAProxyProtocolWrapper
from twisted.web.http_headers import Headers

from chatflow.edge.addresses import client_ip, shortest_ip
from chatflow.edge.refusals import RequestRefused
from chatflow.networks import Network, is_within, parse_network

#: Written in the place of a network: whoever connects to a UNIX socket.
UNIX = "unix"

# The parameter `for` of an element of Forwarded. Proxies have no cause for escapes in quotes: none are understood.
_FOR = re.compile(r'(?:^|;)[ \t]*for=(?:"([^"\\]*)"|([^";, \t]*))[ \t]*(?=;|$)', re.IGNORECASE)
# RFC 7239, 6: an address, an IPv6 one in brackets, with or without a port; X-Forwarded-For has it without them too.
_NODE = re.compile(
    r"\[(?P<v6>[0-9A-Fa-f:.]+)\](?::[0-9]{1,5})?|(?P<v4>[0-9.]+)(?::[0-9]{1,5})?|(?P<bare>[0-9A-Fa-f:.]+)"
)
_UNNAMED = re.compile(r"unknown|_[A-Za-z0-9._-]+", re.IGNORECASE)

#: So often at most it is said that a stranger names clients.
_SAY_AGAIN_SECONDS = 3600.0

_MALFORMED = "the proxy names no client in {name}: it is to add the address that it was reached from"
_BOTH = "X-Forwarded-For and Forwarded name different clients: the proxy is to set one, and to remove the other"


@frozen
class TrustedProxies:
    """Those whose word is taken.

    :param networks: their addresses.
    :param unix: whether those on a UNIX socket are proxies.
    """

    networks: tuple[Network, ...] = ()
    unix: bool = False

    @classmethod
    @cache
    def of(cls, texts: tuple[str, ...]) -> TrustedProxies:
        """:param texts: values of ``--trusted-proxy``."""
        return cls(tuple(parse_network(text) for text in texts if text != UNIX), UNIX in texts)

    def trusts(self, peer: Any) -> bool:
        """Whether this address of Twisted's is that of a proxy."""
        return (self.unix and isinstance(peer, UNIXAddress)) or is_within(client_ip(peer), self.networks)

    def may_speak(self, transport: Any) -> bool:
        """Whether a connection comes without PROXY protocol, or from somebody who may say there who the client is."""
        while True:
            if isinstance(transport, HAProxyProtocolWrapper):
                below: Any = transport.transport
                if not self.trusts(below.getPeer()):
                    return False
            if not hasattr(transport, "wrappedProtocol"):
                return True
            transport = transport.transport

    def client_of(self, peer: Any, headers: Headers) -> str | None:
        """The address of whoever made a request; None if it has none.

        It is that of the nearest hop that is no trusted proxy; what is named beyond that anybody may have written. A
        hop without an address (``unknown``) stands for the proxy that says so.

        :param peer: who sent the request here, as PROXY protocol names it.
        :raises RequestRefused: a trusted proxy names no address, or two different ones.
        """
        sender = client_ip(peer)
        if not self.trusts(peer):
            return sender
        found = [
            self._nearest(sender, nodes, name)
            for name, nodes in (
                ("X-Forwarded-For", _forwarded_for(headers)),
                ("Forwarded", _forwarded(headers)),
            )
            if headers.hasHeader(name)
        ]
        if len(set(found)) > 1:  # which one the proxy wrote, and which one a stranger, cannot be told
            raise RequestRefused(400, "bad_request", _BOTH)
        return found[0] if found else sender

    def _nearest(self, sender: str | None, nodes: Iterable[str], name: str) -> str | None:
        nearest = sender
        for node in nodes:
            if _UNNAMED.fullmatch(node):
                return nearest
            nearest = _address(node)
            if nearest is None:
                raise RequestRefused(400, "bad_request", _MALFORMED.format(name=name))
            if not is_within(nearest, self.networks):
                return nearest
        return nearest


class Unbelieved:
    """Those who say who a client is, and of whom that is not believed: a load balancer that ``--trusted-proxy`` does
    not name, behind which all clients are one; or somebody who tries.

    :ivar requests: how many.
    """

    _log = Logger()

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._silent_until = float("-inf")
        self.requests = 0

    def look(self, peer: Any, headers: Headers, proxies: TrustedProxies) -> None:
        """Look at a request from ``peer``."""
        if not (headers.hasHeader(b"x-forwarded-for") or headers.hasHeader(b"forwarded")) or proxies.trusts(peer):
            return
        self.requests += 1
        now = self._clock.seconds()
        if now >= self._silent_until:
            self._silent_until = now + _SAY_AGAIN_SECONDS
            self._log.warn(
                "{peer} says in X-Forwarded-For or Forwarded who its clients are, and is not believed: if it is a load "
                "balancer of yours, all who come by it count as one client, until --trusted-proxy names it "
                "(chatflow_forwarded_unbelieved_total counts such requests; this is said once an hour)",
                peer=client_ip(peer) or "who comes by a UNIX socket",
            )


def _joined(headers: Headers, name: str) -> str:
    return b",".join(headers.getRawHeaders(name.encode(), [])).decode("latin-1")


def _forwarded_for(headers: Headers) -> Iterator[str]:
    """The nodes, nearest first."""
    return (node.strip(" \t") for node in reversed(_joined(headers, "x-forwarded-for").split(",")))


def _forwarded(headers: Headers) -> Iterator[str]:
    for element in _elements_from_right(_joined(headers, "forwarded")):
        found = _FOR.search(element.strip(" \t"))
        if found:
            yield found[1] if found[1] is not None else found[2]
        else:
            yield "unknown"  # it need not say


def _elements_from_right(text: str) -> Iterator[str]:
    """Those between commas outside of quotes, the last one first.

    Read from the right, where the proxy wrote: a quote that a stranger left open on the left swallows nothing of that.
    """
    end, quoted = len(text), False
    for at in range(len(text) - 1, -1, -1):
        if text[at] == '"':
            quoted = not quoted
        elif text[at] == "," and not quoted:
            yield text[at + 1 : end]
            end = at
    yield text[:end]


def _address(node: str) -> str | None:
    found = _NODE.fullmatch(node)
    return shortest_ip(found["v6"] or found["v4"] or found["bare"]) if found else None
