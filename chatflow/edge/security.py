"""Headers that every answer of HTTP has, whoever makes it."""

from __future__ import annotations

#: Whatever an answer is, no browser is to take it for something else, to show it within another page, to run what it
#: holds, or to tell others where its reader came from. Pages of the daemon's own have a policy of theirs instead.
SECURITY_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
)
