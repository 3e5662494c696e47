"""Envelopes that PostgreSQL refused, set aside in a table. Of the embedded broker; a cluster has a queue for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import Deferred
from zope.interface import implementer

from chatflow.codec import envelopes
from chatflow.codec.deadletters import shorten
from chatflow.contracts.deadletters import DeadLetter, IDeadLetterBox, IDeadLetters
from chatflow.contracts.envelopes import Envelope
from chatflow.persistence.database import Database
from chatflow.persistence.driver import Connection, Cursor
from chatflow.persistence.failures import database_errors

_KEEP = """
INSERT INTO dead_letters AS known
       (room_id, envelope_id, payload, reason, attempts, first_failed_at, last_failed_at)
VALUES (%s, %s, %s, %s, 1, now(), now())
ON CONFLICT (envelope_id) DO UPDATE SET
       reason = excluded.reason, attempts = known.attempts + 1, last_failed_at = excluded.last_failed_at
"""

_READ = """
SELECT payload, room_id, envelope_id::text, reason, attempts,
       to_char(first_failed_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
       to_char(last_failed_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
FROM dead_letters ORDER BY id
"""

_REPLACE = "UPDATE dead_letters SET reason = %s, attempts = %s, last_failed_at = %s WHERE envelope_id = %s"

_REMOVE = "DELETE FROM dead_letters WHERE envelope_id = ANY(%s::uuid[])"


@implementer(IDeadLetters)
class DeadLetterTable:
    """The table ``dead_letters``, as the daemon writes it."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def keep(self, envelope: Envelope, reason: str) -> Deferred[None]:
        """See :class:`IDeadLetters`."""
        return Deferred.fromCoroutine(self._database.run("keep a dead letter", keep_in_thread, envelope, reason))

    async def count(self) -> int:
        """How many there are.

        :raises Unavailable: the database does not answer.
        """
        return await self._database.run_once("count dead letters", _count_in_thread)


def _count_in_thread(cursor: Cursor) -> int:
    cursor.execute("SELECT count(*) FROM dead_letters")
    ((count,),) = cursor.fetchall()
    return int(count)


def keep_in_thread(cursor: Cursor, envelope: Envelope, reason: str) -> None:
    """Add the envelope, or count another attempt."""
    cursor.execute(_KEEP, (envelope.room, envelope.envelope_id, envelopes.encode(envelope), shorten(reason)))


@implementer(IDeadLetterBox)
class DeadLetterRows:
    """The same table for commands. Each call is a transaction. Nothing is held: readers do not hinder each other.

    :param connection: of psycopg2, not in a transaction.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def read(self) -> list[DeadLetter]:
        """See :class:`IDeadLetterBox`."""
        return [DeadLetter(*row) for row in self._execute(_READ)]

    def replace(self, letter: DeadLetter, replacement: DeadLetter) -> None:
        """See :class:`IDeadLetterBox`."""
        new = replacement
        self._execute(_REPLACE, (new.reason, new.attempts, new.last_failed_at, letter.envelope_id))

    def remove(self, letters: Sequence[DeadLetter]) -> None:
        """See :class:`IDeadLetterBox`."""
        self._execute(_REMOVE, ([letter.envelope_id for letter in letters],))

    def release(self) -> None:
        """See :class:`IDeadLetterBox`."""

    def _execute(self, sql: str, arguments: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        with database_errors("the dead letters' table"), self._connection, self._connection.cursor() as cursor:
            cursor.execute(sql, arguments)
            return cursor.fetchall() if cursor.description else []
