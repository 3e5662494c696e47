"""Hosts and origins as requests name them, in one form each, so that they can be compared. Pure functions.

Upper case, a final dot, the ways to write an IPv6 address, letters of other scripts and the default port of a scheme
make no difference (RFC 3986, 6.2.2 and 6.2.3; RFC 6454, 4; UTS 46).
"""

from __future__ import annotations

import re
from ipaddress import AddressValueError, IPv6Address

import idna
from attrs import frozen

_DEFAULT_PORTS = {"http": 80, "ws": 80, "https": 443, "wss": 443}
#: Schemes of pages that came from a host, which can be this one.
_WEB_SCHEMES = ("http", "https")

# RFC 3986, 3.2.2 and 3.2.3. A host may be empty in the header Host, never in an origin.
_AUTHORITY = re.compile(r"(?P<host>\[[^\[\]]*\]|[^\[\]:/?#@\\\s]*)(?::(?P<port>[0-9]{0,5}))?")
_REG_NAME = re.compile(r"(?:[a-z0-9._~!$&'()*+,;=-]|%[0-9a-f]{2})*")
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*")
_ABSOLUTE = re.compile(rb"([A-Za-z][A-Za-z0-9+.-]*)://([^/?#]*)")


@frozen
class Authority:
    """:ivar host: in its one form; an IPv6 address in brackets.
    :ivar port: None if none was named.
    """

    host: str
    port: int | None = None


@frozen
class Origin:
    """Where a page is from (RFC 6454). ``port``: as for :class:`Authority`; never the default one of ``scheme``."""

    scheme: str
    host: str
    port: int | None = None

    def __str__(self) -> str:
        return f"{self.scheme}://{self.host}" + ("" if self.port is None else f":{self.port}")

    def is_of(self, authority: Authority) -> bool:
        """Whether a page of this origin came from the host that a request names.

        A host without a port is that of either scheme: whether a proxy in front took off TLS cannot be seen here.
        """
        default = _DEFAULT_PORTS.get(self.scheme)
        here, asked = self.port or default, authority.port or default
        return self.scheme in _WEB_SCHEMES and authority.host == self.host and here == asked


def parse_authority(text: str | bytes) -> Authority:
    """What a header Host or an address names: ``host``, ``host:port``, ``[::1]:port``.

    :raises ValueError: it is none.
    """
    if isinstance(text, bytes):
        text = text.decode()  # UnicodeDecodeError is a ValueError
    found = _AUTHORITY.fullmatch(text.strip(" \t"))
    if found is None:
        raise ValueError("not a host")
    port = int(found["port"]) if found["port"] else None
    if port is not None and port > 65535:
        raise ValueError("a port is at most 65535")
    return Authority(_host(found["host"]), port)


def parse_origin(text: str | bytes) -> Origin | None:
    """What a header Origin names; None for ``null``, which is that of files, sandboxed frames and the like.

    Schemes of apps and browser extensions, such as ``capacitor://localhost``, are as good as those of the web.

    :raises ValueError: it is no origin.
    """
    if isinstance(text, bytes):
        text = text.decode()
    text = text.strip(" \t")
    if text.lower() == "null":
        return None
    scheme, separator, rest = text.partition("://")
    scheme = scheme.lower()
    if not separator or not _SCHEME.fullmatch(scheme) or scheme in ("ws", "wss"):  # pages come by http
        raise ValueError("not an origin")
    authority = parse_authority(rest)
    if not authority.host or "*" in authority.host:  # no pattern, though a name may hold anything (RFC 3986, 3.2.2)
        raise ValueError("an origin has one host")
    port = None if authority.port == _DEFAULT_PORTS.get(scheme) else authority.port
    return Origin(scheme, authority.host, port)


def split_target(target: bytes) -> tuple[bytes | None, bytes]:
    """The authority and the rest of a request target; no authority in the usual form, ``/path?query``.

    Servers must take the absolute form too (RFC 9112, 3.2.2).

    :raises ValueError: it names another scheme, or no host.
    """
    found = _ABSOLUTE.match(target)
    if found is None:
        return None, target
    if found[1].lower().decode() not in _DEFAULT_PORTS or not found[2]:
        raise ValueError("a request target is a path, or an address of http, https, ws or wss")
    rest = target[found.end() :]
    return found[2], rest if rest.startswith(b"/") else b"/" + rest


def _host(text: str) -> str:
    if text.startswith("["):
        try:
            return f"[{IPv6Address(text[1:-1].partition('%')[0]).compressed}]"  # a zone means nothing elsewhere
        except AddressValueError:
            raise ValueError("not an IPv6 address") from None
    if not text.isascii():
        text = idna.encode(text, uts46=True).decode()  # IDNAError is a ValueError
    text = text.lower()
    if not _REG_NAME.fullmatch(text):
        raise ValueError("not a host name")
    return text.removesuffix(".")
