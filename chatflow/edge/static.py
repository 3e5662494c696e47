"""The page at ``/`` and what belongs to it, among which is the client for other pages, ``/chatflow.js``.

The files are few and small: they are read once, and a browser that has the newest one is answered 304.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from importlib.resources import files
from typing import Any, NamedTuple

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
    PageFile("/chatflow.js", "chatflow.js", b"text/javascript; charset=utf-8"),
    PageFile("/icon.svg", "icon.svg", b"image/svg+xml"),
)

# Nothing is inline and nothing comes from elsewhere. `ws:` and `wss:`, as not every browser counts them to 'self'; and
# Trusted Types: a browser that knows them lets no script make HTML of text.
_CONTENT_SECURITY_POLICY = b"; ".join(
    [
        b"default-src 'self'",
        b"connect-src 'self' ws: wss:",
        b"base-uri 'none'",
        b"form-action 'none'",
        b"frame-ancestors 'none'",
        b"object-src 'none'",
        b"require-trusted-types-for 'script'",
    ]
)


@frozen
class _File:
    """``tag``: for the header ETag, without its quotes."""

    content: bytes
    content_type: bytes
    tag: bytes

    def answer(self, request: Any) -> bytes:
        request.setHeader(b"content-type", self.content_type)
        request.setHeader(b"x-content-type-options", b"nosniff")
        request.setHeader(b"referrer-policy", b"no-referrer")
        request.setHeader(b"content-security-policy", _CONTENT_SECURITY_POLICY)
        # Kept, but asked for each time: after an upgrade no page runs with yesterday's script.
        request.setHeader(b"cache-control", b"no-cache")
        request.setHeader(b"etag", b'"' + self.tag + b'"')
        if has_newest(request.getHeader("if-none-match"), self.tag.decode()):
            request.setResponseCode(304)
            return b""
        return self.content


def add_pages(app: Klein) -> None:
    """The page at ``/``. Raises like :func:`add_files`."""
    add_files(app, _FILES)


def add_files(app: Klein, page_files: Iterable[PageFile]) -> None:
    """Add a route for each file.

    :raises FileNotFoundError: the package was installed without one.
    """
    directory = files("chatflow.edge").joinpath("pages")
    for path, name, content_type in page_files:
        content = directory.joinpath(name).read_bytes()
        tag = hashlib.sha256(content).hexdigest()[:32].encode()
        # Klein names a route after its function, and each route needs a name of its own.
        app.route(path, methods=["GET", "HEAD"], endpoint=f"page {name}")(_File(content, content_type, tag).answer)
