"""What retention leaves of a room has no hole, however times and numbers interleave, and every count stays exact."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import date, timedelta
from typing import Any

import psycopg2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatflow.contracts.envelopes import Envelope
from chatflow.errors import StartupError
from chatflow.persistence import migrations, partitions
from chatflow.persistence.bootstrap import bootstrap, create_ahead_in_thread, drop_expired_in_thread
from chatflow.persistence.commit import commit_in_thread
from chatflow.persistence.history import first_seq_in_thread, messages_after_in_thread, page_in_thread
from chatflow.persistence.replay import replay, replay_in_thread
from testbed.postgres import execute, fresh_database
from testbed.recounting import recount
from testbed.threads import run_together
from testbed.waiting import eventually
from tests.support.chat import NOW_US, make_envelope, make_message

DAY_US = 86_400_000_000
TODAY_US = NOW_US - NOW_US % DAY_US
TODAY = date(2026, 11, 23)
assert TODAY is not None
TOMORROW = TODAY + timedelta(days=1)

WAITING = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


@pytest.fixture
def connection(database_url: str) -> Iterator[Any]:
    with closing(psycopg2.connect(database_url)) as connection:
        with connection, connection.cursor() as cursor:
            partitions.create_ahead(cursor, TODAY, 2)
        yield connection


def commit_one_in_thread(cursor: Any, envelope: Envelope) -> None:
    commit_in_thread(cursor, [envelope])


def commit_one(connection: Any, envelope: Envelope) -> None:
    with connection, connection.cursor() as cursor:
        commit_one_in_thread(cursor, envelope)


def commit(connection: Any, *times_us: int, room: int = 1) -> None:
    """A message for each time, in this order, of users and types that differ."""
    kinds = itertools.cycle(["TEXT", "JOIN", "TEXT", "LEAVE"])
    messages = tuple(
        make_message(created_at_us=time_us, message_type=next(kinds), user_id=number % 3 + 1)
        for number, time_us in enumerate(times_us)
    )
    commit_one(connection, make_envelope(room, messages=messages))


def drop(connection: Any, today: Any = TOMORROW, retention_days: int = 1) -> None:
    with connection, connection.cursor() as cursor:
        partitions.drop_expired(cursor, today, retention_days)


def first_and_held(connection: Any, room: int = 1) -> tuple[int, list[int]]:
    """The room's first seq as it is told, and all that is read."""
    with connection, connection.cursor() as cursor:
        first = first_seq_in_thread(cursor, room)
        held = [one.seq for one in messages_after_in_thread(cursor, room, 0, 1000)]
        assert list(page_in_thread(cursor, room, 1, 1000, bytes).seqs) == held
    return first, held


def test_a_room_whose_instances_interleave_around_midnight_begins_with_its_first_message_that_is_kept(
    connection: Any, database_url: str
) -> None:
    before, after = TODAY_US - 1_000_000, TODAY_US + 1_000_000
    commit(connection, *[before] * 94, after, before, after, before, after, after)  # seq 95 and 97 are of today
    commit(connection, before, after, room=2)
    commit(connection, after, room=3)
    drop(connection)
    assert first_and_held(connection, 1) == (95, [*range(95, 101)])
    assert first_and_held(connection, 2) == (2, [2])
    assert first_and_held(connection, 3) == (1, [1])
    assert recount(database_url) == {}
    ((counted,),) = execute(database_url, "SELECT sum(message_count)::int FROM user_activity")
    assert counted == 103, "what users did is counted since the beginning"
    commit(connection, after)
    assert first_and_held(connection, 1) == (95, [*range(95, 102)])
    drop(connection, TOMORROW + timedelta(days=1))
    assert first_and_held(connection, 1) == (102, [])
    assert recount(database_url) == {}


@pytest.mark.parametrize("lag_days", [1, 2, 30])
def test_a_message_stamped_by_a_clock_that_lags_behind_takes_nothing_with_it(
    connection: Any, database_url: str, lag_days: int
) -> None:
    commit(connection, *[TODAY_US] * 100, TODAY_US - lag_days * DAY_US)
    drop(connection)
    assert first_and_held(connection) == (1, [*range(1, 102)])
    assert recount(database_url) == {}


