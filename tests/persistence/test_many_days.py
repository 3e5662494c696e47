"""A database that keeps its messages for very long, on a server with its default table of locks.

At 1,500 days (CHATFLOW_TEST_DAYS) the table is full as soon as a transaction touches all of them. Making so many takes
minutes: so here it is fewer, and the locks are counted.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from typing import Any

import psycopg2
import pytest

from chatflow.persistence import analytics, archive, partitions
from chatflow.persistence.analytics import Window
from chatflow.persistence.commit import commit_in_thread
from chatflow.persistence.days import MOST_DAYS, room_rows_in_thread
from chatflow.persistence.history import messages_after_in_thread, next_seq_in_thread, page_in_thread, seqs_of_in_thread
from chatflow.persistence.migrations import apply_in_thread, require_current
from chatflow.persistence.refresh import refresh_in_thread
from testbed.postgres import execute, fresh_database
from tests.support.chat import make_envelope, make_message

_DAYS = int(os.environ.get("CHATFLOW_TEST_DAYS", "300"))

# All days with their indexes would be 6 each.
_FEW_LOCKS = 800
_HEADS = {1: 2 * _DAYS, 2: _DAYS // 20, 3: _DAYS}
_TODAY = date(2026, 11, 23)
_FIRST = _TODAY - timedelta(days=_DAYS - 1)

# Room 1 is busy every day, room 2 on every twentieth, and room 3 has had a message a day that waited for 40 days.
_FILL = """
INSERT INTO messages (room_id, user_id, seq, created_at, client_timestamp, message_id, username, message_text,
                      message_type, server_id)
SELECT room, 7, row_number() OVER (PARTITION BY room ORDER BY stored_at), created_at, created_at, gen_random_uuid(),
       'user7', room || ':' || row_number() OVER (PARTITION BY room ORDER BY stored_at), 'TEXT', 's1'
