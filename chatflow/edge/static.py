"""The page at ``/`` and what belongs to it, among which is the client for other pages, ``/chatflow.js``.

The files are few and small: they are read once, and a browser that has the newest one is answered 304.
"""

from __future__ import annotations

import hashlib
import html
from collections.abc import Iterable
from importlib.resources import files
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from attrs import frozen
from klein import Klein

from chatflow.edge.negotiation import has_newest


class PageFile(NamedTuple):
    """Where a file below ``pages/`` is found, and its type."""

    path: str
    name: str
    content_type: bytes


_FILES = (
    PageFile("/", "index.html", b"text/html; charset=utf-8"),
    PageFile("/page.css", "page.css", b"text/css; charset=utf-8"),
    PageFile("/page.js", "page.js", b"text/javascript; charset=utf-8"),
    PageFile("/token.js", "token.js", b"text/javascript; charset=utf-8"),
    PageFile("/chatflow.js", "chatflow.js", b"text/javascript; charset=utf-8"),
    PageFile("/icon.svg", "icon.svg", b"image/svg+xml"),
)

#: In the page, where its tokens come from.
_TOKEN_URL = b'<meta name="token-url" content="%s">'


def _content_security_policy(token_url: str) -> bytes:
    # Nothing is inline and nothing comes from elsewhere, but for tokens. `ws:` and `wss:`, as not every browser counts
    # them to 'self'; and Trusted Types: a browser that knows them lets no script make HTML of text.
    parts = urlsplit(token_url)
    elsewhere = f" {parts.scheme}://{parts.netloc}" if parts.netloc else ""
    return "; ".join(
        [
            "default-src 'self'",
            f"connect-src 'self' ws: wss:{elsewhere}",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
            "object-src 'none'",
            "require-trusted-types-for 'script'",
        ]
    ).encode()


@frozen
class _File:
    """``tag``: for the header ETag, without its quotes."""

    content: bytes
    content_type: bytes
    tag: bytes
    policy: bytes

    def answer(self, request: Any) -> bytes:
        request.setHeader(b"content-type", self.content_type)
        request.setHeader(b"x-content-type-options", b"nosniff")
        request.setHeader(b"referrer-policy", b"no-referrer")
        request.setHeader(b"content-security-policy", self.policy)
        # Kept, but asked for each time: after an upgrade no page runs with yesterday's script.
        request.setHeader(b"cache-control", b"no-cache")
        request.setHeader(b"etag", b'"' + self.tag + b'"')
        if has_newest(request.getHeader("if-none-match"), self.tag.decode()):
            request.setResponseCode(304)
            return b""
        return self.content


def add_pages(app: Klein, token_url: str | None = None) -> None:
    """The page at ``/``. Raises like :func:`add_files`.

    :param token_url: where it fetches tokens: a path or a URL; None if it does not.
    """
    add_files(app, _FILES, token_url or "")


def add_files(app: Klein, page_files: Iterable[PageFile], token_url: str = "") -> None:
    """Add a route for each file.

    :raises FileNotFoundError: the package was installed without one.
    """
    directory = files("chatflow.edge").joinpath("pages")
    policy = _content_security_policy(token_url)
    named = _TOKEN_URL % html.escape(token_url).encode()
    for path, name, content_type in page_files:
        content = directory.joinpath(name).read_bytes().replace(_TOKEN_URL % b"", named)
        tag = hashlib.sha256(content).hexdigest()[:32].encode()
        # Klein names a route after its function, and each route needs a name of its own.
        app.route(path, methods=["GET", "HEAD"], endpoint=f"page {name}")(
            _File(content, content_type, tag, policy).answer
        )
