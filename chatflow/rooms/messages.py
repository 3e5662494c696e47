"""Client message → validated message; acknowledgement, error and broadcast as JSON. Pure functions.

The values here are :class:`msgspec.Struct` rather than attrs classes, since one of each is made for every message:
decoding and validating is then a single call into C (about 1 µs), and so is encoding.

Wire format: ``docs/protocol.rst``.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from chatflow.errors import Refused

MessageType = Literal["TEXT", "JOIN", "LEAVE"]

# The limits of a message; chatflow.js has the same as LIMITS. Characters are code points, as they were sent: no text is
# normalized, so that what everybody is shown is what was said, and é may be one or two.
MAX_USER_ID = 100_000
MIN_USERNAME_CHARACTERS = 3
MAX_USERNAME_CHARACTERS = 20
MAX_TEXT_CHARACTERS = 500
MAX_CLIENT_MESSAGE_ID_CHARACTERS = 64

#: Letters and digits of ASCII alone: names that look alike in other scripts would be different ones.
USERNAME = f"[A-Za-z0-9]{{{MIN_USERNAME_CHARACTERS},{MAX_USERNAME_CHARACTERS}}}"

#: What a client is told when a field breaks its rule, by the field's wire name.
RULES = {
    "userId": f"userId must be a string or integer of digits from 1 to {MAX_USER_ID}",
    "username": f"username must be {MIN_USERNAME_CHARACTERS}-{MAX_USERNAME_CHARACTERS} characters, letters and digits",
    "message": f"message must be 1-{MAX_TEXT_CHARACTERS} characters, without NUL",
    "timestamp": "timestamp must be ISO-8601 with a zone, such as 2026-11-23T10:30:00.123Z",
    "messageType": "messageType must be TEXT, JOIN or LEAVE",
    "clientMessageId": f"clientMessageId must be 1-{MAX_CLIENT_MESSAGE_ID_CHARACTERS} characters, without NUL",
}

# Offsets up to 15:59 are what PostgreSQL takes; `datetime.fromisoformat` checks the calendar itself. [0-9], since
# \d means the digits of every script, which PostgreSQL refuses, and with them the rest of the envelope.
_TIMESTAMP = (
    r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?(Z|[+-](0[0-9]|1[0-5]):[0-5][0-9])\Z"
)


class ClientMessage(msgspec.Struct, frozen=True):
    """What a client sent, checked. Field names are the wire's; unknown fields were ignored."""

    userId: Annotated[int, Meta(ge=1, le=MAX_USER_ID)] | Annotated[str, Meta(pattern=r"^[0-9]{1,6}\Z")]
    username: Annotated[str, Meta(pattern=rf"^{USERNAME}\Z")]
    message: Annotated[str, Meta(min_length=1, max_length=MAX_TEXT_CHARACTERS)]
    timestamp: Annotated[str, Meta(max_length=40, pattern=_TIMESTAMP)]
    messageType: MessageType
    clientMessageId: Annotated[str, Meta(min_length=1, max_length=MAX_CLIENT_MESSAGE_ID_CHARACTERS)] | UnsetType = UNSET


class Message(msgspec.Struct, frozen=True, array_like=True):
    """An accepted message: what travels in envelopes and is stored. ``created_at_us``: microseconds since 1970, UTC."""

    message_id: str
    created_at_us: Annotated[int, Meta(ge=0, le=253_402_300_799_999_999)]  # until the year 9999
    user_id: int
    username: str
    text: str
    message_type: MessageType
    client_timestamp: str
    client_ip: str | None = None
    client_message_id: str | None = None


def content(username: str, message_type: str, text: str) -> str:
    """What makes a message with a clientMessageId the same when it is sent again; its timestamp may differ."""
    return f"{username}\0{message_type}\0{text}"


class StoredMessage(msgspec.Struct, frozen=True, array_like=True):
    """A committed message with its place in the room's order. ``server_id``: the instance that accepted it."""

    room: int
    seq: int
    server_id: str
    message: Message


class Broadcast(msgspec.Struct):
    """A stored message as clients are shown it."""

    messageId: str
    roomId: str
    seq: int
    userId: str
    username: str
    message: str
    timestamp: str
    messageType: str
    serverId: str


class _Ack(msgspec.Struct):
    status: str
    messageId: str
    timestamp: str
    originalMessage: ClientMessage


class _Error(msgspec.Struct, omit_defaults=True):
    status: str
    code: str
    errorMessage: str
    timestamp: str
    field: str | None = None


_decoder = msgspec.json.Decoder(ClientMessage)
_encode = msgspec.json.Encoder().encode

# msgspec names the place of an error as "... - at `$.username`" and a missing one as "... field `username`".
_PLACE = re.compile(r"(?:at `\$\.|missing required field `)(\w+)`")


def decode(payload: bytes) -> ClientMessage:
    """The message in a client's frame.

    :raises Refused: the only error, whatever the bytes are.
    """
    try:
        message = _decoder.decode(payload)
    except msgspec.ValidationError as error:
        raise _broken_rule(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Refused("invalid_json", "the frame must be one JSON object in UTF-8") from None
    if not 1 <= int(message.userId) <= MAX_USER_ID:
        raise _broken_rule("at `$.userId`")
    if "\0" in message.message:
        raise _broken_rule("at `$.message`")
    if message.clientMessageId is not UNSET and "\0" in message.clientMessageId:
        raise _broken_rule("at `$.clientMessageId`")
    try:
        datetime.fromisoformat(message.timestamp)
    except ValueError:
        raise _broken_rule("at `$.timestamp`") from None
    return message


def _broken_rule(error: str) -> Refused:
    place = _PLACE.search(error)
    if place is None:
        return Refused("invalid_json", "the frame must be one JSON object")
    field = place[1]
    if "missing" in error:
        return Refused("missing_field", f"{field} is missing: {RULES[field]}", field)
    return Refused("invalid_field", RULES[field], field)


def encode_ack(message: Message, original: ClientMessage) -> bytes:
    """The one acknowledgement of a message, for its sender."""
    return _encode(_Ack("SUCCESS", message.message_id, iso_timestamp(message.created_at_us), original))


def encode_error(refused: Refused, now_us: int) -> bytes:
    """The one error of a refused message. Has neither messageId nor roomId, which mark a broadcast."""
    return _encode(_Error("ERROR", refused.code, str(refused), iso_timestamp(now_us), refused.field))


def encode_broadcast(stored: StoredMessage) -> bytes:
    """A message for everyone in its room."""
    return _encode(broadcast(stored))


def broadcast(stored: StoredMessage) -> Broadcast:
    """What everyone may see of a message. The client's address is stored, never broadcast."""
    message = stored.message
    return Broadcast(
        message.message_id,
        str(stored.room),
        stored.seq,
        str(message.user_id),
        message.username,
        message.text,
        iso_timestamp(message.created_at_us),
        message.message_type,
        stored.server_id,
    )


_last_second = (0, "1970-01-01T00:00:00")


def iso_timestamp(microseconds: int) -> str:
    """``2026-11-23T10:30:00.123456Z``. Remembers the last second, since a batch spans few of them."""
    global _last_second
    second, fraction = divmod(microseconds, 1_000_000)
    known, text = _last_second
    if second != known:
        text = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        _last_second = (second, text)
    return f"{text}.{fraction:06d}Z"


def parse_room(text: str, rooms: int) -> int | None:
    """The room a path names, or None: only ``1`` to ``rooms``, written without sign or leading zero."""
    if text.isascii() and text.isdigit() and len(text) <= 9 and text[0] != "0":
        room = int(text)
        return room if room <= rooms else None
    return None
