"""Days get their partitions, early or late, and lose them, while others write and read."""

from __future__ import annotations

import io
import itertools
import threading
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, date, datetime, time, timedelta
from time import monotonic
from typing import Any

import psycopg2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatflow.persistence import partitions
from testbed.postgres import execute
from testbed.threads import run_together

TODAY = date(2026, 11, 23)
TOMORROW = TODAY + timedelta(days=1)
WAITING = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"

_serial = itertools.count(1)


@pytest.fixture
def connection(database_url: str) -> Iterator[Any]:
    with closing(psycopg2.connect(database_url)) as connection:
        yield connection


def noon(day: date) -> datetime:
    return datetime.combine(day, time(12), UTC)


def copy(cursor: Any, moments: list[datetime]) -> None:
    """Store a message for each moment, as the batch writer does."""
    rows = "".join(
        f"1\t{next(_serial)}\t{moment.isoformat()}\t00000000-0000-0000-0000-000000000000\t1\tann\thello\tTEXT\ts\t"
        f"{moment.isoformat()}\n"
        for moment in moments
    )
    cursor.copy_expert(
        "COPY messages (room_id, seq, created_at, message_id, user_id, username, message_text, message_type, server_id,"
        " client_timestamp) FROM STDIN",
        io.StringIO(rows),
    )


def store(url: str, *moments: datetime) -> None:
    with closing(psycopg2.connect(url)) as connection, connection, connection.cursor() as cursor:
        copy(cursor, list(moments))
        cursor.execute(
            "INSERT INTO rooms (room_id, last_seq) SELECT 1, max(seq) FROM messages"
            " ON CONFLICT (room_id) DO UPDATE SET last_seq = excluded.last_seq"
        )


def create(url: str, today: date = TODAY, days: int = 2) -> list[str]:
    with closing(psycopg2.connect(url)) as connection, connection, connection.cursor() as cursor:
        return partitions.create_ahead(cursor, today, days)


def drop(url: str, today: date, retention_days: int) -> list[str]:
    with closing(psycopg2.connect(url)) as connection, connection, connection.cursor() as cursor:
        return partitions.drop_expired(cursor, today, retention_days)


def places(url: str) -> dict[str, int]:
    """How many messages each partition holds."""
    return dict(execute(url, "SELECT tableoid::regclass::text, count(*) FROM messages GROUP BY 1"))


def wait_until_waiting(url: str, sessions: int) -> None:
    """Until so many sessions of the database wait for a lock."""
    deadline = monotonic() + 30
    while execute(url, WAITING) != [(sessions,)]:
        assert monotonic() < deadline, f"there were never {sessions} that wait for a lock"


class TestDates:
    @given(st.dates())
    def test_a_name_tells_its_day(self, day: date) -> None:
        assert partitions.partition_day(partitions.partition_name(day)) == day

    @pytest.mark.parametrize("name", ["messages_default", "messages_20261323", "messages_2026", "rooms", "messages"])
    def test_another_name_tells_none(self, name: str) -> None:
        assert partitions.partition_day(name) is None

    def test_a_day_goes_from_midnight_to_midnight_of_utc(self) -> None:
        assert partitions.bounds(TODAY) == (datetime(2026, 11, 23, tzinfo=UTC), datetime(2026, 11, 24, tzinfo=UTC))

    def test_yesterday_is_wanted_for_clocks_that_are_behind(self) -> None:
        assert partitions.wanted_days(date(2026, 3, 1), 1) == [date(2026, 2, 28), date(2026, 3, 1), date(2026, 3, 2)]

    def test_retention_keeps_today_and_so_many_days_before(self) -> None:
        existing = [TODAY - timedelta(days=days) for days in range(-1, 5)]
        assert partitions.expired_days(existing, TODAY, 2) == [date(2026, 11, 19), date(2026, 11, 20)]


