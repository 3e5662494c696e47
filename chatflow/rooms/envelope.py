"""Several messages of one room as one queue body, and back. Pure functions.

Envelopes are what lifts the limit of a FIFO queue, 10 queue messages in flight per group: a room's messages that
arrive while its previous publish is under way travel together.
"""

from __future__ import annotations

import base64
import binascii
import zlib

import msgspec

from chatflow.errors import ChatFlowError
from chatflow.rooms.messages import Message

#: One billing unit of SQS and SNS (64 KB of body).
MAX_BODY_BYTES = 65_536

#: Messages are added to an envelope while their sizes stay below this. Base64 makes 4 bytes of 3, and zlib adds at
#: most 11 bytes and 5 per 16 KB to what it cannot compress, so even the worst text stays within MAX_BODY_BYTES.
MAX_CONTENT_BYTES = 48_000

# A body of 64 KB could inflate to 64 MB; ours never hold more than this.
_MAX_JSON_BYTES = 2 * MAX_CONTENT_BYTES


class Envelope(msgspec.Struct, frozen=True, array_like=True):
    """Messages of one room, in order, published together by one instance.

    :ivar envelope_id: a UUID; the queue's deduplication id, and what a room's head remembers.
    """

    envelope_id: str
    room: int
    server_id: str
    messages: tuple[Message, ...]


class BadEnvelope(ChatFlowError):
    """A queue body is not an envelope of ours."""


def content_bytes(message: Message) -> int:
    """An upper bound for the message's share of the JSON."""
    # In JSON a character takes at most 6 bytes (\\u0001), and one of UTF-8's longer ones at most 4.
    text = message.text
    size = len(text) if text.isascii() and text.isprintable() else 6 * len(text)
    if '"' in text or "\\" in text:
        size *= 2
    return 230 + size + len(message.client_message_id or "") * 6


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Envelope)


def encode(envelope: Envelope) -> str:
    """base64url(zlib(JSON)): SNS percent-encodes what it is sent, and this passes unchanged."""
    return base64.urlsafe_b64encode(zlib.compress(_encoder.encode(envelope), 1)).decode("ascii")


def decode(body: str) -> Envelope:
    """The envelope in a queue body.

    :raises BadEnvelope: whatever else the body is.
    """
    try:
        inflate = zlib.decompressobj()
        text = inflate.decompress(base64.urlsafe_b64decode(body.encode("ascii")), _MAX_JSON_BYTES)
        if not inflate.eof:
            raise BadEnvelope("the envelope is cut short or too large")
        return _decoder.decode(text)
    except (UnicodeError, binascii.Error, zlib.error, msgspec.MsgspecError, RecursionError) as error:
        raise BadEnvelope(f"not an envelope: {error}") from error
