"""Daily partitions of ``messages``: made ahead, dropped when their days have expired. Days are days of UTC.

Blocking functions of a psycopg2 cursor, to be run in a transaction of their own: they shut writers out of
``messages`` until it ends, for milliseconds. When they would have to wait longer than :data:`LOCK_SECONDS`
for that, they raise
:class:`psycopg2.errors.LockNotAvailable` and leave everything as it was; try again later. Several instances
may call them at once.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from psycopg2.sql import SQL, Identifier, Literal

#: Writers queue up behind one who waits for a table, so a batch may be held up that long. More than PostgreSQL's
#: deadlock_timeout of 1 s, after which it ends an autovacuum that is in the way.
LOCK_SECONDS = 2.0

_NAME = re.compile(r"messages_(\d{8})")
_ADVISORY_LOCK = 0x43465041


def partition_name(day: date) -> str:
    """Such as ``messages_20261123``."""
    return f"messages_{day.isoformat().replace('-', '')}"


def partition_day(name: str) -> date | None:
    """The day of a partition; None for a table that is none, such as ``messages_default``."""
    match = _NAME.fullmatch(name)
    try:
        return datetime.strptime(match[1], "%Y%m%d").date() if match else None
    except ValueError:
        return None


def bounds(day: date) -> tuple[datetime, datetime]:
    """First moment of a day and of the next one."""
    start = datetime.combine(day, time(), UTC)
    return start, start + timedelta(days=1)


def wanted_days(today: date, days_ahead: int) -> list[date]:
    """From yesterday, for instances whose clock is behind, to ``days_ahead`` days after today."""
    return [today + timedelta(days=offset) for offset in range(-1, days_ahead + 1)]


def expired_days(existing: Iterable[date], today: date, retention_days: int) -> list[date]:
    """Those that ended at least ``retention_days`` whole days before today, oldest first."""
    return sorted(day for day in existing if day < first_kept_day(today, retention_days))


def first_kept_day(today: date, retention_days: int) -> date:
    """Today and the ``retention_days`` days before it are kept."""
    return today - timedelta(days=retention_days)


def create_ahead(cursor: Any, today: date, days: int) -> list[str]:
    """Make the partitions that are missing from yesterday to ``days`` days after today; their names.

    Messages of those days that went to the default partition meanwhile are moved.
    """
    missing = _missing(cursor, today, days)
    if not missing:
        return []  # nearly always: no lock at all
    _lock(cursor)
    missing = _missing(cursor, today, days)  # another instance may have been faster
    if missing:
        # Against writers, and before the default partition, as they do: one that had chosen the default
        # partition for its row and waited for it would, once the row's own partition exists, be refused
        # (check_violation).
        cursor.execute("LOCK TABLE ONLY messages IN SHARE ROW EXCLUSIVE MODE")
    for day in missing:
        _create(cursor, day)
    return [partition_name(day) for day in missing]


def drop_expired(cursor: Any, today: date, retention_days: int) -> list[str]:
    """Drop what is older than ``retention_days`` days before today; the names of the partitions dropped.

    Expired messages in the default partition are deleted, and so are the expired days of
    ``message_stats_minute``, which counts what ``messages`` holds. ``user_activity`` counts since the
    beginning, and stays.

    :param retention_days: at least 1, or yesterday would be made and dropped in turn.
    """
    _lock(cursor)
    kept_from, _ = bounds(first_kept_day(today, retention_days))
    cursor.execute("DELETE FROM messages_default WHERE created_at < %s", (kept_from,))
    cursor.execute("DELETE FROM message_stats_minute WHERE minute < %s", (kept_from,))
    names = [partition_name(day) for day in expired_days(_existing(cursor), today, retention_days)]
    if names:
        # What DROP locks, in the order of readers and writers: first the whole, then its parts.
        cursor.execute("LOCK TABLE ONLY messages IN ACCESS EXCLUSIVE MODE")
    for name in names:
        cursor.execute(SQL("DROP TABLE {}").format(Identifier(name)))
    return names


def _existing(cursor: Any) -> list[date]:
    cursor.execute(
        "SELECT relname FROM pg_inherits JOIN pg_class ON oid = inhrelid WHERE inhparent = 'messages'::regclass"
    )
    return [day for (name,) in cursor.fetchall() if (day := partition_day(name)) is not None]


def _missing(cursor: Any, today: date, days: int) -> list[date]:
    existing = set(_existing(cursor))
    return [day for day in wanted_days(today, days) if day not in existing]


def _lock(cursor: Any) -> None:
    """One instance at a time, and no long wait for any lock from here to the end of the transaction."""
    cursor.execute("SELECT set_config('lock_timeout', %s, true)", (f"{LOCK_SECONDS * 1000:.0f}ms",))
    cursor.execute("SELECT pg_advisory_xact_lock(%s)", (_ADVISORY_LOCK,))


def _create(cursor: Any, day: date) -> None:
    table = Identifier(partition_name(day))
    start, end = map(Literal, bounds(day))
    # Made apart and attached: CREATE TABLE ... PARTITION OF would shut out readers too, and would refuse when
    # the default partition holds messages of that day.
    cursor.execute(SQL("CREATE TABLE {} (LIKE messages INCLUDING ALL)").format(table))
    cursor.execute("LOCK TABLE messages_default IN ACCESS EXCLUSIVE MODE")
    cursor.execute(
        SQL(
            "WITH moved AS (DELETE FROM messages_default WHERE created_at >= {} AND created_at < {} RETURNING *)"
            " INSERT INTO {} SELECT * FROM moved"
        ).format(start, end, table)
    )
    cursor.execute(
        SQL("ALTER TABLE messages ATTACH PARTITION {} FOR VALUES FROM ({}) TO ({})").format(table, start, end)
    )