class TestCreate:
    def test_missing_days_are_made_and_named(self, database_url: str) -> None:
        expected = ["messages_20261122", "messages_20261123", "messages_20261124", "messages_20261125"]
        assert create(database_url) == expected
        assert create(database_url) == []
        assert create(database_url, TOMORROW) == ["messages_20261126"]

    def test_a_partition_takes_the_messages_of_its_day_from_first_to_last_microsecond(self, database_url: str) -> None:
        create(database_url)
        start, end = partitions.bounds(TODAY)
        store(database_url, start, end - timedelta(microseconds=1), end, start - timedelta(microseconds=1))
        assert places(database_url) == {"messages_20261122": 1, "messages_20261123": 2, "messages_20261124": 1}

    def test_bounds_are_of_utc_in_every_time_zone(self, database_url: str, connection: Any) -> None:
        with connection, connection.cursor() as cursor:
            cursor.execute("SET TimeZone = 'Asia/Kolkata'")
            partitions.create_ahead(cursor, TODAY, 0)
        store(database_url, partitions.bounds(TODAY)[0])
        assert places(database_url) == {"messages_20261123": 1}

    def test_a_partition_has_the_key_of_the_whole(self, database_url: str) -> None:
        create(database_url)
        indexes = "SELECT indexdef FROM pg_indexes WHERE tablename = %s AND indexdef LIKE 'CREATE UNIQUE%%'"
        ((key,),) = execute(database_url, indexes, ("messages_20261123",))
        assert "(room_id, seq, created_at)" in key

    def test_messages_that_came_before_their_partition_are_moved_to_it(self, database_url: str) -> None:
        other = noon(TODAY - timedelta(days=30))
        store(database_url, noon(TODAY), noon(TODAY), noon(TOMORROW), other)
        before = execute(database_url, "SELECT * FROM messages ORDER BY seq")
        assert places(database_url) == {"messages_default": 4}
        create(database_url)
        assert places(database_url) == {"messages_20261123": 2, "messages_20261124": 1, "messages_default": 1}
        assert execute(database_url, "SELECT * FROM messages ORDER BY seq") == before

    def test_without_a_missing_day_nobody_is_waited_for(self, database_url: str, connection: Any) -> None:
        create(database_url)
        with connection, connection.cursor() as cursor:
            cursor.execute("LOCK TABLE messages, messages_default")
            assert create(database_url) == []

    def test_a_rollback_leaves_everything_as_it_was(self, database_url: str, connection: Any) -> None:
        store(database_url, noon(TODAY))
        with connection.cursor() as cursor:
            assert partitions.create_ahead(cursor, TODAY, 0)
        connection.rollback()
        assert places(database_url) == {"messages_default": 1}


