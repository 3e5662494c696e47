"""Reads of a room's messages by seq that touch only the days which hold them, however many days there are.

``messages`` is partitioned by time, and a room's order is that of seq: so PostgreSQL cannot tell which partitions hold
a range of seqs. It plans, and locks, every partition with all its indexes, and at some 1,300 days its table of locks is
full. While there are few days that costs little. Beyond, the days are searched for: seq and time nearly agree, and a
room's first message of a day is one look into an index. What that misses, as a message that waited for days before it
was stored, is missed visibly, since a room has no hole between ``first_seq`` and ``last_seq``; then all days are read,
a few at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date, datetime, timedelta
from typing import Any

from chatflow.persistence.driver import Cursor
from chatflow.persistence.partitions import bounds, partition_day

Row = tuple[Any, ...]

#: So many at a time are planned and locked: each is a table with five indexes, and a server has room for 6,400 locks.
MOST_DAYS = 64

_DAYS = "SELECT relname FROM pg_inherits JOIN pg_class ON oid = inhrelid WHERE inhparent = 'messages'::regclass"

_COUNT = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'messages'::regclass"

_NEXT_MINUTE = "SELECT min(minute) FROM message_stats_minute WHERE room_id = %s AND minute >= %s"

_FIRST_OF_DAY = "SELECT min(seq) FROM messages WHERE room_id = %s AND created_at >= %s AND created_at < %s"

Slice = tuple[datetime | None, datetime | None]


def room_rows_in_thread(
    cursor: Cursor,
    columns: str,
    room: int,
    first: int | None = None,
    last: int | None = None,
    limit: int | None = None,
    *,
    newest: bool = False,
) -> list[Row]:
    """Columns of the room's messages from ``first`` to ``last``, both included, ascending by seq.

    :param limit: only so many of them, the lowest, or with ``newest`` the highest.
    """
    if not are_many_in_thread(cursor):
        return _read(cursor, columns, room, first, last, limit, newest, (None, None))
    cursor.execute("SELECT first_seq, last_seq FROM rooms WHERE room_id = %s", (room,))
    for held_first, held_last in cursor.fetchall():
        first = max(held_first, first or 0)
        last = held_last if last is None else min(last, held_last)
        if limit is not None:
            first, last = (max(first, last - limit + 1), last) if newest else (first, min(last, first + limit - 1))
        return _search(cursor, columns, room, first, last) if first <= last else []
    return []


def are_many_in_thread(cursor: Cursor) -> bool:
    """Whether there are more days than one statement should touch."""
    cursor.execute(_COUNT)
    ((count,),) = cursor.fetchall()
    return bool(count > MOST_DAYS)


def days_in_thread(cursor: Cursor) -> list[date]:
    """Those that have a partition, ascending."""
    cursor.execute(_DAYS)
    return sorted(day for (name,) in cursor.fetchall() if (day := partition_day(name)) is not None)


def slices(days: Sequence[date], start: datetime | None = None, end: datetime | None = None) -> list[Slice]:
    """Ranges of time, of at most ``MOST_DAYS`` days each, from start (None: the beginning) to end."""
    cuts = [bounds(day)[0] for day in days[::MOST_DAYS]] + [bounds(days[-1])[1]] if days else []
    inner = [cut for cut in cuts if (start is None or cut > start) and (end is None or cut < end)]
    return list(zip([start, *inner], [*inner, end], strict=True))


def one_slice_in_thread(cursor: Cursor, sql: str, values: Sequence[Any]) -> list[Row]:
    """The rows of a statement, whose locks are given back at once instead of at the end of the transaction."""
    cursor.execute("SAVEPOINT slice")
    cursor.execute(sql, values)
    rows: list[Row] = cursor.fetchall()
    cursor.execute("ROLLBACK TO slice")
    return rows


def _search(cursor: Cursor, columns: str, room: int, first: int, last: int) -> list[Row]:
    days = days_in_thread(cursor)
    likely = (
        bounds(_day_of(cursor, room, first, days) - timedelta(days=1))[0],
        bounds(_day_of(cursor, room, last, days) + timedelta(days=1))[1],
    )
    rows = list(_rows(cursor, columns, room, first, last, slices(days, *likely)))
    if len(rows) < last - first + 1:
        elsewhere = [*slices(days, None, likely[0]), *slices(days, likely[1], None)]
        rows += _rows(cursor, columns, room, first, last, elsewhere)
    return [row[1:] for row in sorted(rows, key=lambda row: row[0])]


def _day_of(cursor: Cursor, room: int, seq: int, days: Sequence[date]) -> date:
    """The last day whose first message is not behind ``seq``, which so is of that day, or nearly."""
    low, high = 0, len(days)
    while low < high:
        middle = (low + high) // 2
        found = _first_from(cursor, room, days[middle])
        if found is None or found > seq:
            high = middle
        else:
            low = middle + 1
    return days[max(0, low - 1)]


def _first_from(cursor: Cursor, room: int, day: date) -> int | None:
    """The lowest seq of the first day from ``day`` on that has any of the room."""
    cursor.execute(_NEXT_MINUTE, (room, bounds(day)[0]))
    ((minute,),) = cursor.fetchall()
    if minute is None:
        return None
    cursor.execute(_FIRST_OF_DAY, (room, *bounds(minute.date())))
    ((seq,),) = cursor.fetchall()
    found: int | None = seq
    return found


def _rows(cursor: Cursor, columns: str, room: int, first: int, last: int, where: Sequence[Slice]) -> Iterator[Row]:
    for one in where:
        sql, values = _statement(f"seq, {columns}", room, first, last, None, False, one)
        yield from one_slice_in_thread(cursor, sql, values)


def _read(
    cursor: Cursor,
    columns: str,
    room: int,
    first: int | None,
    last: int | None,
    limit: int | None,
    newest: bool,
    within: Slice,
) -> list[Row]:
    cursor.execute(*_statement(columns, room, first, last, limit, newest, within))
    rows: list[Row] = cursor.fetchall()
    return rows[::-1] if newest else rows


def _statement(
    columns: str, room: int, first: int | None, last: int | None, limit: int | None, newest: bool, within: Slice
) -> tuple[str, list[Any]]:
    where, values = ["room_id = %s"], [room]
    for condition, value in (
        ("seq >= %s", first),
        ("seq <= %s", last),
        ("created_at >= %s", within[0]),
        ("created_at < %s", within[1]),
    ):
        if value is not None:
            where.append(condition)
            values.append(value)  # type: ignore[arg-type]
    order = "DESC" if newest else "ASC"
    sql = f"SELECT {columns} FROM messages WHERE {' AND '.join(where)} ORDER BY seq {order}"
    return (f"{sql} LIMIT %s", [*values, limit]) if limit is not None else (sql, values)
