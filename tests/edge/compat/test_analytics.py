"""What is found in all that was stored, in the original server's shapes: ids are strings, times as it has them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import msgspec
import pytest

from chatflow.contracts import analytics as found
from chatflow.edge.compat import analytics

_AT = datetime(2026, 11, 23, 17, 54, 10, 168_999, UTC)
_TEXT = found.StoredText("id-1", 7, 12345, "user12345", "Hello", "TEXT", _AT)


def shown(value: object) -> Any:
    """As a client reads it."""
    return msgspec.json.decode(msgspec.json.encode(value))


def core_queries(**answers: Any) -> Any:
    """With nothing found but these."""
    nothing: dict[str, Any] = {
        "room_messages": found.Timed(1, 0, []),
        "user_messages": found.Timed(2, 0, []),
        "active_users": found.Timed(3, 1, 0),
        "user_rooms": found.Timed(4, 0, []),
    }
    return shown(analytics.core_queries(found.CoreQueries(**nothing | answers)))


def test_a_message_of_a_room_and_one_of_a_user() -> None:
    answer = core_queries(room_messages=found.Timed(5, 1000, [_TEXT]), user_messages=found.Timed(6, 1, [_TEXT]))
    assert answer["query1_room_messages"] == {
        "executionTimeMs": 5,
        "resultCount": 1000,
        "sampleData": [
            {
                "message_id": "id-1",
                "user_id": "12345",
                "username": "user12345",
                "message_text": "Hello",
                "message_type": "TEXT",
                "created_at": "2026-11-23T17:54:10.168+00:00",
            }
        ],
    }
    assert answer["query2_user_history"]["sampleData"] == [
        {
            "message_id": "id-1",
            "room_id": "7",
            "message_text": "Hello",
            "message_type": "TEXT",
            "created_at": "2026-11-23T17:54:10.168+00:00",
        }
    ]


def test_active_users_and_the_rooms_of_a_user() -> None:
    rooms = [found.RoomActivity(7, _AT, 42), found.RoomActivity(3, _AT - timedelta(days=1), 1)]
    answer = core_queries(active_users=found.Timed(3, 1, 99), user_rooms=found.Timed(4, 2, rooms))
    assert answer["query3_active_users"] == {"executionTimeMs": 3, "resultCount": 1, "sampleData": {"active_users": 99}}
    assert answer["query4_user_rooms"]["sampleData"] == [
        {"room_id": "7", "last_activity": "2026-11-23T17:54:10.168+00:00", "message_count": 42},
        {"room_id": "3", "last_activity": "2026-11-22T17:54:10.168+00:00", "message_count": 1},
    ]


def test_an_empty_sample_is_null_in_the_first_two_and_a_list_in_the_last() -> None:
    answer = core_queries()
    assert [query["sampleData"] for query in answer.values()] == [None, None, {"active_users": 0}, []]
    assert list(answer) == ["query1_room_messages", "query2_user_history", "query3_active_users", "query4_user_rooms"]


def test_analytics_are_told_as_the_reference_tells_them() -> None:
    answer = shown(
        analytics.analytics(
            found.Analytics(
                found.Rate(300, 2.0, 200),
                [found.TopUser(1, "ann", 10, 2)],
                [found.TopRoom(7, 20, 3)],
                [found.Participation(1, "ann", 8, 1, 1, [3, 7])],
                {"mv_top_users": found.ViewAge(_AT, 1.23456), "mv_top_rooms": found.ViewAge()},
            )
        )
    )
    assert answer == {
        "messages_per_second": {
            "total_messages": 300,
            "duration_seconds": 2.0,
            "avg_msgs_per_second": 150.0,
            "peak_msgs_per_second": 200,
        },
        "top_users": [{"user_id": "1", "username": "ann", "total_messages": 10, "rooms_participated": 2}],
        "top_rooms": [{"room_id": "7", "total_messages": 20, "unique_users": 3}],
        "user_participation": [
            {
                "user_id": "1",
                "username": "ann",
                "text_messages": 8,
                "join_events": 1,
                "leave_events": 1,
                "rooms": ["3", "7"],
            }
        ],
        "views": {
            "mv_top_users": {"refreshed_at": "2026-11-23T17:54:10.168+00:00", "age_seconds": 1.235},
            "mv_top_rooms": {"refreshed_at": None, "age_seconds": None},
        },
    }


@pytest.mark.parametrize("rate", [found.Rate(0, None, None), found.Rate(1, 0.0, 1)], ids=str)
def test_without_time_between_messages_there_is_no_average(rate: found.Rate) -> None:
    answer = shown(analytics.analytics(found.Analytics(rate, [], [], [], {})))["messages_per_second"]
    assert (answer["avg_msgs_per_second"], answer["duration_seconds"]) == (None, rate.seconds)


def test_stats_and_throughput_are_told_as_the_reference_tells_them() -> None:
    assert shown(analytics.stats(found.Totals(1, 2, 3, 4))) == {
        "total_messages": 1,
        "total_users": 2,
        "total_rooms": 3,
        "active_user_rooms": 4,
    }
    minute = found.MinuteCount(datetime(2026, 11, 23, 17, 54, tzinfo=UTC), 6, 3, 2, 1)
    assert shown(analytics.throughput(found.Throughput([minute], True))) == {
        "minutes": [{"minute": "2026-11-23T17:54:00Z", "messages": 6, "texts": 3, "joins": 2, "leaves": 1}],
        "truncated": True,
    }


@pytest.mark.parametrize(
    ("moment", "text"),
    [
        (datetime(2026, 1, 2, tzinfo=UTC), "2026-01-02T00:00:00.000+00:00"),
        (datetime(2026, 1, 2, 3, 4, 5, 999_999, UTC), "2026-01-02T03:04:05.999+00:00"),
        (datetime(2026, 1, 2, 1, tzinfo=timezone(timedelta(hours=2))), "2026-01-01T23:00:00.000+00:00"),
    ],
    ids=str,
)
def test_a_time_is_cut_to_milliseconds_and_told_in_utc(moment: datetime, text: str) -> None:
    answer = core_queries(user_rooms=found.Timed(1, 1, [found.RoomActivity(1, moment, 1)]))
    assert answer["query4_user_rooms"]["sampleData"][0]["last_activity"] == text


def test_the_time_of_an_answer_is_that_of_the_clock_that_is_given() -> None:
    assert analytics.generated_at(1_764_000_000.25) == "2025-11-24T16:00:00.250000Z"
    assert analytics.generated_at(1_764_000_000) == "2025-11-24T16:00:00Z"