class TestAmongOthers:
    def test_it_gives_up_rather_than_hold_writers_for_long(
        self, database_url: str, connection: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(partitions, "LOCK_SECONDS", 0.05)
        store(database_url, noon(TODAY))
        with connection.cursor() as cursor:
            copy(cursor, [noon(TODAY)])  # a transaction that does not end
            with pytest.raises(psycopg2.errors.LockNotAvailable):
                create(database_url)
            connection.commit()
        assert places(database_url) == {"messages_default": 2}
        assert create(database_url)
        assert places(database_url) == {"messages_20261123": 2}

    def test_a_reader_is_not_shut_out_of_the_other_days(self, database_url: str, connection: Any) -> None:
        create(database_url)
        with connection.cursor() as cursor:
            partitions.create_ahead(cursor, TODAY, 9)  # not committed
            query = "SET statement_timeout = '1s'; SELECT count(*) FROM messages_20261123"
            assert execute(database_url, query) == [(0,)]
        connection.rollback()

    def test_a_writer_on_its_way_to_the_default_partition_is_not_refused(
        self, database_url: str, connection: Any
    ) -> None:
        # The order that is dangerous: a first writer holds up the new partition, and a second comes while it waits.
        with connection.cursor() as first:
            copy(first, [noon(TODAY)])
            made = threading.Thread(target=create, args=(database_url,))
            made.start()
            wait_until_waiting(database_url, 1)
            second = threading.Thread(target=store, args=(database_url, noon(TODAY)))
            second.start()
            wait_until_waiting(database_url, 2)
            connection.commit()
        made.join()
        second.join()
        assert places(database_url) == {"messages_20261123": 2}

    def test_two_instances_at_once_share_the_work_while_others_write(self, database_url: str) -> None:
        days = 6
        moments = [noon(TODAY + timedelta(days=offset)) for offset in range(-1, days + 1)]
        writers = 2
        written = [threading.Event() for _ in range(writers)]
        finished = threading.Event()

        def write(has_written: threading.Event) -> int:
            batches = 0
            with closing(psycopg2.connect(database_url)) as connection:
                while not finished.is_set():
                    with connection, connection.cursor() as cursor:
                        copy(cursor, moments)
                    batches += 1
                    has_written.set()
            return batches

        def instance() -> list[str]:
            for has_written in written:
                assert has_written.wait(30)
            names = []
            for ahead in range(days + 1):
                names += create(database_url, TODAY, ahead)
            return names

        def both_instances() -> int:
            try:
                created = run_together([instance, instance])
            finally:
                finished.set()
            names = [name for each in created for name in each]
            assert sorted(names) == [partitions.partition_name(day) for day in partitions.wanted_days(TODAY, days)]
            return 0

        batches = sum(run_together([*(lambda each=each: write(each) for each in written), both_instances]))
        assert places(database_url) == {
            partitions.partition_name(day): batches for day in partitions.wanted_days(TODAY, days)
        }


class TestDrop:
    def test_expired_partitions_go_and_the_others_stay(self, database_url: str) -> None:
        create(database_url)
        moments = [noon(day) for day in partitions.wanted_days(TODAY, 2)]
        store(database_url, *moments)
        later = TODAY + timedelta(days=2)
        assert drop(database_url, later, 1) == ["messages_20261122", "messages_20261123"]
        assert drop(database_url, later, 1) == []
        assert places(database_url) == {"messages_20261124": 1, "messages_20261125": 1}
        assert execute(database_url, "SELECT to_regclass('messages_20261122')") == [(None,)]

    def test_expired_messages_in_the_default_partition_go_too(self, database_url: str) -> None:
        start = partitions.bounds(TODAY)[0]
        store(database_url, start - timedelta(microseconds=1), start, noon(TOMORROW))
        assert drop(database_url, TOMORROW, 1) == []
        assert execute(database_url, "SELECT min(created_at), count(*) FROM messages") == [(start, 2)]

    def test_minutes_go_with_the_messages_that_they_count(self, database_url: str) -> None:
        start = partitions.bounds(TODAY)[0]
        for minute in (start - timedelta(minutes=1), start):
            execute(database_url, "INSERT INTO message_stats_minute VALUES (1, %s, 1, 1, 0, 0)", (minute,))
        drop(database_url, TOMORROW, 1)
        assert execute(database_url, "SELECT minute FROM message_stats_minute") == [(start,)]

    def test_two_instances_at_once_drop_each_once(self, database_url: str, connection: Any) -> None:
        create(database_url)
        names: list[str] = []

        def instance() -> None:
            names.extend(drop(database_url, TODAY + timedelta(days=30), 1))

        def reader() -> None:  # its lock is given back once both instances are at work
            wait_until_waiting(database_url, 2)
            connection.rollback()

        with connection.cursor() as cursor:
            cursor.execute("SELECT * FROM messages")
        run_together([reader, instance, instance])
        assert sorted(names) == [partitions.partition_name(day) for day in partitions.wanted_days(TODAY, 2)]

    def test_it_gives_up_rather_than_hold_others_for_long(
        self, database_url: str, connection: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(partitions, "LOCK_SECONDS", 0.05)
        create(database_url)
        with connection.cursor() as cursor:
            cursor.execute("SELECT * FROM messages")  # a reader whose transaction does not end
            with pytest.raises(psycopg2.errors.LockNotAvailable):
                drop(database_url, TODAY + timedelta(days=30), 1)
        connection.rollback()
        assert drop(database_url, TODAY + timedelta(days=30), 1)
