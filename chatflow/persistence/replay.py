"""A dead letter's envelope → numbered rows, once. Blocking, for commands."""

from __future__ import annotations

from typing import Any

import psycopg2

from chatflow.errors import NotStored, Unavailable
from chatflow.persistence.commit import commit_in_thread
from chatflow.persistence.database import is_refusal
from chatflow.rooms.envelope import Envelope
from chatflow.rooms.messages import iso_timestamp

_CREATE_ROOM = "INSERT INTO rooms (room_id) VALUES (%s) ON CONFLICT DO NOTHING"

_LOCK_HEAD = "SELECT FROM rooms WHERE room_id = %s FOR UPDATE"

# The time of creation tells PostgreSQL which partitions the messages can be in.
_STORED = """
SELECT message_id::text FROM messages
WHERE room_id = %s AND created_at BETWEEN %s::timestamptz AND %s::timestamptz AND message_id = ANY(%s::uuid[])
"""


def replay(connection: Any, envelope: Envelope) -> tuple[int, int] | None:
    """Store the envelope's messages with new seqs, in one transaction, unless they are stored already.

    The running instances learn of the room's new head when they next compare theirs with the database.

    :param connection: of psycopg2, not in a transaction.
    :returns: the first and the last seq, or None if everything was stored before.
    :raises NotStored: PostgreSQL refuses it again.
    :raises Unavailable: the database does not answer; whether it stored the messages is then not known.
    """
    try:
        with connection, connection.cursor() as cursor:
            return replay_in_thread(cursor, envelope)
    except psycopg2.Error as error:
        reason = " ".join(str(error).split())
        if is_refusal(error):
            raise NotStored(reason) from error
        raise Unavailable(f"the database: {reason}") from error


def replay_in_thread(cursor: Any, envelope: Envelope) -> tuple[int, int] | None:
    """The same within a transaction.

    A head remembers its last 64 envelopes only, and a dead letter may be older: so the messages' own ids are looked
    up, while the room's head is locked and nobody else can store them.
    """
    cursor.execute(_CREATE_ROOM, (envelope.room,))
    cursor.execute(_LOCK_HEAD, (envelope.room,))
    times = [message.created_at_us for message in envelope.messages]
    cursor.execute(
        _STORED,
        (
            envelope.room,
            iso_timestamp(min(times)),
            iso_timestamp(max(times)),
            [message.message_id for message in envelope.messages],
        ),
    )
    stored = {message_id for (message_id,) in cursor.fetchall()}
    missing = tuple(message for message in envelope.messages if message.message_id not in stored)
    if not missing:
        return None
    rest = Envelope(envelope.envelope_id, envelope.room, envelope.server_id, missing)
    (place,) = commit_in_thread(cursor, [rest])
    return None if place.first_seq is None else (place.first_seq, place.head)
