"""Client message → validated message; acknowledgement, error and broadcast as JSON. Pure functions.

Wire format: ``docs/protocol.rst``.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime

import msgspec
from msgspec import UNSET, UnsetType

from chatflow.contracts.messages import (
    CERTAIN_TIMESTAMP,
    MAX_CLIENT_MESSAGE_ID_CHARACTERS,
    MAX_TEXT_CHARACTERS,
    MAX_USER_ID,
    MAX_USERNAME_CHARACTERS,
    MIN_USERNAME_CHARACTERS,
    ClientMessage,
    Message,
    MessageType,
    StoredMessage,
    UnsignedMessage,
)
from chatflow.errors import Refused
from chatflow.validation import field_at_fault

#: What a client is told when a field breaks its rule, by the field's wire name.
RULES = {
    "userId": f"userId must be a string or integer of digits from 1 to {MAX_USER_ID}",
    "username": f"username must be {MIN_USERNAME_CHARACTERS}-{MAX_USERNAME_CHARACTERS} characters, letters and digits",
    "message": f"message must be 1-{MAX_TEXT_CHARACTERS} characters, without NUL",
    "timestamp": "timestamp must be ISO-8601 with a zone, such as 2026-11-23T10:30:00.123Z",
    "messageType": "messageType must be TEXT, JOIN or LEAVE",
    "clientMessageId": f"clientMessageId must be 1-{MAX_CLIENT_MESSAGE_ID_CHARACTERS} characters, without NUL",
}


def content(username: str, message_type: str, text: str) -> str:
    """What makes a message with a clientMessageId the same when it is sent again; its timestamp may differ."""
    return f"{username}\0{message_type}\0{text}"


class Broadcast(msgspec.Struct, gc=False):
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


class Ack(msgspec.Struct, gc=False):
    """The acknowledgement of a message."""

    status: str
    messageId: str
    timestamp: str
    originalMessage: ClientMessage


class Error(msgspec.Struct, omit_defaults=True):
    """Why a message was refused."""

    status: str
    code: str
    errorMessage: str
    timestamp: str
    field: str | None = None
    retryAfterMs: int | None = None


class _Unchecked(ClientMessage, frozen=True, gc=False):
    """A message whose fields are of their types, whatever rules they break."""

    userId: int | str
    username: str
    message: str
    timestamp: str
    messageType: MessageType
    clientMessageId: str | UnsetType = UNSET


_decode_unchecked = msgspec.json.Decoder(_Unchecked).decode
_is_certain_timestamp = re.compile(CERTAIN_TIMESTAMP).fullmatch
_decoder = msgspec.json.Decoder(ClientMessage)
_unsigned_decoder = msgspec.json.Decoder(UnsignedMessage)
_encode = msgspec.json.Encoder().encode


def decode(payload: bytes) -> ClientMessage:
    """The message in a client's frame.

    :raises Refused: the only error, whatever the bytes are.
    """
    try:
        message = _decode_unchecked(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return decode_checked(payload)
    return message if _is_usual(message) else decode_checked(payload)


def _is_usual(message: ClientMessage) -> bool:
    """Whether a message keeps all rules for certain; of one that may not, :func:`decode_checked` says which it breaks.

    These few calls take a fifth of the time of the patterns of :class:`ClientMessage`.
    """
    user_id, username, text = message.userId, message.username, message.message
    return (
        user_id.__class__ is str
        and user_id.isascii()
        and user_id.isdigit()
        and len(user_id) <= 6
        and 1 <= int(user_id) <= MAX_USER_ID
        and username.isascii()
        and username.isalnum()
        and MIN_USERNAME_CHARACTERS <= len(username) <= MAX_USERNAME_CHARACTERS
        and 1 <= len(text) <= MAX_TEXT_CHARACTERS
        and "\0" not in text
        and message.clientMessageId is UNSET
        and _is_certain_timestamp(message.timestamp) is not None
    )


def decode_checked(payload: bytes) -> ClientMessage:
    """The same as :func:`decode`, which knows the usual message by a shorter way."""
    try:
        message = _decoder.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _refusal(error) from None
    return _checked(message)


def decode_unsigned(payload: bytes, user_id: int, username: str | None) -> ClientMessage:
    """The same of a frame that may leave out who sends it: what is said here then.

    :param username: None if the frame must name one.
    """
    try:
        given = _unsigned_decoder.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _refusal(error) from None
    name = username if given.username is UNSET else given.username
    if name is None:
        raise Refused("missing_field", f"username is missing: {RULES['username']}", "username")
    return _checked(
        ClientMessage(
            str(user_id) if given.userId is UNSET else given.userId,
            name,
            given.message,
            given.timestamp,
            given.messageType,
            given.clientMessageId,
        )
    )


def _checked(message: ClientMessage) -> ClientMessage:
    """The message, if it keeps the rules that its type cannot say."""
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


def _refusal(error: Exception) -> Refused:
    if isinstance(error, msgspec.ValidationError):
        return _broken_rule(str(error))
    return Refused("invalid_json", "the frame must be one JSON object in UTF-8")


def _broken_rule(error: str) -> Refused:
    place = field_at_fault(error)
    if place is None:
        return Refused("invalid_json", "the frame must be one JSON object")
    field, is_missing = place
    if is_missing:
        return Refused("missing_field", f"{field} is missing: {RULES[field]}", field)
    return Refused("invalid_field", RULES[field], field)


def acknowledgement(message: Message, original: ClientMessage) -> Ack:
    """The one acknowledgement of a message, for its sender."""
    return Ack("SUCCESS", message.message_id, iso_timestamp(message.created_at_us), original)


def encode_error(refused: Refused, now_us: int) -> bytes:
    """The one error of a refused message. Has neither messageId nor roomId, which mark a broadcast."""
    return _encode(
        Error("ERROR", refused.code, str(refused), iso_timestamp(now_us), refused.field, refused.retry_after_ms)
    )


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
_last_moment = (0, "1970-01-01T00:00:00.000000Z")


def iso_timestamp(microseconds: int) -> str:
    """``2026-11-23T10:30:00.123456Z``. Remembers the last one, which all messages of one read share, and its second."""
    global _last_second, _last_moment
    moment, text = _last_moment
    if microseconds == moment:
        return text
    second, fraction = divmod(microseconds, 1_000_000)
    known, whole = _last_second
    if second != known:
        whole = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        _last_second = (second, whole)
    text = f"{whole}.{fraction:06d}Z"
    _last_moment = (microseconds, text)
    return text


def parse_room(text: str, rooms: int) -> int | None:
    """The room a path names, or None: only ``1`` to ``rooms``, written without sign or leading zero."""
    if text.isascii() and text.isdigit() and len(text) <= 9 and text[0] != "0":
        room = int(text)
        return room if room <= rooms else None
    return None
