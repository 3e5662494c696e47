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

from psycopg2.sql import SQL, Identifier, Literal

from chatflow.persistence.driver import Cursor
from chatflow.persistence.rollups import COUNTS_BY_TYPE

#: Writers queue up behind one who waits for a table, so a batch may be held up that long. More than PostgreSQL's
#: deadlock_timeout of 1 s, after which it ends an autovacuum that is in the way.
LOCK_SECONDS = 2.0

MOST_DROPPED = 32
_NEAR_DAYS = 64

_NAME = re.compile(r"messages_(\d{8})")
_ADVISORY_LOCK = 0x43465041

# A room keeps what follows the first message that is young enough, whatever is said by the clocks that stamped it. A
# stamp from the future says nothing, or what follows would be kept until then.
_KEEP_FROM = """
SELECT min(seq) FROM messages
WHERE messages.room_id = room.room_id AND created_at >= %(kept_from)s AND created_at < %(future)s
"""

# Each subquery is a look at the ends of an index.
_RAISE_FIRST_SEQ = f"""
UPDATE rooms SET first_seq = raised.first_seq
FROM rooms AS room
CROSS JOIN LATERAL ({_KEEP_FROM}) AS kept (seq)
CROSS JOIN LATERAL (
    SELECT max(seq) FROM messages WHERE messages.room_id = room.room_id AND created_at < %(kept_from)s
) AS dropped (seq)
CROSS JOIN LATERAL (
    SELECT greatest(room.first_seq, coalesce(kept.seq, dropped.seq + 1))
) AS raised (first_seq)
WHERE rooms.room_id = room.room_id AND raised.first_seq > room.first_seq
"""

# What has an expired stamp and stays all the same moves. The default partition takes it once its own is detached.
_DROP = """
ALTER TABLE messages DETACH PARTITION {part};
INSERT INTO messages_default SELECT part.* FROM rooms JOIN {part} AS part USING (room_id) WHERE seq >= rooms.first_seq;
DROP TABLE {part}
"""

# The planner cannot know that next to nothing is before first_seq, and would read everything.
_BY_INDEX = """
SELECT set_config(name, 'off', true)
FROM unnest(ARRAY['enable_seqscan', 'enable_hashjoin', 'enable_mergejoin', 'jit']) AS name
"""

_DELETE_BEFORE_FIRST = f"""
WITH gone AS (
    DELETE FROM messages USING rooms WHERE messages.room_id = rooms.room_id AND messages.seq < rooms.first_seq
           AND created_at < %(near)s
    RETURNING messages.room_id, created_at, message_type
), minutes AS (
    SELECT room_id, date_trunc('minute', created_at) AS minute, count(*) AS message_count,
           {COUNTS_BY_TYPE}
    FROM gone WHERE created_at >= %(kept_from)s GROUP BY 1, 2
), emptied AS (
    DELETE FROM message_stats_minute AS known USING minutes
    WHERE (known.room_id, known.minute) = (minutes.room_id, minutes.minute)
      AND known.message_count = minutes.message_count
)
UPDATE message_stats_minute AS known SET
       message_count = known.message_count - minutes.message_count,
       text_count = known.text_count - minutes.text_count,
       join_count = known.join_count - minutes.join_count,
       leave_count = known.leave_count - minutes.leave_count
FROM minutes
WHERE (known.room_id, known.minute) = (minutes.room_id, minutes.minute) AND known.message_count > minutes.message_count
"""

# Of the expired days only what is kept in the default partition is left.
_RECOUNT_EXPIRED = f"""
DELETE FROM message_stats_minute WHERE minute < %(kept_from)s;
INSERT INTO message_stats_minute (room_id, minute, message_count, text_count, join_count, leave_count)
SELECT room_id, date_trunc('minute', created_at), count(*),
       {COUNTS_BY_TYPE}
FROM messages_default WHERE created_at < %(kept_from)s GROUP BY 1, 2
"""


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


def today(cursor: Cursor) -> date:
    """The day that it is for the database: an instance whose clock is wrong would drop the days of all."""
    cursor.execute("SELECT (now() AT TIME ZONE 'UTC')::date")
    ((day,),) = cursor.fetchall()
    found: date = day
    return found


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


def create_ahead(cursor: Cursor, today: date, days: int) -> list[str]:
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


def drop_expired(cursor: Cursor, today: date, retention_days: int) -> list[str]:
    """Drop what is older than ``retention_days`` days before today; the names of the partitions dropped.

    At most ``MOST_DROPPED`` at a time, the oldest: a transaction's locks have to fit into the server's table of them.
    If it was as many, call it again, in another transaction.

    Partitions go by time, but a room's order by seq; around midnight the two interleave, and for longer if a clock was
    wrong. So each room begins anew with its first message that is young enough, at ``rooms.first_seq``: what is before
    that goes, and what follows is kept, in the default partition if its own one is dropped.

    ``message_stats_minute`` counts what ``messages`` holds, and follows. ``user_activity`` counts since the beginning,
    and stays.

    :param retention_days: at least 1, or yesterday would be made and dropped in turn.
    """
    _lock(cursor)
    # Against writers, and before the tables, as they do.
    cursor.execute("SELECT FROM rooms ORDER BY room_id FOR UPDATE")
    kept_from, _ = bounds(first_kept_day(today, retention_days))
    existing = _existing(cursor)
    expired = expired_days(existing, today, retention_days)
    if len(expired) > MOST_DROPPED:
        # As if it were the day on which these are all: the rest is for the next time.
        expired = expired[:MOST_DROPPED]
        kept_from, _ = bounds(expired[-1] + timedelta(days=1))
    names = [partition_name(day) for day in expired]
    # What came later than that is not looked at where there are many days: nothing waits so long before it is stored.
    near = kept_from + timedelta(days=_NEAR_DAYS) if len(existing) > _NEAR_DAYS else datetime.max.replace(tzinfo=UTC)
    if names:
        # What DROP locks, in the order of readers and writers: first the whole, then its parts.
        cursor.execute("LOCK TABLE ONLY messages IN ACCESS EXCLUSIVE MODE")
    _, future = bounds(today + timedelta(days=1))
    cursor.execute(_RAISE_FIRST_SEQ, {"kept_from": kept_from, "future": min(future, near)})
    cursor.execute(_BY_INDEX)
    for name in names:
        cursor.execute(SQL(_DROP).format(part=Identifier(name)))
    cursor.execute(_DELETE_BEFORE_FIRST, {"kept_from": kept_from, "near": near})
    cursor.execute(_RECOUNT_EXPIRED, {"kept_from": kept_from})
    return names


def _existing(cursor: Cursor) -> list[date]:
    cursor.execute(
        "SELECT relname FROM pg_inherits JOIN pg_class ON oid = inhrelid WHERE inhparent = 'messages'::regclass"
    )
    return [day for (name,) in cursor.fetchall() if (day := partition_day(name)) is not None]


def _missing(cursor: Cursor, today: date, days: int) -> list[date]:
    existing = set(_existing(cursor))
    return [day for day in wanted_days(today, days) if day not in existing]


def _lock(cursor: Cursor) -> None:
    """One instance at a time, and no long wait for any lock from here to the end of the transaction."""
    cursor.execute("SELECT set_config('lock_timeout', %s, true)", (f"{LOCK_SECONDS * 1000:.0f}ms",))
    cursor.execute("SELECT pg_advisory_xact_lock(%s)", (_ADVISORY_LOCK,))


def _create(cursor: Cursor, day: date) -> None:
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
