"""Messages and envelopes: plain ones to give names to, and every legal one as hypothesis strategies."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Iterable
from typing import Any

import msgspec
from hypothesis import strategies as st

from chatflow.contracts.envelopes import Envelope
from chatflow.contracts.messages import Message, StoredMessage
from chatflow.rooms.identifiers import derived_id, uuid7

#: 2026-11-23T10:30:00.123456Z
NOW_US = 1_795_429_800_123_456

_serial = itertools.count(1)


def make_message(text: str = "Hello", **fields: Any) -> Message:
    """An accepted message with an id of its own; ``fields`` are those of :class:`Message` that matter."""
    given: dict[str, Any] = {
        "message_id": uuid7(NOW_US // 1000, next(_serial)),
        "created_at_us": NOW_US,
        "user_id": 12345,
        "username": "user12345",
        "text": text,
        "message_type": "TEXT",
        "client_timestamp": "2026-11-23T10:30:00.123456789Z",
    }
    return Message(**(given | fields))


def make_envelope(room: int = 1, *texts: str, messages: tuple[Message, ...] = (), server_id: str = "s1") -> Envelope:
    """An envelope with an id of its own. Without texts and messages it holds one ``Hello``."""
    contents = messages or tuple(make_message(text) for text in texts or ("Hello",))
    return Envelope(uuid7(NOW_US // 1000, next(_serial)), room, server_id, contents)


def make_stored(seq: int, room: int = 1, text: str | None = None) -> StoredMessage:
    """A committed message whose text tells its place."""
    return StoredMessage(room, seq, "s1", make_message(text or f"{room}:{seq}"))


def legal_characters() -> st.SearchStrategy[str]:
    """Every character that a client may send: all of Unicode but NUL and the surrogates."""
    return st.characters(exclude_characters="\0", exclude_categories=["Cs"])


def legal_texts(max_size: int = 500) -> st.SearchStrategy[str]:
    """Texts of a message, with more of what needs an escape in JSON, in COPY or in neither than chance gives."""
    awkward = st.sampled_from('"\\\t\n\r\x01\x1b\x7f\x85\u2028\ufeff\uffff😀\U0010ffff/.N')
    return st.text(awkward | legal_characters(), min_size=1, max_size=max_size)


def legal_timestamps() -> st.SearchStrategy[str]:
    """Every timestamp that a client may send."""
    fraction = st.text("0123456789", max_size=9).map(lambda digits: digits and f".{digits}")
    offset = st.builds(
        "{}{:02}:{:02}".format, st.sampled_from("+-"), st.integers(0, 15), st.integers(0, 59)
    )  # PostgreSQL knows no zone beyond 15:59
    moment = st.datetimes().map(lambda moment: moment.replace(microsecond=0).isoformat())
    return st.builds("{}{}{}".format, moment, fraction, st.just("Z") | offset)


def legal_frames() -> st.SearchStrategy[dict[str, Any]]:
    """Every message that a server must take, as what its JSON means, with fields nobody knows."""
    users = st.integers(1, 100_000)
    known = {
        "userId": users | users.map(str) | users.map("{:06}".format),
        "username": st.text("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", min_size=3, max_size=20),
        "message": legal_texts(),
        "timestamp": legal_timestamps(),
        "messageType": st.sampled_from(["TEXT", "JOIN", "LEAVE"]),
    }
    own_id = {"clientMessageId": legal_texts(64)}
    unknown = st.dictionaries(
        st.sampled_from(["roomId", "queuedMessage", "synchronousMessage", "status", "messageId", "clientIp"]),
        st.none() | st.booleans() | st.integers() | legal_texts(20),
    )
    return st.builds(lambda known, unknown: unknown | known, st.fixed_dictionaries(known, optional=own_id), unknown)


def legal_messages() -> st.SearchStrategy[Message]:
    """Every message that can be in an envelope."""
    return st.builds(
        Message,
        message_id=st.uuids().map(str),
        created_at_us=st.integers(0, 4_102_444_800_000_000 - 1),  # until 2100
        user_id=st.integers(1, 100_000),
        username=st.text("abcXYZ019", min_size=3, max_size=20),
        text=legal_texts(),
        message_type=st.sampled_from(["TEXT", "JOIN", "LEAVE"]),
        client_timestamp=legal_timestamps(),
        client_ip=st.none() | st.ip_addresses().map(str),
        client_message_id=st.none() | legal_texts(64),
    )


def distinct(messages: Iterable[Message]) -> tuple[Message, ...]:
    """The same messages, each with an id and a name that no other has: what repeats one is not stored again."""
    return tuple(map(_distinct, messages))


def _distinct(message: Message) -> Message:
    serial = next(_serial)
    if message.client_message_id is None:
        return msgspec.structs.replace(message, message_id=uuid7(NOW_US // 1000, serial))
    own_id = f"{serial:x}.{message.client_message_id}"[:64]
    message_id = derived_id(1, message.user_id, own_id, "")
    return msgspec.structs.replace(message, message_id=message_id, client_message_id=own_id)


def legal_envelopes(max_messages: int = 5) -> st.SearchStrategy[Envelope]:
    """Every envelope, but for larger ones."""
    return st.builds(
        Envelope,
        st.uuids().map(str),
        st.integers(1, 1000),
        st.text("abcdefghijklmnopqrstuvwxyz0123456789.-_", min_size=1, max_size=64),
        st.lists(legal_messages(), min_size=1, max_size=max_messages).map(tuple),
    )


def is_uuid(text: str) -> bool:
    """Whether it is one, written as PostgreSQL writes it."""
    return str(uuid.UUID(text)) == text
