"""An envelope as one queue body, and back. Pure functions."""

from __future__ import annotations

import msgspec

from chatflow.codec.packing import UnpackError, pack, unpack
from chatflow.contracts.envelopes import Envelope
from chatflow.errors import ChatFlowError


class BadEnvelope(ChatFlowError):
    """A queue body is not an envelope of ours."""


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Envelope)


def encode(envelope: Envelope) -> str:
    """The queue body: at most MAX_BODY_BYTES if the messages' ``content_bytes`` together are MAX_CONTENT_BYTES."""
    return pack(_encoder.encode(envelope))


def decode(body: str) -> Envelope:
    """The envelope in a queue body.

    :raises BadEnvelope: whatever else the body is.
    """
    try:
        return _decoder.decode(unpack(body))
    except (UnpackError, msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise BadEnvelope(f"not an envelope: {error}") from error
