"""``POST /api/rooms/{room}/messages``: a message over HTTP, under the rules of one in a frame, answered as it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import UNSET
from twisted.internet.defer import Deferred
from twisted.web.http_headers import Headers
from zope.interface import implementer

from chatflow.contracts.members import Accepted, ISender
from chatflow.contracts.messages import MAX_CLIENT_MESSAGE_ID_CHARACTERS, ClientMessage
from chatflow.edge.operations import Operation, integer
from chatflow.edge.refusals import RequestRefused
from chatflow.edge.services import EdgeServices
from chatflow.errors import ErrorCode, Refused
from chatflow.rooms.messages import Ack, Error, acknowledgement, iso_timestamp
from chatflow.rooms.speaker import decoder_for

#: Requests that wait for their answer at a time, each of which holds a connection.
MAX_AT_ONCE = 1000

#: What the codes of frames are in HTTP. What somebody cannot help is 5xx; who may come again, is told when.
_STATUSES: Mapping[ErrorCode, int] = {
    "invalid_json": 400,
    "missing_field": 400,
    "invalid_field": 400,
    "too_large": 413,
    "id_conflict": 409,
    "wrong_user": 403,
    "read_only": 403,
    "muted": 403,
    "banned": 403,
    "overloaded": 503,
    "unavailable": 503,
    "draining": 503,
    "not_stored": 500,
    "internal_error": 500,
}

_KEY = "Idempotency-Key"
_RULE = f"the header {_KEY} must be given once, with 1-{MAX_CLIENT_MESSAGE_ID_CHARACTERS} visible characters of ASCII"


@implementer(ISender)
class _Sender:
    """Of one message.

    :ivar answered: fires with the acknowledgement, fails with :class:`Refused`.
    """

    def __init__(self) -> None:
        self.answered: Deferred[Ack] = Deferred()

    def acknowledge(self, accepted: Sequence[Accepted]) -> None:
        for message, original, _ in accepted:
            self.answered.callback(acknowledgement(message, original))

    def refuse(self, refused: Refused, count: int) -> None:
        self.answered.errback(refused)


class Publishing:
    """The handler, and how the operation is described. Runs on the reactor thread."""

    def __init__(self, services: EdgeServices) -> None:
        self._services = services

    async def publish(self, room: int, request: Any) -> Ack:
        """The acknowledgement, once the message is durable.

        A client that goes away meanwhile leaves a message that is stored all the same.

        :raises RequestRefused: with the code that an error frame would have.
        """
        counters = self._services.counters
        counters.messages_received += 1
        try:
            sender = _Sender()
            self._services.ingress.accept(room, self._message_in(room, request), sender, request.client_ip)
            ack = await sender.answered
        except Refused as refused:
            counters.messages_refused += 1
            status = _STATUSES.get(refused.code, 400)
            headers = {"retry-after": "1"} if status == 503 else None
            raise RequestRefused(status, refused.code, str(refused), headers, refused.field) from None
        counters.acks_sent += 1
        return ack

    def operation(self, rooms: int) -> Operation:
        """:param rooms: rooms are numbered from 1 to this."""
        return Operation(
            path="/api/rooms/{room}/messages",
            method="POST",
            summary="Sends a message, as a frame of a WebSocket does; answered once it is durable",
            answer=Ack,
            status=201,
            error=Error,
            refusal=self._refusal,
            statuses=(403, 409, 413, 415),
            handler=self.publish,
            may=lambda identity, arguments: identity.may_write(arguments["room"]),
            body=ClientMessage,
            headers={_KEY: "the clientMessageId, if the body has none"},
            parameters=[
                integer("room", 1, rooms, "the room", in_path=True, required=True, status=404, code="no_such_room")
            ],
        )

    def _message_in(self, room: int, request: Any) -> ClientMessage:
        headers: Headers = request.requestHeaders
        _check_content_type(headers)
        payload: bytes = request.content.getvalue()
        limit = self._services.limits.max_frame_bytes
        if len(payload) > limit:
            raise Refused("too_large", f"the message must be at most {limit} bytes")
        try:
            payload.decode()
            message = decoder_for(request.identity, room)(payload)
        except UnicodeDecodeError:
            raise Refused("invalid_json", "the body must be one JSON object in UTF-8") from None
        except Refused as refused:
            if refused.code == "invalid_json":
                raise Refused("invalid_json", "the body must be one JSON object in UTF-8") from None
            raise
        key = _idempotency_key(headers)
        if key is None:
            return message
        if message.clientMessageId not in (UNSET, key):
            raise Refused(
                "invalid_field", f"clientMessageId must be what the header {_KEY} says, or left out", "clientMessageId"
            )
        return msgspec.structs.replace(message, clientMessageId=key)

    def _refusal(self, refused: RequestRefused) -> Error:
        stamp = iso_timestamp(int(self._services.now() * 1e6))
        return Error("ERROR", refused.code, str(refused), stamp, refused.field)


def _check_content_type(headers: Headers) -> None:
    given = [value.decode("latin-1") for value in headers.getRawHeaders(b"content-type", [])]
    kind, *parameters = [part.strip().lower() for part in (given[0] if len(given) == 1 else "").split(";")]
    is_utf8 = all(
        one.partition("=")[2].strip('"') in ("utf-8", "utf8") for one in parameters if one.startswith("charset")
    )
    if kind != "application/json" or not is_utf8 or headers.hasHeader(b"content-encoding"):
        raise RequestRefused(
            415,
            "unsupported_media_type",
            "the body must be JSON in UTF-8, not compressed: content-type: application/json",
            {"accept-post": "application/json"},
        )


def _idempotency_key(headers: Headers) -> str | None:
    """As it is, or as a string of RFC 9651 with quotation marks around it, which the draft of this header asks for."""
    given = headers.getRawHeaders(_KEY.encode())
    if given is None:
        return None
    text = given[0].decode("latin-1").strip(" \t")
    if len(text) >= 2 and text[0] == text[-1] == '"':
        text = text[1:-1].replace('\\"', '"').replace("\\\\", "\\")
    visible = text.isascii() and text.isprintable()
    if len(given) != 1 or not visible or not 1 <= len(text) <= MAX_CLIENT_MESSAGE_ID_CHARACTERS:
        raise Refused("invalid_field", _RULE, "clientMessageId")
    return text
