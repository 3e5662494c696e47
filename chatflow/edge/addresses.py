"""Where a client is: what a transport says of its peer, as a value that the database takes."""

from __future__ import annotations

import ipaddress
from functools import lru_cache
from typing import Any


def client_ip(peer: Any) -> str | None:
    """The IP address of a peer, in its shortest form; None if it has none.

    What PROXY protocol says of a client is not checked by anybody else: ``nowhere`` is none. An IPv4 client of a port
    of IPv6 has its IPv4 address. The zone of a link-local address (``%eth0``) is this machine's.

    :param peer: an address of Twisted, such as IPv4Address, UNIXAddress or None.
    """
    host = getattr(peer, "host", None)
    if isinstance(host, bytes):
        host = host.decode("ascii", "replace")
    return shortest_ip(host) if isinstance(host, str) else None


@lru_cache(maxsize=4096)
def shortest_ip(text: str) -> str | None:
    """An IP address in its shortest form, without its zone; None if the text is none."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address)