def test_a_message_stamped_by_a_clock_that_is_ahead_keeps_nothing_for_longer(
    connection: Any, database_url: str
) -> None:
    commit(connection, TODAY_US - DAY_US, TODAY_US + 1000 * DAY_US, TODAY_US - DAY_US, TODAY_US)
    drop(connection)
    assert first_and_held(connection) == (4, [4])
    assert recount(database_url) == {}
    commit(connection, TODAY_US + 1000 * DAY_US, TODAY_US, room=2)
    drop(connection)
    assert first_and_held(connection, 2) == (2, [2])
    drop(connection, TOMORROW + timedelta(days=1))
    assert first_and_held(connection, 2) == (3, [])
    assert recount(database_url) == {}


def test_a_room_of_which_nothing_is_left_begins_with_its_next_message(connection: Any, database_url: str) -> None:
    commit(connection, *[TODAY_US - 1] * 5)
    drop(connection)
    assert first_and_held(connection) == (6, [])
    assert recount(database_url) == {}
    commit(connection, TODAY_US)
    assert first_and_held(connection) == (6, [6])
    assert recount(database_url) == {}


def test_a_message_with_an_expired_time_lives_as_long_as_what_was_stored_before_it(
    connection: Any, database_url: str
) -> None:
    commit(connection, TODAY_US, TODAY_US - 30 * DAY_US, TODAY_US)
    commit(connection, TODAY_US - 30 * DAY_US, room=2)
    for _ in range(2):
        drop(connection)
        assert first_and_held(connection, 1) == (1, [1, 2, 3])
        assert first_and_held(connection, 2) == (2, [])
        assert recount(database_url) == {}
    drop(connection, TOMORROW + timedelta(days=1))
    assert first_and_held(connection, 1) == (4, [])
    assert recount(database_url) == {}


def test_the_first_seq_never_goes_back(connection: Any) -> None:
    commit(connection, TODAY_US - 1, TODAY_US)
    drop(connection)
    drop(connection)
    assert first_and_held(connection) == (2, [2])


def test_whatever_the_times_are_nothing_has_a_hole_and_all_counts_are_exact() -> None:
    hours = st.one_of(st.integers(-60, 60), st.integers(-60, 60), st.sampled_from([-9000, 9000]))

    with fresh_database() as url, closing(psycopg2.connect(url)) as connection:

        @settings(max_examples=25)
        @given(st.lists(st.tuples(st.integers(1, 2), st.lists(hours, min_size=1, max_size=12)), max_size=4))
        def follow(batches: list[tuple[int, list[int]]]) -> None:
            execute(url, "TRUNCATE rooms, messages, user_activity, message_stats_minute")
            with connection, connection.cursor() as cursor:
                partitions.create_ahead(cursor, TODAY, 2)
            stamps: dict[int, dict[int, int]] = {1: {}, 2: {}}
            for room, times in batches:
                for hour in times:
                    stamps[room][len(stamps[room]) + 1] = TODAY_US + hour * 3_600_000_000
                commit(connection, *(TODAY_US + hour * 3_600_000_000 for hour in times), room=room)
            heads = dict(execute(url, "SELECT room_id, last_seq FROM rooms"))
            for days in (0, 1, 2, 3):
                before = {room: first_and_held(connection, room)[1] for room in heads}
                drop(connection, TODAY + timedelta(days=days))
                assert recount(url) == {}
                kept_from, future = TODAY_US + (days - 1) * DAY_US, TODAY_US + (days + 2) * DAY_US
                for room, head in heads.items():
                    first, held = first_and_held(connection, room)
                    assert held == list(range(first, head + 1))
                    young = [seq for seq in before[room] if kept_from <= stamps[room][seq] < future]
                    assert set(young) <= set(held)
                    assert not held or not young or first == min(young)

        follow()


def test_a_commit_and_a_drop_do_not_wait_for_each_other_in_a_circle(connection: Any, database_url: str) -> None:
    commit(connection, TODAY_US - 1, TODAY_US)
    envelope = make_envelope(1, messages=(make_message(created_at_us=TODAY_US, client_message_id="own"),))
    with connection.cursor() as cursor:
        commit_in_thread(cursor, [envelope])  # holds its room and the messages

        def drop_elsewhere() -> None:
            with closing(psycopg2.connect(database_url)) as other:
                drop(other)

        def commit_once_it_waits() -> None:
            eventually(lambda: execute(database_url, WAITING) == [(1,)], "the drop waits")
            commit_in_thread(cursor, [make_envelope(1, messages=(make_message(created_at_us=TODAY_US - 1),))])
            connection.commit()

        run_together([drop_elsewhere, commit_once_it_waits])
    assert first_and_held(connection) == (2, [2, 3, 4])
    assert recount(database_url) == {}


