"""What the analytics endpoints ask. Functions of a cursor: they block, each is a few statements of one transaction.

A range of time is in every query over messages, so that only the partitions of that range are read; and a limit.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from attrs import frozen

from chatflow.contracts.analytics import (
    Analytics,
    CoreQueries,
    MinuteCount,
    Participation,
    Rate,
    RoomActivity,
    StoredText,
    Throughput,
    Timed,
    TopRoom,
    TopUser,
    Totals,
    ViewAge,
)
from chatflow.errors import Refused
from chatflow.persistence.days import are_many_in_thread, days_in_thread
from chatflow.persistence.driver import Cursor
from chatflow.persistence.refresh import VIEWS

#: What a query counts to and reads at most.
MAX_ROWS = 1000
_MAX_COUNTED = 10_000
_SAMPLE_ROWS = 5
_TOP = 10
_MAX_TOP_ROOMS = 20
_MAX_MINUTES = 1440
# Each day is a table with its indexes, all of which a query locks; a server has room for some 1,000 days.
_MAX_DAYS = 366

Row = tuple[Any, ...]
T = TypeVar("T")


@frozen
class Window:
    """From and to as PostgreSQL reads them, both included."""

    start: str
    end: str


# As StoredText has them.
_MESSAGE = "message_id::text, room_id, user_id, username, message_text, message_type, created_at"

# By seq, which is the room's order: the key's index is read backwards and ends with the last row asked for. What came
# later on the last day is passed over in the index, whose last column is the time: 25,000 entries in 4 ms.
_ROOM_MESSAGES = f"""
SELECT {_MESSAGE}
FROM messages WHERE room_id = %s AND created_at BETWEEN %s::timestamptz AND %s::timestamptz
ORDER BY seq DESC LIMIT %s
"""

_USER_HISTORY = f"""
SELECT {_MESSAGE}
FROM messages WHERE user_id = %s AND created_at BETWEEN %s::timestamptz AND %s::timestamptz
ORDER BY created_at DESC LIMIT %s
"""

# It needs every message of the window, as the rate does: a million in a second, one minute of a day in 1 ms.
# Said so, PostgreSQL reads users in the order of messages_user, and needs no hash of them: that takes half the time.
_ACTIVE_USERS = """
SELECT count(DISTINCT user_id) FROM messages WHERE created_at BETWEEN %s::timestamptz AND %s::timestamptz
"""

# Of equals, here and below, the first one by its id as a text: clients have always been given them so.
_USER_ROOMS = """
SELECT room_id, last_activity, message_count
FROM user_activity WHERE user_id = %s ORDER BY last_activity DESC, room_id::text LIMIT %s
"""

_RATE = """
SELECT coalesce(sum(messages), 0)::bigint, extract(epoch FROM max(latest) - min(earliest))::float, max(messages)
FROM (SELECT count(*) AS messages, min(created_at) AS earliest, max(created_at) AS latest
      FROM messages WHERE created_at BETWEEN %s::timestamptz AND %s::timestamptz
      GROUP BY date_trunc('second', created_at)) AS second
"""

# Exact to the last commit, so the users are counted, in one pass over user_activity: 0.7 s for a million pairs.
_STATS = """
SELECT head.messages, known.users, head.rooms, known.pairs
FROM (SELECT coalesce(sum(last_seq), 0)::bigint AS messages, count(*) FILTER (WHERE last_seq > 0) AS rooms
      FROM rooms) AS head,
     (SELECT count(*) AS users, coalesce(sum(rooms), 0)::bigint AS pairs
      FROM (SELECT count(*) AS rooms FROM user_activity GROUP BY user_id) AS one) AS known
"""

_MINUTES = """
SELECT minute, sum(message_count)::bigint, sum(text_count)::bigint,
       sum(join_count)::bigint, sum(leave_count)::bigint
