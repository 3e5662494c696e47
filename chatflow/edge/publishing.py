"""``POST /api/rooms/{room}/messages``: a message over HTTP, under the rules of one in a frame, answered as it is."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import UNSET
from twisted.internet.defer import Deferred
from twisted.web.http_headers import Headers
from zope.interface import implementer

from chatflow.contracts.members import Accepted, ISender
from chatflow.contracts.messages import MAX_CLIENT_MESSAGE_ID_CHARACTERS, ClientMessage
from chatflow.edge.operations import Operation, check_json, integer
from chatflow.edge.quota import quota_of
from chatflow.edge.refusals import RequestRefused
from chatflow.edge.services import EdgeServices
from chatflow.errors import ErrorCode, Refused
from chatflow.rooms.messages import Ack, Error, acknowledgement, iso_timestamp
from chatflow.rooms.speaker import decoder_for

#: Requests that wait for their answer at a time, each of which holds a connection.
MAX_AT_ONCE = 1000

#: What the codes of a message's refusal are in HTTP. What somebody cannot help is 5xx; who may come again is told when.
STATUSES: Mapping[ErrorCode, int] = {
    "invalid_json": 400,
    "missing_field": 400,
    "invalid_field": 400,
    "too_large": 413,
    "id_conflict": 409,
    "wrong_user": 403,
    "read_only": 403,
    "muted": 403,
    "banned": 403,
    "rate_limited": 429,
    "overloaded": 503,
    "unavailable": 503,
    "draining": 503,
    "not_stored": 500,
    "internal_error": 500,
}

_KEY = "Idempotency-Key"
# As it is, or with quotation marks around it: a string of RFC 9651, which is what the draft of this header asks for.
_KEY_CHARACTERS = f"[!#-~]{{1,{MAX_CLIENT_MESSAGE_ID_CHARACTERS}}}"
_KEY_PATTERN = f'"({_KEY_CHARACTERS})"|({_KEY_CHARACTERS})'
_RULE = f"the header {_KEY} must be given once, with 1-{MAX_CLIENT_MESSAGE_ID_CHARACTERS} visible characters of ASCII"


@implementer(ISender)
class _Sender:
    """Of one message.

    :ivar answered: fires with the acknowledgement, fails with :class:`Refused`.
    """

    def __init__(self) -> None:
        self.answered: Deferred[Ack] = Deferred()

    def acknowledge(self, accepted: Sequence[Accepted]) -> None:
        for one in accepted:
            self.answered.callback(acknowledgement(one.message, one.original))

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
            ack = await self._send(room, request)
        except Refused as refused:
            counters.messages_refused += 1
            raise _as_request(refused) from None
        counters.acks_sent += 1
        return ack

    async def _send(self, room: int, request: Any) -> Ack:
        services, sender = self._services, _Sender()
        # What an address and a user may send counts over all their connections and requests.
        quota = quota_of(services, request.client_ip, request.identity)
        if quota is not None:
            too_often = quota.take_message()
            if too_often is not None:
                raise too_often
        services.ingress.accept(room, self._message_in(room, request), sender, request.client_ip)
        if quota is None:
            return await sender.answered
        quota.accepted()
        try:
            return await sender.answered
        finally:
            quota.answered(1)

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
            statuses=(403, 409, 413, 415, 429),
            handler=self.publish,
            may=lambda identity, arguments: identity.may_write(arguments["room"]),
            body=ClientMessage,
            headers={_KEY: "the clientMessageId, if the body has none"},
            header_schema={"type": "string", "pattern": f"^({_KEY_PATTERN})$"},
            parameters=[
                integer("room", 1, rooms, "the room", in_path=True, required=True, status=404, code="no_such_room")
            ],
        )

    def _message_in(self, room: int, request: Any) -> ClientMessage:
        headers: Headers = request.requestHeaders
        check_json(headers)
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
        if key is not None and message.clientMessageId is UNSET:
            message = msgspec.structs.replace(message, clientMessageId=key)
        return message

    def _refusal(self, refused: RequestRefused) -> Error:
        stamp = iso_timestamp(int(self._services.now() * 1e6))
        return Error("ERROR", refused.code, str(refused), stamp, refused.field, refused.retry_after_ms)


def _as_request(refused: Refused) -> RequestRefused:
    status, wait_ms = STATUSES[refused.code], refused.retry_after_ms
    headers = {"retry-after": "1"} if status == 503 else {}
    return RequestRefused(status, refused.code, str(refused), headers, refused.field, wait_ms)


def _idempotency_key(headers: Headers) -> str | None:
    given = headers.getRawHeaders(_KEY.encode())
    if given is None:
        return None
    found = re.fullmatch(_KEY_PATTERN, given[0].decode("latin-1").strip(" \t")) if len(given) == 1 else None
    if found is None:
        raise Refused("invalid_field", _RULE, "clientMessageId")
    return found[1] or found[2]
