"""Every count that is kept beside the messages, made anew from the messages themselves. Blocking, reads only.

Where retention has dropped messages a recount cannot reach everything: a room is counted from its ``first_seq`` on, and
what users did in such a room must be at least what is still there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from attrs import frozen

from chatflow.persistence.commit import REPEAT_HOURS
from chatflow.persistence.driver import Connection, Cursor
from chatflow.persistence.failures import database_errors
from chatflow.persistence.refresh import VIEWS, WHAT_IS_HELD
from chatflow.persistence.rollups import COUNTS_BY_TYPE
from chatflow.persistence.sessions import set_up_in_thread

_MAX_DIFFERENCES = 20

# Of each room: what is held, and whether retention has dropped anything.
_HELD = """
CREATE TEMPORARY TABLE held ON COMMIT DROP AS
SELECT room_id, count(*) AS messages, min(seq) AS first_seq, max(seq) AS last_seq, count(DISTINCT seq) AS seqs,
       max(created_at) AS latest
FROM messages GROUP BY room_id
"""

# Each gives the rows that differ; none is the only good answer. Keys first, then what is stored, then what is counted.
_CHECKS = {
    "rooms: first_seq to last_seq is what is held, without a hole, last_activity is the newest time": """
        SELECT room_id, rooms.first_seq, rooms.last_seq, rooms.last_activity, held.first_seq, held.last_seq, messages,
               latest
        FROM rooms FULL JOIN held USING (room_id)
        WHERE rooms.room_id IS NULL
           OR rooms.last_seq - rooms.first_seq + 1 <> coalesce(messages, 0) OR seqs <> messages
           OR (held.first_seq, held.last_seq) <> (rooms.first_seq, rooms.last_seq)
           -- what was the newest time may be dropped before what came after it
           OR (latest IS NOT NULL AND (rooms.last_activity < latest OR rooms.last_activity IS NULL))
           OR (rooms.first_seq = 1 AND rooms.last_activity IS DISTINCT FROM latest)
    """,
    "messages: no message is stored twice": f"""
        SELECT message_id, count(*), array_agg(room_id), array_agg(seq)
        FROM messages GROUP BY message_id
        HAVING count(*) > 1 AND (bool_or(client_message_id IS NULL)
                                 OR max(created_at) - min(created_at) <= interval '{REPEAT_HOURS} hours')
    """,
    "user_activity": f"""
        SELECT kept.*, counted.* FROM (
            SELECT user_id, room_id, username, message_count, text_count, join_count, leave_count,
                   first_activity, last_activity
            FROM user_activity) AS kept
        FULL JOIN (
            SELECT user_id, room_id, (array_agg(username ORDER BY seq DESC))[1] AS username, count(*) AS message_count,
                   {COUNTS_BY_TYPE},
                   min(created_at) AS first_activity, max(created_at) AS last_activity
            FROM messages GROUP BY user_id, room_id) AS counted USING (user_id, room_id)
        LEFT JOIN rooms USING (room_id)
        WHERE CASE
            WHEN rooms.first_seq > 1 AND counted.message_count IS NULL THEN FALSE
            WHEN rooms.first_seq > 1 THEN
                 kept.message_count IS NULL OR kept.message_count < counted.message_count
                 OR kept.text_count < counted.text_count OR kept.join_count < counted.join_count
                 OR kept.leave_count < counted.leave_count OR kept.first_activity > counted.first_activity
                 OR kept.username IS DISTINCT FROM counted.username OR kept.last_activity < counted.last_activity
            ELSE (kept.username, kept.message_count, kept.text_count, kept.join_count, kept.leave_count,
                  kept.first_activity, kept.last_activity)
                 IS DISTINCT FROM
                 (counted.username, counted.message_count, counted.text_count, counted.join_count,
                  counted.leave_count, counted.first_activity, counted.last_activity)
        END
    """,
    "message_stats_minute": f"""
        SELECT kept.*, counted.* FROM (
            SELECT room_id, minute, message_count, text_count, join_count, leave_count
            FROM message_stats_minute) AS kept
        FULL JOIN (
            SELECT room_id, date_trunc('minute', created_at) AS minute, count(*) AS message_count,
                   {COUNTS_BY_TYPE}
            FROM messages GROUP BY 1, 2) AS counted
          ON ROW(kept.*) = ROW(counted.*)
        WHERE kept.room_id IS NULL OR counted.room_id IS NULL
    """,
}

_VIEW_AGE = f"""
SELECT refreshed_at, coalesce((first_seqs, last_seqs) = ({WHAT_IS_HELD}), FALSE)
FROM view_refreshes WHERE view_name = %s
"""


@frozen
class Check:
    """:ivar differences: as text, at most 20; none if every count is right.
    :ivar note: why it was not made, or empty.
    """

    name: str
    differences: Sequence[str] = ()
    note: str = ""


def recount_in_thread(connection: Connection) -> Iterator[Check]:
    """Each check as it is done, all in one snapshot of the database.

    :param connection: of psycopg2, not in a transaction.
    :raises Unavailable: the database does not answer.
    """
    with database_errors("recount"):
        # Not read only: it makes a temporary table.
        connection.set_session(isolation_level="REPEATABLE READ")
        with connection, connection.cursor() as cursor:
            set_up_in_thread(cursor)
            cursor.execute(_HELD)
            for name, sql in _CHECKS.items():
                yield Check(name, _differences(cursor, sql))
            for view in VIEWS:
                yield _check_view(cursor, view)


def _check_view(cursor: Cursor, view: str) -> Check:
    cursor.execute(_VIEW_AGE, (view,))
    row = cursor.fetchone()
    if row is None:
        return Check(view, note="was never refreshed")
    refreshed_at, is_newest = row
    if not is_newest:
        return Check(view, note=f"is of {refreshed_at:%Y-%m-%d %H:%M:%S} UTC, before the newest messages or retention")
    cursor.execute("SELECT rtrim(pg_get_viewdef(%s::regclass), ';')", (view,))
    ((definition,),) = cursor.fetchall()
    made_anew = f"({definition})"
    sql = f"""
        (SELECT 'stored' AS which, * FROM (TABLE {view} EXCEPT ALL {made_anew}) AS stored)
        UNION ALL (SELECT 'counted', * FROM ({made_anew} EXCEPT ALL TABLE {view}) AS counted)
    """
    return Check(view, _differences(cursor, sql))


def _differences(cursor: Cursor, sql: str) -> list[str]:
    cursor.execute(f"{sql} LIMIT {_MAX_DIFFERENCES}")
    names = [column.name for column in cursor.description or ()]
    return [", ".join(f"{name}={value}" for name, value in zip(names, row, strict=True)) for row in cursor.fetchall()]
