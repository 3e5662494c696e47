"""What travels from one instance to the others: committed messages of a room, or a probe. Pure functions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from chatflow.codec.packing import UnpackError, pack, unpack
from chatflow.contracts.envelopes import MAX_CONTENT_BYTES, content_bytes
from chatflow.contracts.messages import Message, StoredMessage


class News(msgspec.Struct, frozen=True, array_like=True):
    """Consecutive messages of one room, each with the instance that accepted it.

    :ivar probe: not empty in a message that an instance sends to itself, to learn that it hears.
    """

    room: int
    first_seq: int
    messages: tuple[tuple[str, Message], ...] = ()
    probe: str = ""

    def stored(self) -> list[StoredMessage]:
        """The messages with their places."""
        return [
            StoredMessage(self.room, seq, server_id, message)
            for seq, (server_id, message) in enumerate(self.messages, self.first_seq)
        ]


class BadNews(ValueError):
    """A body is not news of ours."""


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(News)


def encode(news: News) -> str:
    """The body; at most 64 KB if made by :func:`split`."""
    return pack(_encoder.encode(news))


def decode(body: str) -> News:
    """The news in a body.

    :raises BadNews: whatever else it is.
    """
    try:
        return _decoder.decode(unpack(body))
    except (UnpackError, msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise BadNews(str(error)) from error


def split(messages: Sequence[StoredMessage]) -> Iterator[News]:
    """One room's messages, ascending, as news that are consecutive within and fit a body each."""
    part: list[StoredMessage] = []
    part_bytes = 0
    for message in messages:
        message_bytes = content_bytes(message.message) + len(message.server_id)
        if part and (part_bytes + message_bytes > MAX_CONTENT_BYTES or message.seq != part[-1].seq + 1):
            yield _news(part)
            part, part_bytes = [], 0
        part.append(message)
        part_bytes += message_bytes
    if part:
        yield _news(part)


def _news(part: Sequence[StoredMessage]) -> News:
    return News(part[0].room, part[0].seq, tuple((stored.server_id, stored.message) for stored in part))