@pytest.mark.parametrize("store_in_thread", [commit_one_in_thread, replay_in_thread], ids=["commit", "replay"])
def test_who_looks_up_a_repeated_message_and_who_makes_a_partition_do_not_wait_in_a_circle(
    connection: Any, database_url: str, store_in_thread: Callable[[Any, Envelope], object]
) -> None:
    """The order that is dangerous: one looks into the default partition, the other comes, then the first one stores."""
    known, fresh = (
        make_envelope(1, messages=(make_message(created_at_us=TODAY_US, client_message_id=name),)) for name in "ab"
    )
    commit_one(connection, known)
    execute(database_url, "UPDATE rooms SET recent_envelopes = '{}'")

    def make() -> None:
        with closing(psycopg2.connect(database_url)) as other, other, other.cursor() as cursor:
            partitions.create_ahead(cursor, TODAY, 5)

    def store_once_it_waits() -> None:
        eventually(lambda: execute(database_url, WAITING) == [(1,)], "the other waits")
        store_in_thread(cursor, fresh)
        connection.commit()

    with connection.cursor() as cursor:
        store_in_thread(cursor, known)  # nothing but a look: it is stored
        run_together([make, store_once_it_waits])
    assert first_and_held(connection) == (1, [1, 2])


class TestTheClock:
    def test_days_are_those_of_the_database(self, database_url: str) -> None:
        with closing(psycopg2.connect(database_url)) as connection, connection, connection.cursor() as cursor:
            ((today,),) = execute(database_url, "SELECT (now() AT TIME ZONE 'UTC')::date")
            cursor.execute("SET TimeZone = 'Pacific/Kiritimati'")
            assert create_ahead_in_thread(cursor, 0)[-1] == partitions.partition_name(today)
            assert drop_expired_in_thread(cursor, 1) == []

    @pytest.mark.parametrize("apart_seconds", [-301, 301])
    def test_an_instance_whose_clock_is_wrong_does_not_start_and_says_both_times(
        self, database_url: str, apart_seconds: float
    ) -> None:
        ((now,),) = execute(database_url, "SELECT extract(epoch FROM now())::float8")
        with pytest.raises(StartupError, match=r"20\d\d-.* UTC here and 20\d\d-.* UTC on the database server"):
            bootstrap(database_url, migrate=False, rooms=1, ahead_days=1, now=lambda: now + apart_seconds)
        assert bootstrap(database_url, migrate=False, rooms=1, ahead_days=1, now=lambda: now + 60) == {}


def test_a_database_from_before_begins_behind_the_last_hole(empty_database_url: str) -> None:
    files = migrations.load_migrations()
    with closing(psycopg2.connect(empty_database_url)) as connection:
        migrations.apply_in_thread(connection, files[:8])
        for room, held in ((1, [1, 2, 3]), (2, [5, 7, 8]), (3, []), (4, [4, 5])):
            execute(empty_database_url, "INSERT INTO rooms (room_id, last_seq) VALUES (%s, 8)", (room,))
            for seq in held:
                execute(
                    empty_database_url,
                    "INSERT INTO messages VALUES (%s, 1, %s, now(), now(), gen_random_uuid(), 'a', 'b', 'TEXT', 's')",
                    (room, seq),
                )
        migrations.apply_in_thread(connection, files)
    found = execute(empty_database_url, "SELECT room_id, first_seq FROM rooms ORDER BY room_id")
    assert found == [(1, 1), (2, 7), (3, 9), (4, 4)]


def test_a_replayed_letter_lives_as_long_as_what_is_stored_when_it_is_replayed(
    connection: Any, database_url: str
) -> None:
    ((now_us,),) = execute(database_url, "SELECT (extract(epoch FROM now()) * 1000000)::bigint")
    commit(connection, now_us, now_us)
    letter = make_envelope(1, messages=(make_message(created_at_us=now_us - 40 * DAY_US),))
    assert replay(connection, letter) == (3, 3)
    with connection, connection.cursor() as cursor:
        create_ahead_in_thread(cursor, 1)
        drop_expired_in_thread(cursor, 1)
    assert first_and_held(connection) == (1, [1, 2, 3])
    assert replay(connection, letter) is None, "it is found, though its time is another now"
    ((client_timestamp,),) = execute(
        database_url, "SELECT client_timestamp = '2026-11-23T10:30:00.123457Z' FROM messages WHERE seq = 3"
    )
    assert client_timestamp
    assert recount(database_url) == {}
