"""IP networks as settings name them, and which of them an address belongs to. Pure functions."""

from __future__ import annotations

from collections.abc import Collection
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

Network = IPv4Network | IPv6Network

#: RFC 6177: who has one address of IPv6 has at least these, and can take another one for each connection.
_IPV6_SITE_BITS = 64

#: RFC 4291, 2.5.5.2: what comes before an address of IPv4.
_IPV4_MAPPED_BITS = 96


def parse_network(text: str) -> Network:
    """What ``10.0.0.0/8``, ``192.0.2.1`` or ``2001:db8::/32`` names.

    :raises ValueError: it names none; an address within a network is none: 10.0.0.1/8.
    """
    return ip_network(text)


def network_meant(text: str) -> Network:
    """What an operator means by an address: a network, or one address; of IPv6 with the site that it is in.

    What is IPv4 within IPv6 is IPv4, as the addresses of clients are.

    :raises ValueError: it is neither; the text says why.
    """
    if "%" in text:
        raise ValueError("an address has no zone here: leave out the % and what follows")
    if "/" in text:
        network = ip_network(text)
    else:
        address = ip_address(text)
        mapped = getattr(address, "ipv4_mapped", None)
        bits = _IPV6_SITE_BITS if address.version == 6 and mapped is None else (mapped or address).max_prefixlen
        network = ip_network(f"{mapped or address}/{bits}", strict=False)
    inner = getattr(network.network_address, "ipv4_mapped", None)
    if inner is not None and network.prefixlen >= _IPV4_MAPPED_BITS:
        return ip_network(f"{inner}/{network.prefixlen - _IPV4_MAPPED_BITS}")
    return network


def is_within(ip: str | None, networks: Collection[Network]) -> bool:
    """Whether an address, without a zone and not one of IPv4 within IPv6, belongs to one of them."""
    if ip is None or not networks:
        return False
    address = ip_address(ip)
    return any(address in network for network in networks)  # of the other family it never is


@lru_cache(maxsize=4096)
def site_of(ip: str) -> str:
    """What limits of an address count by: the address, of IPv6 its network of 64 bits."""
    if ":" not in ip:
        return ip
    return str(ip_network((ip, _IPV6_SITE_BITS), strict=False))