FROM message_stats_minute
WHERE minute BETWEEN date_trunc('minute', %s::timestamptz) AND %s::timestamptz AND (%s::int IS NULL OR room_id = %s)
GROUP BY minute ORDER BY minute LIMIT %s
"""

_TOP_USERS = """
SELECT user_id, username, total_messages, rooms_participated FROM mv_top_users
ORDER BY total_messages DESC, user_id::text LIMIT %s
"""

_TOP_ROOMS = """
SELECT room_id, total_messages, unique_users FROM mv_top_rooms ORDER BY total_messages DESC, room_id::text LIMIT %s
"""

# There is a row for every user. The busiest are among the hundred of the other view.
_PARTICIPATION = """
SELECT user_id, username, text_messages, join_events, leave_events, rooms FROM mv_user_participation
WHERE user_id = ANY(ARRAY(SELECT user_id FROM mv_top_users)) ORDER BY total_messages DESC, user_id::text LIMIT %s
"""

_AGES = """
SELECT view_name, refreshed_at, extract(epoch FROM now() - refreshed_at)::float
FROM view_refreshes
"""


def refuse_too_many_days(cursor: Cursor, window: Window) -> None:
    """See that a window holds no more days than one statement can lock.

    :raises Refused: it does.
    """
    if not are_many_in_thread(cursor):
        return
    ((start, end),) = _rows(cursor, "SELECT %s::timestamptz::date, %s::timestamptz::date", (window.start, window.end))
    held = sum(start <= day <= end for day in days_in_thread(cursor))
    if held > _MAX_DAYS:
        raise Refused(
            "invalid_parameter", f"from testStartTime to testEndTime there may be {_MAX_DAYS} days of messages"
        )


def core_queries_in_thread(cursor: Cursor, window: Window, user_id: int, room: int) -> CoreQueries:
    """Run the four core queries of the reference, each timed. Runs in a thread."""
    refuse_too_many_days(cursor, window)
    times = window.start, window.end
    return CoreQueries(
        _timed(cursor, _ROOM_MESSAGES, (room, *times, MAX_ROWS), lambda rows: _texts(rows[:_SAMPLE_ROWS])),
        _timed(cursor, _USER_HISTORY, (user_id, *times, _MAX_COUNTED), lambda rows: _texts(rows[:_SAMPLE_ROWS])),
        _timed(cursor, _ACTIVE_USERS, times, lambda rows: int(rows[0][0])),
        _timed(cursor, _USER_ROOMS, (user_id, MAX_ROWS), lambda rows: [RoomActivity(*row) for row in rows]),
    )


def _texts(rows: Sequence[Row]) -> list[StoredText]:
    return [StoredText(*row) for row in rows]


def _timed(cursor: Cursor, sql: str, arguments: Sequence[Any], answer: Callable[[Sequence[Row]], T]) -> Timed[T]:
    began = time.perf_counter()
    cursor.execute(sql, arguments)
    rows = cursor.fetchall()
    return Timed(round((time.perf_counter() - began) * 1000), len(rows), answer(rows))


def analytics_in_thread(cursor: Cursor, window: Window) -> Analytics:
    """All but the first part is of the views, which do not know the window."""
    refuse_too_many_days(cursor, window)
    (rate,) = _rows(cursor, _RATE, (window.start, window.end))
    return Analytics(
        Rate(*rate),
        [TopUser(*row) for row in _rows(cursor, _TOP_USERS, (_TOP,))],
        [TopRoom(*row) for row in _rows(cursor, _TOP_ROOMS, (_MAX_TOP_ROOMS,))],
        [Participation(*row) for row in _rows(cursor, _PARTICIPATION, (_TOP,))],
        ages_in_thread(cursor),
    )


def stats_in_thread(cursor: Cursor) -> Totals:
    """Totals from the rollups. Runs in a thread."""
    (row,) = _rows(cursor, _STATS, ())
    return Totals(*row)


def throughput_in_thread(cursor: Cursor, window: Window, room: int | None) -> Throughput:
    """Minutes with messages, at most a day of them."""
    rows = _rows(cursor, _MINUTES, (window.start, window.end, room, room, _MAX_MINUTES + 1))
    return Throughput([MinuteCount(*row) for row in rows[:_MAX_MINUTES]], len(rows) > _MAX_MINUTES)


def ages_in_thread(cursor: Cursor) -> dict[str, ViewAge]:
    """How old each materialized view is, in seconds, by name. Runs in a thread."""
    known = {name: ViewAge(moment, seconds) for name, moment, seconds in _rows(cursor, _AGES, ())}
    return {name: known.get(name, ViewAge()) for name in VIEWS}


def _rows(cursor: Cursor, sql: str, arguments: Sequence[Any]) -> list[Row]:
    cursor.execute(sql, arguments)
    rows: list[Row] = cursor.fetchall()
    return rows
