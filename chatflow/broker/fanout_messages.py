"""What travels from one instance to the others: committed messages of a room, or a probe. Pure functions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from chatflow.codec.packing import UnpackError, pack, unpack
from chatflow.contracts.envelopes import MAX_CONTENT_BYTES, content_bytes
from chatflow.contracts.messages import Message, StoredMessage


class FanoutMessage(msgspec.Struct, frozen=True, array_like=True):
    """Consecutive messages of one room, each with the instance that accepted it.

    :ivar probe: not empty in a message that an instance sends to itself, to learn whether its subscription works.
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


class BadFanoutMessage(ValueError):
    """A body is no fan-out message of ours."""


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(FanoutMessage)


def encode(message: FanoutMessage) -> str:
    """The body; at most 64 KB if made by :func:`split`."""
    return pack(_encoder.encode(message))


def decode(body: str) -> FanoutMessage:
    """The fan-out message in a body.

    :raises BadFanoutMessage: whatever else it is.
    """
    try:
        return _decoder.decode(unpack(body))
    except (UnpackError, msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise BadFanoutMessage(str(error)) from error


def split(messages: Sequence[StoredMessage]) -> Iterator[FanoutMessage]:
    """One room's messages, ascending, as fan-out messages that are consecutive within and fit a body each."""
    part: list[StoredMessage] = []
    part_bytes = 0
    for message in messages:
        message_bytes = content_bytes(message.message) + len(message.server_id)
        if part and (part_bytes + message_bytes > MAX_CONTENT_BYTES or message.seq != part[-1].seq + 1):
            yield _of(part)
            part, part_bytes = [], 0
        part.append(message)
        part_bytes += message_bytes
    if part:
        yield _of(part)


def _of(part: Sequence[StoredMessage]) -> FanoutMessage:
    return FanoutMessage(part[0].room, part[0].seq, tuple((stored.server_id, stored.message) for stored in part))
