"""An error as the answer to a request."""

from __future__ import annotations

from typing import Any

from twisted.web.http import Request
from twisted.web.resource import Resource

from chatflow.edge.operations import json_response
from chatflow.edge.refusals import RequestRefused
from chatflow.rooms.messages import iso_timestamp


class ErrorAnswer(Resource):
    """A refusal as the answer to anything below it."""

    def __init__(self, refused: RequestRefused) -> None:
        super().__init__()
        self._status = refused.status
        self._body: dict[str, Any] = {"status": "ERROR", "code": refused.code, "errorMessage": str(refused)}
        if refused.field is not None:
            self._body["field"] = refused.field
        if refused.retry_after_ms is not None:
            self._body["retryAfterMs"] = refused.retry_after_ms
        self._headers = refused.headers

    def getChild(self, path: bytes, request: Request) -> Resource:
        return self

    def render(self, request: Any) -> bytes:
        if self._status == 429:  # who asks too often has to come again, which is cheaper to refuse
            end_with_answer(request)
        now_us = int(request.channel.site.services.now() * 1e6)
        return json_response(request, self._status, self._body | {"timestamp": iso_timestamp(now_us)}, self._headers)


def end_with_answer(request: Any) -> None:
    """Take nothing more on the connection of this request."""
    request.channel.persistent = False
    request.setHeader(b"connection", b"close")
