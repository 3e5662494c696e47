"""What a request carries to say who sends it: a token in a header, in the query or as a subprotocol; or a password.

Nothing here may end up in a log or in an answer.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Sequence
from urllib.parse import parse_qsl

from twisted.web.http_headers import Headers

from chatflow.edge.refusals import RequestRefused

#: Of the query (RFC 6750, 2.3), for who can set no header.
PARAMETER = "access_token"
#: Begins the name of a subprotocol that is a token: what a script in a browser can set of a WebSocket.
SUBPROTOCOL_PREFIX = "chatflow.jwt."


def bearer_token(headers: Headers, query: bytes, subprotocols: Sequence[str]) -> str | None:
    """The token of a request, or None.

    :param query: the target behind its question mark.
    :raises RequestRefused: there are several (RFC 6750, 2), even if they are the same.
    """
    found = [*_of_headers(headers, "bearer"), *_of_query(query), *_of_subprotocols(subprotocols)]
    if len(found) > 1:
        raise RequestRefused(
            400, "invalid_token", "there must be one token, in one place: a header, access_token or a subprotocol"
        )
    return found[0] if found else None


def basic_password(headers: Headers) -> str | None:
    """The password that a browser asks its user for (RFC 7617), whatever the name; None if there is none."""
    given = list(_of_headers(headers, "basic"))
    if len(given) != 1:
        return None
    try:
        return base64.b64decode(given[0], validate=True).decode("latin-1").partition(":")[2]
    except (ValueError, binascii.Error):
        return None


def _of_headers(headers: Headers, scheme: str) -> Iterator[str]:
    for value in headers.getRawHeaders(b"authorization", []):
        name, _, rest = value.decode("latin-1").strip(" \t").partition(" ")
        if name.lower() == scheme:
            yield rest.strip(" ")


def _of_query(query: bytes) -> Iterator[str]:
    pairs = parse_qsl(query.decode("latin-1"), keep_blank_values=True, errors="replace")
    return (value for name, value in pairs if name == PARAMETER)


def _of_subprotocols(subprotocols: Sequence[str]) -> Iterator[str]:
    return (name.removeprefix(SUBPROTOCOL_PREFIX) for name in subprotocols if name.startswith(SUBPROTOCOL_PREFIX))
