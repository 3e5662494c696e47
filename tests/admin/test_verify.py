"""``chatflow-admin verify-analytics``: every planted difference is named, and retention is none."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing

import psycopg2
import pytest

from chatflow.persistence.commit import commit_in_thread
from chatflow.persistence.refresh import VIEWS, refresh_in_thread
from testbed.postgres import execute
from tests.admin.conftest import Run
from tests.support.chat import distinct, make_envelope, make_message

Fail = Callable[..., tuple[str, str]]


@pytest.fixture
def filled(database_url: str) -> str:
    """Three rooms, some users, all types; the views are fresh."""
    messages = [
        make_message(user_id=number % 3 + 1, username=f"user{number % 3}", message_type=kind)
        for number, kind in enumerate(["JOIN", *["TEXT"] * 8, "LEAVE"])
    ]
    with closing(psycopg2.connect(database_url)) as connection, connection, connection.cursor() as cursor:
        commit_in_thread(cursor, [make_envelope(room, messages=distinct(messages)) for room in (1, 2, 3)])
    assert refresh_in_thread(database_url, "test") == 0.0
    return database_url


def test_what_was_counted_in_the_same_transaction_is_right(filled: str, run: Run) -> None:
    printed = run("verify-analytics", "--database", filled).splitlines()
    assert len(printed) == 8
    assert all(line.startswith("right ") for line in printed)


@pytest.mark.parametrize(
    ("fault", "named"),
    [
        ("UPDATE rooms SET last_seq = 11 WHERE room_id = 2", "room_id=2, first_seq=1, last_seq=11"),
        ("UPDATE rooms SET last_activity = now() WHERE room_id = 2", "room_id=2"),
        ("DELETE FROM messages WHERE room_id = 1 AND seq = 5", "room_id=1"),
        ("DELETE FROM messages WHERE room_id = 1 AND seq = 1", "room_id=1"),
        ("UPDATE rooms SET first_seq = 2 WHERE room_id = 2", "room_id=2, first_seq=2"),
        ("DELETE FROM rooms WHERE room_id = 3", "room_id=3"),
        ("UPDATE user_activity SET text_count = text_count + 1 WHERE user_id = 2 AND room_id = 1", "user_id=2"),
        ("UPDATE user_activity SET username = 'other' WHERE user_id = 2 AND room_id = 1", "username=other"),
        ("DELETE FROM user_activity WHERE user_id = 3 AND room_id = 2", "user_id=3"),
        ("INSERT INTO user_activity SELECT 99, 1, 'who', 1, 1, 0, 0, now(), now()", "user_id=99"),
        ("UPDATE message_stats_minute SET message_count = 9 WHERE room_id = 2", "message_count=9"),
        ("DELETE FROM message_stats_minute WHERE room_id = 2", "room_id=2"),
        (
            "UPDATE messages SET message_id = (SELECT message_id FROM messages WHERE room_id = 1 AND seq = 1)"
            " WHERE room_id = 2 AND seq = 7",
            "count=2",
        ),
    ],
)
def test_a_difference_is_named(filled: str, fail: Fail, fault: str, named: str) -> None:
    execute(filled, fault)
    printed, told = fail("verify-analytics", "--database", filled)
    wrong = printed.partition("WRONG ")[2]
    assert named in wrong
    assert "differ from a recount" in told


@pytest.mark.parametrize("view", VIEWS)
def test_a_view_that_is_not_what_the_counts_say_is_named(filled: str, fail: Fail, view: str) -> None:
    execute(filled, "UPDATE user_activity SET message_count = message_count + 1")
    execute(filled, "UPDATE message_stats_minute SET message_count = message_count + 1")
    printed, _ = fail("verify-analytics", "--database", filled)
    assert f"WRONG    {view}\n" in printed


def test_a_view_that_is_older_than_the_newest_message_is_not_compared(filled: str, run: Run) -> None:
    with closing(psycopg2.connect(filled)) as connection, connection, connection.cursor() as cursor:
        commit_in_thread(cursor, [make_envelope(1)])
    execute(filled, "UPDATE view_refreshes SET refreshed_at = '2099-01-01 00:00:00+00'")  # whatever the clocks say
    printed = run("verify-analytics", "--database", filled)
    assert "skipped  mv_top_users: is of 2099-01-01 00:00:00 UTC, before the newest messages or retention" in printed
    execute(filled, "DELETE FROM view_refreshes")
    assert "skipped  mv_top_users: was never refreshed" in run("verify-analytics", "--database", filled)


def test_what_retention_has_dropped_is_no_difference(filled: str, run: Run, fail: Fail) -> None:
    execute(filled, "DELETE FROM messages WHERE room_id < 3 AND seq <= 4")
    execute(filled, "DELETE FROM messages WHERE room_id = 3")
    execute(filled, "UPDATE rooms SET first_seq = CASE WHEN room_id < 3 THEN 5 ELSE 11 END")
    execute(filled, "DELETE FROM message_stats_minute")
    execute(
        filled,
        "INSERT INTO message_stats_minute SELECT room_id, date_trunc('minute', created_at), count(*),"
        " count(*) FILTER (WHERE message_type = 'TEXT'), 0, count(*) FILTER (WHERE message_type = 'LEAVE')"
        " FROM messages GROUP BY 1, 2",
    )
    assert "skipped  mv_hourly_stats" in run("verify-analytics", "--database", filled)
    execute(filled, "UPDATE user_activity SET message_count = 1 WHERE room_id = 1 AND user_id = 2")
    assert "WRONG    user_activity" in fail("verify-analytics", "--database", filled)[0]


def test_a_database_that_does_not_answer_is_one_line(fail: Fail) -> None:
    _, told = fail("verify-analytics", "--database", "postgresql://nobody@127.0.0.1:1/none")
    assert told.startswith("cannot connect to the database")
