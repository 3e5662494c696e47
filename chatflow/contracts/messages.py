"""A message as a client sent it, as it was accepted, and as it was stored.

These are :class:`msgspec.Struct` rather than attrs classes, since one of each is made for every message: decoding and
validating is then a single call into C (about 1 µs), and so is encoding.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

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

# Offsets up to 15:59 are what PostgreSQL takes; `datetime.fromisoformat` checks the calendar itself. [0-9], since
# \d means the digits of every script, which PostgreSQL refuses, and with them the rest of the envelope.
_TIMESTAMP = (
    r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?(Z|[+-](0[0-9]|1[0-5]):[0-5][0-9])\Z"
)

#: Stands in a schema for a pattern that is narrower than the one that is checked first: what matches is taken.
DESCRIBED_PATTERN = "x-pattern"

_DAY = "((0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])|(0[13-9]|1[0-2])-(29|30)|(0[13578]|1[02])-31)"
#: Without 29 February, which is not in every year: what matches this is a moment that there is.
CERTAIN_TIMESTAMP = (
    rf"^(000[1-9]|00[1-9][0-9]|0[1-9][0-9]{{2}}|[1-9][0-9]{{3}})-{_DAY}T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]"
    r"(\.[0-9]{1,9})?(Z|[+-](0[0-9]|1[0-5]):[0-5][0-9])$"
)
_DESCRIBED_USER_ID = "^([1-9][0-9]{0,4}|100000)$"


class ClientMessage(msgspec.Struct, frozen=True):
    """What a client sent, checked. Field names are the wire's; unknown fields were ignored."""

    userId: (
        Annotated[int, Meta(ge=1, le=MAX_USER_ID)]
        | Annotated[str, Meta(pattern=r"^[0-9]{1,6}\Z", extra_json_schema={DESCRIBED_PATTERN: _DESCRIBED_USER_ID})]
    )
    username: Annotated[str, Meta(pattern=rf"^{USERNAME}\Z")]
    message: Annotated[str, Meta(min_length=1, max_length=MAX_TEXT_CHARACTERS)]
    timestamp: Annotated[
        str, Meta(max_length=40, pattern=_TIMESTAMP, extra_json_schema={DESCRIBED_PATTERN: CERTAIN_TIMESTAMP})
    ]
    messageType: MessageType
    clientMessageId: Annotated[str, Meta(min_length=1, max_length=MAX_CLIENT_MESSAGE_ID_CHARACTERS)] | UnsetType = UNSET


class UnsignedMessage(msgspec.Struct, frozen=True):
    """The same, of a client whose token says who it is, so that it need not."""

    message: Annotated[str, Meta(min_length=1, max_length=MAX_TEXT_CHARACTERS)]
    timestamp: Annotated[str, Meta(max_length=40, pattern=_TIMESTAMP)]
    messageType: MessageType
    userId: Annotated[int, Meta(ge=1, le=MAX_USER_ID)] | Annotated[str, Meta(pattern=r"^[0-9]{1,6}\Z")] | UnsetType = (
        UNSET
    )
    username: Annotated[str, Meta(pattern=rf"^{USERNAME}\Z")] | UnsetType = UNSET
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


class StoredMessage(msgspec.Struct, frozen=True, array_like=True):
    """A committed message with its place in the room's order. ``server_id``: the instance that accepted it."""

    room: int
    seq: int
    server_id: str
    message: Message
