"""A dead letter's envelope → numbered rows, once. Blocking, for commands."""

from __future__ import annotations

import msgspec

from chatflow.contracts.envelopes import Envelope
from chatflow.errors import NotStored
from chatflow.persistence.commit import REPEAT_HOURS, commit_in_thread
from chatflow.persistence.driver import Connection, Cursor
from chatflow.persistence.failures import database_errors, is_refusal, one_line
from chatflow.persistence.heads import LOCK_MESSAGES, create_rooms_in_thread
from chatflow.persistence.sessions import set_up_in_thread
from chatflow.rooms.messages import iso_timestamp

_HEAD = "SELECT last_seq FROM rooms WHERE room_id = %s"

# The time of creation tells PostgreSQL which partitions the messages can be in.
_STORED = """
SELECT message_id::text FROM messages
WHERE room_id = %s AND seq > %s AND seq <= %s AND created_at >= %s::timestamptz AND message_id = ANY(%s::uuid[])
"""


def replay(connection: Connection, envelope: Envelope) -> tuple[int, int] | None:
    """Store the envelope's messages with new seqs, in one transaction, unless they are stored already.

    They are of now, as the room's order has it, and live as long as any other message: with their old time retention
    would soon drop them, and all that was stored before them. The client's own time stays.

    The running instances learn of the room's new head when they next compare theirs with the database.

    :param connection: of psycopg2, not in a transaction.
    :returns: the first and the last seq, or None if everything was stored before.
    :raises NotStored: PostgreSQL refuses it again.
    :raises Unavailable: the database does not answer; whether it stored the messages is then not known.
    """
    with database_errors("the database"):
        try:
            with connection, connection.cursor() as cursor:
                set_up_in_thread(cursor)
                return replay_in_thread(cursor, envelope)
        except Exception as error:
            if is_refusal(error):
                raise NotStored(one_line(error)) from error
            raise


def replay_in_thread(cursor: Cursor, envelope: Envelope) -> tuple[int, int] | None:
    """The same within a transaction.

    A head remembers its last 64 envelopes only, and a dead letter may be older: so the messages' own ids are looked
    up. Nearly all of it before the room's head is locked, since it may take seconds; the rest while it is locked, and
    nobody else can store them.
    """
    create_rooms_in_thread(cursor, [envelope.room])
    cursor.execute(_HEAD, (envelope.room,))
    ((before,),) = cursor.fetchall()
    stored = _stored(cursor, envelope, 0, before)
    cursor.execute(f"{_HEAD} FOR UPDATE", (envelope.room,))
    ((head,),) = cursor.fetchall()
    cursor.execute(LOCK_MESSAGES)
    stored |= _stored(cursor, envelope, before, head)
    cursor.execute("SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint")
    ((now_us,),) = cursor.fetchall()
    missing = tuple(
        msgspec.structs.replace(message, created_at_us=now_us)
        for message in envelope.messages
        if message.message_id not in stored
    )
    if not missing:
        return None
    rest = Envelope(envelope.envelope_id, envelope.room, envelope.server_id, missing)
    (place,) = commit_in_thread(cursor, [rest])
    return None if place.first_seq is None else (place.first_seq, place.head)


def _stored(cursor: Cursor, envelope: Envelope, after: int, last: int) -> set[str]:
    """Which of its messages are stored between two seqs: by a first try, a replay, or a client that sent them again."""
    since_us = max(0, min(message.created_at_us for message in envelope.messages) - REPEAT_HOURS * 3_600_000_000)
    ids = [message.message_id for message in envelope.messages]
    cursor.execute(_STORED, (envelope.room, after, last, iso_timestamp(since_us), ids))
    return {message_id for (message_id,) in cursor.fetchall()}