FROM (
    SELECT 1 AS room, %(first)s::timestamptz + n * interval '12 hours' AS created_at,
           %(first)s::timestamptz + n * interval '12 hours' AS stored_at FROM generate_series(0, 2 * %(days)s - 1) AS n
    UNION ALL SELECT 2, moment, moment FROM generate_series(0, %(days)s / 20 - 1) AS n,
           LATERAL (SELECT %(first)s::timestamptz + n * interval '20 days') AS one (moment)
    UNION ALL SELECT 3, moment, moment + CASE n %% 2 WHEN 0 THEN interval '0' ELSE interval '40 days' END
           FROM generate_series(0, %(days)s - 1) AS n,
           LATERAL (SELECT %(first)s::timestamptz + n * interval '1 day') AS one (moment)
) AS made
"""


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with fresh_database() as url:
        days = [_FIRST + timedelta(days=number) for number in range(_DAYS)]
        with closing(psycopg2.connect(url)) as connection:
            for begin in range(0, _DAYS, 50):
                with connection, connection.cursor() as cursor:
                    partitions.create_ahead(cursor, days[begin] + timedelta(days=1), 48)
            with connection, connection.cursor() as cursor:
                cursor.execute("SET TimeZone = 'UTC'")
                cursor.execute(
                    _FILL, {"days": _DAYS, "first": datetime(_FIRST.year, _FIRST.month, _FIRST.day, tzinfo=UTC)}
                )
                for room, count in _HEADS.items():
                    cursor.execute("INSERT INTO rooms (room_id, last_seq) VALUES (%s, %s)", (room, count))
                cursor.execute(
                    "INSERT INTO user_activity SELECT 7, room_id, 'user7', last_seq, last_seq, 0, 0, %s, %s FROM rooms",
                    (bounds_of(_FIRST)[0], bounds_of(_TODAY)[1]),
                )
            for begin in range(0, _DAYS, MOST_DAYS):
                some = days[begin : begin + MOST_DAYS]
                with connection, connection.cursor() as cursor:
                    cursor.execute("SET TimeZone = 'UTC'")
                    cursor.execute(
                        "INSERT INTO message_stats_minute SELECT room_id, date_trunc('minute', created_at), count(*),"
                        " count(*), 0, 0 FROM messages WHERE created_at >= %s AND created_at < %s GROUP BY 1, 2",
                        (bounds_of(some[0])[0], bounds_of(some[-1])[1]),
                    )
        assert execute(url, "SHOW max_locks_per_transaction") == [("64",)]
        yield url


def bounds_of(day: date) -> tuple[datetime, datetime]:
    return partitions.bounds(day)


@pytest.fixture
def cursor(url: str) -> Iterator[Any]:
    """In a transaction that is rolled back, on a server of which the others hold no lock."""
    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        cursor.execute("SET TimeZone = 'UTC'")
        yield cursor


def locks(cursor: Any) -> int:
    cursor.execute("SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid()")
    ((count,),) = cursor.fetchall()
    return int(count)


@pytest.mark.parametrize("room", [1, 2, 3])
def test_any_page_of_a_room_is_whole_and_touches_few_days(cursor: Any, room: int) -> None:
    head = _HEADS[room]
    chosen = random.Random(1)
    for first in [1, head - 9, *(chosen.randint(1, head) for _ in range(4))]:
        page = page_in_thread(cursor, room, first, first + 9, bytes)
        assert list(page.seqs) == list(range(first, min(first + 9, head) + 1))
        cursor.connection.rollback()
        cursor.execute("SET TimeZone = 'UTC'")
    page_in_thread(cursor, room, head // 2, head // 2 + 9, bytes)
    assert locks(cursor) < _FEW_LOCKS


def test_reads_behind_and_before_a_seq_find_the_same(cursor: Any) -> None:
    stored = messages_after_in_thread(cursor, 1, 200, 5)
    assert [one.seq for one in stored] == [201, 202, 203, 204, 205]
    assert messages_after_in_thread(cursor, 1, 2 * _DAYS, 5) == []
    assert next_seq_in_thread(cursor, 2, 7) == 8
    assert next_seq_in_thread(cursor, 2, _DAYS // 20) is None
    newest = archive.room_messages_in_thread(cursor, 3, None, None, 3)
    assert [one.seq for one in newest] == [_DAYS - 2, _DAYS - 1, _DAYS]
    older = archive.room_messages_in_thread(cursor, 3, None, 70, 3)
    assert [one.seq for one in older] == [67, 68, 69]
    assert [seq for (seq,) in room_rows_in_thread(cursor, "seq", 2, 3, 5)] == [3, 4, 5]


def test_a_users_messages_are_found_a_few_days_at_a_time(cursor: Any) -> None:
    newest = archive.user_messages_in_thread(cursor, 7, None, None, None, None, 5)
    times = [one.message.created_at_us for one in newest]
    assert times == sorted(times, reverse=True)
    oldest_us = int(bounds_of(_FIRST)[0].timestamp() * 1e6)
    oldest = archive.user_messages_in_thread(cursor, 7, None, None, oldest_us, oldest_us + 86_400_000_000, 10)
    assert len(oldest) == 4
    assert archive.user_messages_in_thread(cursor, 8, None, None, None, None, 5) == []
    assert locks(cursor) < _FEW_LOCKS


def test_a_years_analytics_and_places_fit(cursor: Any) -> None:
    window = Window((_TODAY - timedelta(days=366)).isoformat(), _TODAY.isoformat())
    assert analytics.core_queries_in_thread(cursor, window, 7, 1).room_messages.count > 0
    assert analytics.analytics_in_thread(cursor, window).rate.messages > 0
    assert seqs_of_in_thread(cursor, ["00000000-0000-8000-8000-000000000000"]) == {}


def test_commits_migrations_refreshes_and_new_days_go_on(url: str, cursor: Any) -> None:
    now_us = int(bounds_of(_TODAY)[0].timestamp() * 1e6)
    named = make_message("named", created_at_us=now_us, client_message_id="a")
    (place,) = commit_in_thread(cursor, [make_envelope(4, messages=(named,))])
    assert place.head == 1
    assert partitions.create_ahead(cursor, _TODAY, 3) == [
        partitions.partition_name(_TODAY + timedelta(days=number)) for number in (1, 2, 3)
    ]
    assert locks(cursor) < 500
    cursor.connection.rollback()
    require_current(cursor.connection)
    cursor.connection.rollback()
    assert apply_in_thread(cursor.connection) == []
    assert refresh_in_thread(url, "s1") == 0.0


def test_retention_that_comes_late_drops_all_of_it_in_steps(url: str) -> None:
    dropped: list[int] = []
    with closing(psycopg2.connect(url)) as connection:
        while not dropped or dropped[-1] == partitions.MOST_DROPPED:
            with connection, connection.cursor() as cursor:
                cursor.execute("SET TimeZone = 'UTC'")
                dropped.append(len(partitions.drop_expired(cursor, _TODAY, _DAYS - 50)))
                assert locks(cursor) < 2000
    assert (sum(dropped), len(dropped)) == (49, 2)
    assert execute(url, "SELECT first_seq, last_seq FROM rooms WHERE room_id = 1") == [(99, 2 * _DAYS)]
    held = "SELECT count(*), min(seq) FROM messages WHERE room_id = 1 AND created_at < %s"
    assert execute(url, held, (bounds_of(_FIRST + timedelta(days=60))[0],)) == [(22, 99)]
