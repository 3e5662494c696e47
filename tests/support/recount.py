"""A recount: every count that the daemons keep beside the messages, made anew from the messages themselves."""

from __future__ import annotations

from typing import Any

from tests.support.postgres import execute

# Each gives the rows that differ; nothing is the only good answer.
_DIFFERENCES = {
    "a room's head is not its number of messages, or its seqs have a hole": """
        SELECT room_id, last_seq, count(seq), min(seq), max(seq), count(DISTINCT seq), count(DISTINCT message_id)
        FROM rooms FULL JOIN messages USING (room_id) GROUP BY room_id, last_seq
        HAVING last_seq IS DISTINCT FROM count(seq) OR last_seq <> count(DISTINCT message_id)
            OR last_seq <> count(DISTINCT seq) OR (last_seq > 0 AND (min(seq) <> 1 OR max(seq) <> last_seq))
    """,
    "a message is stored twice": """
        SELECT message_id, count(*), array_agg(room_id), array_agg(seq) FROM messages GROUP BY 1 HAVING count(*) > 1
    """,
    "user_activity": """
        SELECT kept.*, counted.* FROM (
            SELECT user_id, room_id, username, message_count, text_count, join_count, leave_count,
                   first_activity, last_activity
            FROM user_activity) AS kept
        FULL JOIN (
            SELECT user_id, room_id, (array_agg(username ORDER BY seq DESC))[1], count(*),
                   count(*) FILTER (WHERE message_type = 'TEXT'),
                   count(*) FILTER (WHERE message_type = 'JOIN'), count(*) FILTER (WHERE message_type = 'LEAVE'),
                   min(created_at), max(created_at)
            FROM messages GROUP BY user_id, room_id) AS counted
          ON ROW(kept.*) = ROW(counted.*)
        WHERE kept.user_id IS NULL OR counted.user_id IS NULL
    """,
    "message_stats_minute": """
        SELECT kept.*, counted.* FROM (
            SELECT room_id, minute, message_count, text_count, join_count, leave_count
            FROM message_stats_minute) AS kept
        FULL JOIN (
            SELECT room_id, date_trunc('minute', created_at) AS minute, count(*),
                   count(*) FILTER (WHERE message_type = 'TEXT'), count(*) FILTER (WHERE message_type = 'JOIN'),
                   count(*) FILTER (WHERE message_type = 'LEAVE')
            FROM messages GROUP BY 1, 2) AS counted
          ON ROW(kept.*) = ROW(counted.*)
        WHERE kept.room_id IS NULL OR counted.room_id IS NULL
    """,
}


def recount(url: str) -> dict[str, list[tuple[Any, ...]]]:
    """What differs: some rows for each count that is wrong, so nothing at all if every count is right."""
    found = {name: execute(url, f"{query} LIMIT 5") for name, query in _DIFFERENCES.items()}
    return {name: rows for name, rows in found.items() if rows}
