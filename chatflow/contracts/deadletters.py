"""What the database refused for good, and where it is kept."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Awaitable, Sequence

import msgspec
from twisted.internet.defer import Deferred
from zope.interface import Interface

from chatflow.contracts.envelopes import Envelope

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class DeadLetter(msgspec.Struct, frozen=True, rename="camel"):
    """In JSON the names are in camelCase.

    :ivar payload: the queue body as it was sent.
    :ivar room: None if the payload is no envelope.
    :ivar envelope_id: likewise.
    :ivar attempts: how often it was tried to be stored.
    :ivar first_failed_at: ISO 8601, UTC, like ``last_failed_at``.
    """

    payload: str
    room: int | None
    envelope_id: str | None
    reason: str
    attempts: int
    first_failed_at: str
    last_failed_at: str

    @property
    def id(self) -> str:
        """The envelope's id, or else a part of the payload's SHA-256: 32 to 36 letters, digits and ``-``."""
        if self.envelope_id is not None and _UUID.fullmatch(self.envelope_id):
            return self.envelope_id
        return hashlib.sha256(self.payload.encode(errors="replace")).hexdigest()[:32]


class IDeadLetters(Interface):
    """Where envelopes go that the database refuses for good, so that they never block their room."""

    def keep(envelope: Envelope, reason: str) -> Deferred[None]:
        """Fires when the envelope is durably set aside; a second time, another attempt of it is counted.

        Tried again without end: it is the last resort. Fails with :class:`chatflow.errors.Unavailable` only when
        what it needs has been stopped; the envelope is then delivered again, to somebody else.
        """

    def count() -> Awaitable[int]:
        """How many there are, about. Fails with :class:`chatflow.errors.Unavailable`."""


class IDeadLetterBox(Interface):
    """What commands do with the dead letters. Blocks. One at a time: others may not see what this one has read.

    Every method raises :class:`chatflow.errors.Unavailable` when the place of the letters does not answer.
    """

    def read() -> list[DeadLetter]:
        """Every letter, the oldest first, each ``id`` once. They are held for this reader for some minutes."""

    def replace(letter: DeadLetter, replacement: DeadLetter) -> None:
        """Put another one with the same ``id`` in the place of one that was read."""

    def remove(letters: Sequence[DeadLetter]) -> None:
        """Delete letters that were read."""

    def release() -> None:
        """Let other readers have the letters that were read and neither replaced nor removed."""
