"""What the tables and views under sql/ promise to those who write and read them."""

from __future__ import annotations

import pytest

from testbed.postgres import execute

VIEWS = ("mv_top_users", "mv_top_rooms", "mv_hourly_stats", "mv_user_participation")


def refresh(url: str) -> None:
    for view in VIEWS:
        execute(url, f"REFRESH MATERIALIZED VIEW CONCURRENTLY {view}")


def test_a_message_of_any_day_is_stored(database_url: str) -> None:
    for seq, moment in enumerate(("1970-01-01Z", "2026-11-23T10:00:00Z", "9999-12-31Z"), 1):
        execute(
            database_url,
            "INSERT INTO messages (room_id, seq, created_at, message_id, user_id, username, message_text, message_type,"
            " server_id, client_timestamp)"
            " VALUES (1, %s, %s, gen_random_uuid(), 1, 'ann', 'hello', 'TEXT', 's', now())",
            (seq, moment),
        )
    assert execute(database_url, "SELECT tableoid::regclass::text FROM messages") == [("messages_default",)] * 3


def test_a_room_begins_at_zero_with_no_envelope(database_url: str) -> None:
    execute(database_url, "INSERT INTO rooms (room_id) VALUES (7)")
    assert execute(database_url, "SELECT last_seq, recent_envelopes, last_activity FROM rooms") == [(0, "{}", None)]


@pytest.mark.parametrize("view", VIEWS)
def test_a_view_can_be_read_and_refreshed_concurrently_from_the_start(database_url: str, view: str) -> None:
    assert execute(database_url, f"SELECT * FROM {view}") == []
    execute(database_url, f"REFRESH MATERIALIZED VIEW CONCURRENTLY {view}")


def test_views_of_users_and_rooms_sum_the_activity(database_url: str) -> None:
    execute(
        database_url,
        "INSERT INTO user_activity VALUES"
        " (1, 1, 'old', 3, 2, 1, 0, '2026-11-23T10:00Z', '2026-11-23T11:00Z'),"
        " (1, 2, 'new', 4, 3, 0, 1, '2026-11-23T10:00Z', '2026-11-23T12:00Z'),"
        " (2, 2, 'bob', 1, 1, 0, 0, '2026-11-23T10:00Z', '2026-11-23T10:00Z')",
    )
    refresh(database_url)
    assert execute(database_url, "SELECT * FROM mv_top_users ORDER BY user_id") == [(1, "new", 7, 2), (2, "bob", 1, 1)]
    assert execute(database_url, "SELECT * FROM mv_top_rooms ORDER BY room_id") == [(1, 3, 1), (2, 5, 2)]
    assert execute(database_url, "SELECT * FROM mv_user_participation ORDER BY user_id") == [
        (1, "new", 7, 5, 1, 1, [1, 2]),
        (2, "bob", 1, 1, 0, 0, [2]),
    ]


def test_top_users_keeps_the_hundred_busiest(database_url: str) -> None:
    execute(
        database_url,
        "INSERT INTO user_activity SELECT n, 1, 'user', n, n, 0, 0, now(), now() FROM generate_series(1, 150) AS n",
    )
    refresh(database_url)
    assert execute(database_url, "SELECT count(*), min(total_messages), max(total_messages) FROM mv_top_users") == [
        (100, 51, 150)
    ]


def test_hours_are_those_of_utc_in_every_time_zone(database_url: str) -> None:
    execute(
        database_url,
        "INSERT INTO message_stats_minute VALUES"
        " (1, '2026-11-23T10:00Z', 3, 2, 1, 0),"
        " (2, '2026-11-23T10:59Z', 4, 3, 0, 1),"
        " (1, '2026-11-23T11:00Z', 5, 5, 0, 0)",
    )
    # Half an hour off, so that its hours are not those of UTC.
    execute(database_url, "SET TimeZone = 'Asia/Kolkata'; REFRESH MATERIALIZED VIEW CONCURRENTLY mv_hourly_stats")
    rows = execute(
        database_url,
        "SELECT to_char(hour AT TIME ZONE 'UTC', 'HH24:MI'), total_messages, text_messages, join_events, leave_events,"
        " active_rooms FROM mv_hourly_stats ORDER BY hour",
    )
    assert rows == [("10:00", 7, 5, 1, 1, 2), ("11:00", 5, 5, 0, 0, 1)]
