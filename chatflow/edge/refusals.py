"""A request of HTTP that is answered with an error: its status, its code for programs, its text for people."""

from __future__ import annotations

import math
from collections.abc import Mapping


class RequestRefused(Exception):
    """A request that is answered with an error.

    :ivar status: of HTTP.
    :ivar headers: beside the usual ones.
    :ivar field: what of the request is at fault, if it has a name.
    :ivar retry_after_ms: milliseconds after which it may be made again, if that is known. Then the headers say it too,
        in seconds (RFC 9110, 10.2.3).
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        headers: Mapping[str, str] | None = None,
        field: str | None = None,
        retry_after_ms: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.headers = dict(headers or {})
        if retry_after_ms is not None:
            self.headers["retry-after"] = str(math.ceil(retry_after_ms / 1000))
        self.field = field
        self.retry_after_ms = retry_after_ms


def unavailable(reason: str) -> RequestRefused:
    """A refusal with 503 and ``Retry-After``: the database does not answer now."""
    return RequestRefused(503, "unavailable", reason, {"retry-after": "1"})
