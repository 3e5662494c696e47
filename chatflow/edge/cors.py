"""Which pages of other hosts may read the answers of HTTP: the Fetch standard's CORS protocol.

The same origins as may open WebSockets, by ``--allowed-origins``. A page sends a token itself, if it has one; nothing
is done with what a browser adds on its own, such as cookies, so that no answer ever allows that.
"""

from __future__ import annotations

from collections.abc import Collection

from twisted.web.http_headers import Headers

from chatflow.authority import parse_origin

# What a page may send besides what needs no leave, and may read besides what every page may.
_REQUEST_HEADERS = "Accept, Authorization, Content-Type, Idempotency-Key, If-None-Match"
_READABLE_HEADERS = "Allow, ETag, Link, Retry-After"
#: How long a browser may remember an answer to a preflight. Chromium takes no more than two hours.
_REMEMBERED_SECONDS = 600


class Cors:
    """:param allowed_origins: in their one form (:mod:`chatflow.authority`); ``*`` for every one."""

    def __init__(self, allowed_origins: Collection[str]) -> None:
        self._allowed = frozenset(allowed_origins)

    def add_headers(self, request_headers: Headers, response_headers: Headers) -> bool:
        """Say in an answer who may read it: whether that is somebody of another origin."""
        if "*" in self._allowed:
            told = b"*"
        else:
            if self._allowed:  # an answer kept by a cache is not for whoever asks next
                response_headers.addRawHeader(b"vary", b"Origin")
            given = request_headers.getRawHeaders(b"origin", [])
            if len(given) != 1 or not self._is_allowed(given[0]):
                return False
            told = given[0]
        response_headers.setRawHeaders(b"access-control-allow-origin", [told])
        response_headers.setRawHeaders(b"access-control-expose-headers", [_READABLE_HEADERS.encode()])
        return True

    def add_preflight(self, request_headers: Headers, response_headers: Headers, methods: str) -> None:
        """Say in an answer to OPTIONS what its reader may ask for.

        :param methods: of the route, separated by commas.
        """
        if not request_headers.hasHeader(b"access-control-request-method"):
            return
        for name, value in (
            (b"access-control-allow-methods", methods),
            (b"access-control-allow-headers", _REQUEST_HEADERS),
            (b"access-control-max-age", str(_REMEMBERED_SECONDS)),
        ):
            response_headers.setRawHeaders(name, [value.encode()])

    def _is_allowed(self, text: bytes) -> bool:
        try:
            return str(parse_origin(text) or "null") in self._allowed
        except ValueError:
            return False
