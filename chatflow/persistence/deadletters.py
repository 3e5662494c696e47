"""Envelopes that PostgreSQL refused, set aside in a table. Of the embedded broker; a cluster has a queue for them."""

from __future__ import annotations

from typing import Any

import msgspec
from twisted.internet.defer import Deferred
from zope.interface import implementer

from chatflow.persistence.database import Database
from chatflow.rooms.envelope import Envelope
from chatflow.rooms.interfaces import IDeadLetters

_KEEP = """
INSERT INTO dead_letters AS known
       (room_id, envelope_id, payload, reason, attempts, first_failed_at, last_failed_at)
VALUES (%s, %s, %s, %s, 1, now(), now())
ON CONFLICT (envelope_id) DO UPDATE SET
       reason = excluded.reason, attempts = known.attempts + 1, last_failed_at = excluded.last_failed_at
"""


@implementer(IDeadLetters)
class DeadLetterTable:
    """The table ``dead_letters``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def keep(self, envelope: Envelope, reason: str) -> Deferred[None]:
        """See :class:`IDeadLetters`."""
        return Deferred.fromCoroutine(self._database.run("keep a dead letter", keep_in_thread, envelope, reason))


def keep_in_thread(cursor: Any, envelope: Envelope, reason: str) -> None:
    """Add the envelope, or count another attempt. The payload is its JSON, in which NUL is written as an escape."""
    payload = msgspec.json.encode(envelope).decode()
    cursor.execute(_KEEP, (envelope.room, envelope.envelope_id, payload, reason))
