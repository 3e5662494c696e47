"""Several messages of one room that travel together.

Envelopes are what lifts the limit of a FIFO queue, 10 queue messages in flight per group: a room's messages that
arrive while its previous publish is under way travel together.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from chatflow.contracts.messages import Message

#: The most JSON that the messages of one envelope may be together: packed it is one unit of what queues are billed by
#: (:mod:`chatflow.codec.packing`).
MAX_CONTENT_BYTES = 48_000


class Envelope(msgspec.Struct, frozen=True, array_like=True):
    """Messages of one room, in order, published together by one instance.

    What is decoded fits the columns that PostgreSQL needs to number or to set aside an envelope; a fault in one of its
    messages is found when it is stored, away from the reactor.

    :ivar envelope_id: a UUID as PostgreSQL writes it; the queue's deduplication id, and what a room's head remembers.
    """

    envelope_id: Annotated[str, Meta(pattern=r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z")]
    room: Annotated[int, Meta(ge=1, le=2**31 - 1)]
    server_id: str
    messages: Annotated[tuple[Message, ...], Meta(min_length=1)]


def content_bytes(message: Message) -> int:
    """An upper bound for the message's share of an envelope's JSON."""
    # In JSON a character takes at most 6 bytes (\\u0001), and one of UTF-8's longer ones at most 4.
    text = message.text
    size = len(text) if text.isascii() and text.isprintable() else 6 * len(text)
    if '"' in text or "\\" in text:
        size *= 2
    return 230 + size + len(message.client_message_id or "") * 6
