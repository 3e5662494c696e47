"""Heads of rooms that have none yet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from chatflow.persistence.days import days_in_thread, one_slice_in_thread, slices
from chatflow.persistence.driver import Cursor

#: Whoever is going to write says so before it reads any partition: who makes or drops partitions takes the whole before
#: its parts, too, and so they never wait for each other in a circle.
LOCK_MESSAGES = "LOCK TABLE ONLY messages IN ROW EXCLUSIVE MODE"

_WITHOUT_HEAD = "SELECT unnest(%s::int[]) EXCEPT SELECT room_id FROM rooms"

# Each is a look at the ends of an index.
_FOUND = """
SELECT room.id, found.* FROM unnest(%s::int[]) AS room (id) CROSS JOIN LATERAL (
    SELECT min(seq) AS first, max(seq) AS last, max(created_at) FROM messages
    WHERE room_id = room.id AND created_at >= coalesce(%s, '-infinity'::timestamptz)
      AND created_at < coalesce(%s, 'infinity'::timestamptz)
) AS found WHERE found.last IS NOT NULL
"""

_CREATE = "INSERT INTO rooms (room_id) SELECT unnest(%s::int[]) ON CONFLICT DO NOTHING"

_CREATE_BEHIND = """
INSERT INTO rooms (room_id, first_seq, last_seq, last_activity) VALUES (%s, %s, %s, %s) ON CONFLICT DO NOTHING
"""


def create_rooms_in_thread(cursor: Cursor, rooms: Sequence[int]) -> None:
    """Make the heads that are missing.

    A head may have been lost while its room's messages were not, as after a restore of some tables: it is made anew
    behind them, so that no seq is given twice.
    """
    cursor.execute(_WITHOUT_HEAD, (list(rooms),))
    missing = sorted(room for (room,) in cursor.fetchall())
    if not missing:
        return
    cursor.execute(LOCK_MESSAGES)
    held: dict[int, list[Any]] = {}
    for start, end in slices(days_in_thread(cursor)):
        for room, first, last, latest in one_slice_in_thread(cursor, _FOUND, (missing, start, end)):
            known = held.setdefault(room, [first, last, latest])
            known[:] = min(known[0], first), max(known[1], last), max(known[2], latest)
    for room in sorted(held):
        cursor.execute(_CREATE_BEHIND, (room, *held[room]))
    cursor.execute(_CREATE, (missing,))
