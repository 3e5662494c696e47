"""What the analytics endpoints ask. Functions of a cursor: they block, each is a few statements of one transaction.

A range of time is in every query over messages, so that only the partitions of that range are read; and a limit.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from attrs import frozen

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


@frozen
class Window:
    """From and to as PostgreSQL reads them, both included."""

    start: str
    end: str


@frozen
class CoreQuery:
    """:ivar milliseconds: that it took. :ivar count: of its rows. :ivar sample: some of them."""

    milliseconds: int
    count: int
    sample: Sequence[Row]


_MESSAGE = "to_char(created_at, 'YYYY-MM-DD\"T\"HH24:MI:SS.MS+00:00')"

# By seq, which is the room's order: the key's index is read backwards and ends with the last row asked for. What came
# later on the last day is passed over in the index, whose last column is the time: 25,000 entries in 4 ms.
_ROOM_MESSAGES = f"""
SELECT message_id::text, user_id::text, username, message_text, message_type, {_MESSAGE}
FROM messages WHERE room_id = %s AND created_at BETWEEN %s::timestamptz AND %s::timestamptz
ORDER BY seq DESC LIMIT %s
"""

_USER_HISTORY = f"""
SELECT message_id::text, room_id::text, message_text, message_type, {_MESSAGE}
FROM messages WHERE user_id = %s AND created_at BETWEEN %s::timestamptz AND %s::timestamptz
ORDER BY created_at DESC LIMIT %s
"""

# It needs every message of the window, as the rate does: a million in a second, one minute of a day in 1 ms.
# Said so, PostgreSQL reads users in the order of messages_user, and needs no hash of them: that takes half the time.
_ACTIVE_USERS = """
SELECT count(DISTINCT user_id) FROM messages WHERE created_at BETWEEN %s::timestamptz AND %s::timestamptz
"""

_USER_ROOMS = """
SELECT room_id::text, to_char(last_activity, 'YYYY-MM-DD"T"HH24:MI:SS.MS+00:00'), message_count
FROM user_activity WHERE user_id = %s ORDER BY last_activity DESC, room_id LIMIT %s
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
SELECT to_char(minute, 'YYYY-MM-DD"T"HH24:MI:SS"Z"'), sum(message_count)::bigint, sum(text_count)::bigint,
       sum(join_count)::bigint, sum(leave_count)::bigint
FROM message_stats_minute
WHERE minute BETWEEN date_trunc('minute', %s::timestamptz) AND %s::timestamptz AND (%s::int IS NULL OR room_id = %s)
GROUP BY minute ORDER BY minute LIMIT %s
"""

_TOP_USERS = """
SELECT user_id::text, username, total_messages, rooms_participated FROM mv_top_users
ORDER BY total_messages DESC, user_id LIMIT %s
"""

_TOP_ROOMS = """
SELECT room_id::text, total_messages, unique_users FROM mv_top_rooms ORDER BY total_messages DESC, room_id LIMIT %s
"""

# There is a row for every user. The busiest are among the hundred of the other view.
_PARTICIPATION = """
SELECT user_id::text, username, text_messages, join_events, leave_events, rooms::text[] FROM mv_user_participation
WHERE user_id = ANY(ARRAY(SELECT user_id FROM mv_top_users)) ORDER BY total_messages DESC, user_id LIMIT %s
"""

_AGES = """
SELECT view_name, to_char(refreshed_at, 'YYYY-MM-DD"T"HH24:MI:SS.MS+00:00'),
       extract(epoch FROM now() - refreshed_at)::float
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


def core_queries_in_thread(cursor: Cursor, window: Window, user_id: int, room: int) -> dict[str, CoreQuery]:
    """The reference's four, timed here: a room's messages, a user's history, active users, a user's rooms."""
    refuse_too_many_days(cursor, window)
    times = window.start, window.end
    return {
        "query1_room_messages": _timed(cursor, _ROOM_MESSAGES, (room, *times, MAX_ROWS), _SAMPLE_ROWS),
        "query2_user_history": _timed(cursor, _USER_HISTORY, (user_id, *times, _MAX_COUNTED), _SAMPLE_ROWS),
        "query3_active_users": _timed(cursor, _ACTIVE_USERS, times, 1),
        "query4_user_rooms": _timed(cursor, _USER_ROOMS, (user_id, MAX_ROWS), MAX_ROWS),
    }


def _timed(cursor: Cursor, sql: str, arguments: Sequence[Any], sample_rows: int) -> CoreQuery:
    began = time.perf_counter()
    cursor.execute(sql, arguments)
    rows = cursor.fetchall()
    return CoreQuery(round((time.perf_counter() - began) * 1000), len(rows), rows[:sample_rows])


@frozen
class Analytics:
    """:ivar rate: messages in the window, seconds from its first to its last message, most within one second.
    :ivar views: for each view, when it was refreshed and how many seconds ago; None for both if it never was.
    """

    rate: Row
    top_users: Sequence[Row]
    top_rooms: Sequence[Row]
    participation: Sequence[Row]
    views: Mapping[str, tuple[str | None, float | None]]


def analytics_in_thread(cursor: Cursor, window: Window) -> Analytics:
    """All but the first part is of the views, which do not know the window."""
    refuse_too_many_days(cursor, window)
    (rate,) = _rows(cursor, _RATE, (window.start, window.end))
    top_users = _rows(cursor, _TOP_USERS, (_TOP,))
    top_rooms = _rows(cursor, _TOP_ROOMS, (_MAX_TOP_ROOMS,))
    participation = _rows(cursor, _PARTICIPATION, (_TOP,))
    return Analytics(rate, top_users, top_rooms, participation, ages_in_thread(cursor))


def stats_in_thread(cursor: Cursor) -> Row:
    """Messages stored so far, users, rooms with messages, and pairs of user and room."""
    (row,) = _rows(cursor, _STATS, ())
    return row


def throughput_in_thread(cursor: Cursor, window: Window, room: int | None) -> tuple[list[Row], bool]:
    """Minutes with messages (when, all of them, texts, joins, leaves), and whether there are more than these."""
    rows = _rows(cursor, _MINUTES, (window.start, window.end, room, room, _MAX_MINUTES + 1))
    return rows[:_MAX_MINUTES], len(rows) > _MAX_MINUTES


def ages_in_thread(cursor: Cursor) -> dict[str, tuple[str | None, float | None]]:
    """When each view was refreshed, and how many seconds ago; None for both if it never was."""
    known = {name: (moment, seconds) for name, moment, seconds in _rows(cursor, _AGES, ())}
    return {name: known.get(name, (None, None)) for name in VIEWS}


def _rows(cursor: Cursor, sql: str, arguments: Sequence[Any]) -> list[Row]:
    cursor.execute(sql, arguments)
    rows: list[Row] = cursor.fetchall()
    return rows
