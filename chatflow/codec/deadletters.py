"""A dead letter: what the database refused for good, or what is no envelope, with its story. Pure."""

from __future__ import annotations

import json

import msgspec

from chatflow.codec import envelopes
from chatflow.contracts.deadletters import DeadLetter
from chatflow.contracts.envelopes import Envelope
from chatflow.rooms.messages import iso_timestamp

#: SQS takes 1 MiB. Only what is no envelope of ours can be longer.
MAX_JSON_BYTES = 1_000_000
_MAX_REASON_CHARACTERS = 2_000
_MOST_BYTES_PER_CHARACTER = 12  # as two \uXXXX


def of_envelope(envelope: Envelope, reason: str, now_seconds: float) -> DeadLetter:
    """A letter after the first attempt."""
    return _make(envelopes.encode(envelope), envelope.room, envelope.envelope_id, reason, now_seconds)


def of_body(body: str, reason: str, now_seconds: float) -> DeadLetter:
    """A letter of a queue body that is no envelope. Of one that does not fit in a letter only the beginning is kept."""
    letter = _make(body, None, None, reason, now_seconds)
    if len(encode(letter)) <= MAX_JSON_BYTES:
        return letter
    kept = (MAX_JSON_BYTES // _MOST_BYTES_PER_CHARACTER) - _MAX_REASON_CHARACTERS
    return _make(body[:kept], None, None, f"only {kept} of {len(body)} characters were kept; {reason}", now_seconds)


def envelope_in(letter: DeadLetter) -> Envelope:
    """The envelope that a letter is about.

    :raises BadEnvelope: it is none.
    """
    return envelopes.decode(letter.payload)


def failed_again(letter: DeadLetter, reason: str, now_seconds: float) -> DeadLetter:
    """The letter after another attempt."""
    return msgspec.structs.replace(
        letter,
        reason=shorten(reason),
        attempts=letter.attempts + 1,
        last_failed_at=iso_timestamp(round(now_seconds * 1_000_000)),
    )


def encode(letter: DeadLetter) -> str:
    """JSON, in ASCII: SQS refuses some characters."""
    return json.dumps(msgspec.to_builtins(letter))


_decoder = msgspec.json.Decoder(DeadLetter)


def decode(body: str, sent_seconds: float) -> DeadLetter:
    """The letter in a body of the dead letter queue. A body that holds none becomes one itself.

    :param sent_seconds: when it was put there.
    """
    try:
        return _decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return of_body(body, "not a dead letter of ChatFlow's", sent_seconds)


def _make(payload: str, room: int | None, envelope_id: str | None, reason: str, now_seconds: float) -> DeadLetter:
    now = iso_timestamp(round(now_seconds * 1_000_000))
    return DeadLetter(payload, room, envelope_id, shorten(reason), 1, now, now)


def shorten(reason: str) -> str:
    """A reason as it is kept: without NUL, at most 2,000 characters."""
    reason = reason.replace("\0", r"\0")  # which PostgreSQL does not store
    return reason if len(reason) <= _MAX_REASON_CHARACTERS else reason[: _MAX_REASON_CHARACTERS - 1] + "…"
