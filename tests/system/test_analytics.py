"""Analytics in the reference's shapes: what it would have answered, without what it got wrong."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import psycopg2
import pytest

from chatflow.persistence.refresh import VIEWS
from testbed.client import ChatClient
from testbed.daemon import Daemon, running_daemon
from testbed.postgres import fresh_database
from testbed.postgres_proxy import PostgresProxy
from testbed.waiting import eventually

DAEMON_OPTIONS = ("--rooms", "20", "--refresh-views-seconds", "0")

WINDOW = "testStartTime=2020-01-01T00:00:00Z&testEndTime=2099-01-01T00:00:00Z"
_WAITING_FOR_A_LOCK = (
    "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'chatflow-views%%' AND wait_event_type = 'Lock'"
)
NEVER = "testStartTime=2020-01-01T00:00:00Z&testEndTime=2020-01-01T00:00:00Z"


def get(daemon: Daemon, path: str, status: int = 200) -> Any:
    answer = daemon.get(f"/api/metrics/{path}")
    assert answer.status == status, answer.body
    return answer.json()


def refresh(daemon: Daemon) -> None:
    answer = daemon.get("/api/metrics/refresh-views", method="POST")
    assert (answer.status, answer.json()["status"]) == (200, "success")


@pytest.fixture(scope="module")
def said(daemon: Daemon) -> None:
    """User 1: 12 texts in room 1, a JOIN in room 2. User 2: a LEAVE in room 1."""
    with ChatClient(daemon.chat_url(1)) as one, ChatClient(daemon.chat_url(2)) as two:
        for number in range(12):
            one.send(f"{number}", userId="1", username="ann")
        one.send("x", userId="2", username="bob", messageType="LEAVE")
        for _ in range(13):
            one.receive_kind("broadcast")
        two.send("y", userId="1", username="ann", messageType="JOIN")
        two.receive_kind("broadcast")
    refresh(daemon)


@pytest.mark.usefixtures("said")
class TestAnswers:
    def test_the_core_queries_answer_in_the_references_shape(self, daemon: Daemon) -> None:
        found = get(daemon, f"core-queries?{WINDOW}&sampleUserId=user-1&sampleRoomId=1")
        room, user, active, rooms = found.values()
        assert list(found) == [
            *("query1_room_messages", "query2_user_history", "query3_active_users", "query4_user_rooms")
        ]
        assert (room["resultCount"], user["resultCount"], active["resultCount"], rooms["resultCount"]) == (13, 13, 1, 2)
        assert [one["message_text"] for one in room["sampleData"]] == ["x", "11", "10", "9", "8"]
        assert room["sampleData"][0].keys() == {
            *("message_id", "user_id", "username", "message_text", "message_type", "created_at")
        }
        assert room["sampleData"][0]["created_at"].endswith("+00:00")
        assert user["sampleData"][0].keys() == {
            *("message_id", "room_id", "message_text", "message_type", "created_at")
        }
        assert active["sampleData"] == {"active_users": 2}
        assert [(one["room_id"], one["message_count"]) for one in rooms["sampleData"]] == [("2", 1), ("1", 12)]
        assert all(isinstance(one["executionTimeMs"], int) for one in found.values())

    @pytest.mark.parametrize("user", ["1", "user1", "user-1", "user001"])
    def test_a_user_may_be_named_as_the_references_plans_do(self, daemon: Daemon, user: str) -> None:
        found = get(daemon, f"core-queries?{WINDOW}&sampleUserId={user}")
        assert (found["query2_user_history"]["resultCount"], found["query4_user_rooms"]["resultCount"]) == (13, 2)

    @pytest.mark.parametrize("user", ["user1000", "bob", "0", "100001", "9" * 64, "user--1", "%00", "", "%F0%9F%98%80"])
    def test_of_any_other_user_there_are_no_messages(self, daemon: Daemon, user: str) -> None:
        found = get(daemon, f"core-queries?{WINDOW}&sampleUserId={user}")
        assert (found["query2_user_history"]["resultCount"], found["query2_user_history"]["sampleData"]) == (0, None)
        assert (found["query4_user_rooms"]["resultCount"], found["query4_user_rooms"]["sampleData"]) == (0, [])
        assert found["query1_room_messages"]["resultCount"] == 13

    @pytest.mark.parametrize("path", ["all", "core-queries", "analytics", "stats", "throughput"])
    def test_parameters_that_it_does_not_know_are_ignored(self, daemon: Daemon, path: str) -> None:
        get(daemon, f"{path}?{WINDOW}&sampleUserId=user7&unknown=1&unknown=2")

    def test_a_window_without_messages_is_empty(self, daemon: Daemon) -> None:
        found = get(daemon, f"core-queries?{NEVER}&sampleUserId=99999")
        assert [one["sampleData"] for one in found.values()] == [None, None, {"active_users": 0}, []]
        assert get(daemon, f"analytics?{NEVER}")["messages_per_second"] == {
            "total_messages": 0, "duration_seconds": None, "avg_msgs_per_second": None, "peak_msgs_per_second": None,
        }  # fmt: skip

    def test_analytics_of_a_user_with_more_than_ten_messages_do_not_fail(self, daemon: Daemon) -> None:
        found = get(daemon, f"analytics?{WINDOW}")
        assert found["messages_per_second"]["total_messages"] == 14
        assert 1 <= found["messages_per_second"]["peak_msgs_per_second"] <= 14
        assert found["top_users"] == [
            {"user_id": "1", "username": "ann", "total_messages": 13, "rooms_participated": 2},
            {"user_id": "2", "username": "bob", "total_messages": 1, "rooms_participated": 1},
        ]
        assert found["top_rooms"] == [
            {"room_id": "1", "total_messages": 13, "unique_users": 2},
            {"room_id": "2", "total_messages": 1, "unique_users": 1},
        ]
        assert found["user_participation"][0] == {
            "user_id": "1", "username": "ann", "text_messages": 12, "join_events": 1, "leave_events": 0,
            "rooms": ["1", "2"],
        }  # fmt: skip

    def test_stats_and_throughput_count_what_is_stored(self, daemon: Daemon) -> None:
        stats = {"total_messages": 14, "total_users": 2, "total_rooms": 2, "active_user_rooms": 3}
        assert get(daemon, "stats") == stats
        throughput = get(daemon, f"throughput?{WINDOW}")
        assert sum(minute["messages"] for minute in throughput["minutes"]) == 14
        assert throughput["truncated"] is False
        assert sum(minute["joins"] for minute in get(daemon, f"throughput?{WINDOW}&roomId=2")["minutes"]) == 1

    def test_all_of_it_together(self, daemon: Daemon) -> None:
        found = get(daemon, f"all?{WINDOW}")
        assert found["test_period"] == {
            "start_time": "2020-01-01T00:00:00Z", "end_time": "2099-01-01T00:00:00Z", "duration_seconds": 2493072000,
        }  # fmt: skip
        assert found["analytics"].keys() == get(daemon, f"analytics?{WINDOW}").keys()
        assert found["core_queries"].keys() == get(daemon, f"core-queries?{WINDOW}").keys()
        assert found["database_stats"] == get(daemon, "stats")
        assert found["generated_at"].endswith("Z")

    def test_a_view_is_as_old_as_it_says_and_is_refreshed_only_when_asked(self, daemon: Daemon) -> None:
        daemon.sql("UPDATE view_refreshes SET refreshed_at = now() - interval '6 s'")
        before = get(daemon, f"analytics?{WINDOW}")["views"]
        assert before.keys() == {"mv_top_users", "mv_top_rooms", "mv_hourly_stats", "mv_user_participation"}
        assert (
            get(daemon, f"analytics?{WINDOW}")["views"]["mv_top_users"]["refreshed_at"]
            == (before["mv_top_users"]["refreshed_at"])
        )
        refresh(daemon)
        after = get(daemon, f"analytics?{WINDOW}")["views"]
        assert all(after[view]["refreshed_at"] > before[view]["refreshed_at"] for view in before)
        assert all(0 <= one["age_seconds"] < 60 for one in after.values())
        daemon.sql("UPDATE view_refreshes SET refreshed_at = now() + interval '1 minute'")
        answer = daemon.get("/api/metrics/refresh-views", method="POST")
        assert answer.json()["message"].endswith(" s ago, so not again now")

    def test_while_another_instance_refreshes_it_says_so(self, daemon: Daemon) -> None:
        with daemon.held_refresh():
            answer = daemon.get("/api/metrics/refresh-views", method="POST")
            assert "another instance" in answer.json()["message"]


@pytest.mark.parametrize("path", ["all", "core-queries", "analytics"])
@pytest.mark.parametrize(
    ("query", "told"),
    [
        (f"{WINDOW}&sampleRoomId=21", "Invalid roomId, must be 1-20"),
        ("testStartTime=yesterday&testEndTime=2026-01-01T00:00:00Z", "Invalid timestamp format, use ISO-8601"),
        ("testStartTime=2026-01-02T00:00:00Z&testEndTime=2026-01-01T00:00:00Z", "testEndTime must be after"),
        ("testStartTime=2026-01-02T00:00:00Z", "testEndTime is missing"),
        (f"{WINDOW}&sampleUserId={'x' * 65}", "sampleUserId must be a userId of at most 64 characters"),
    ],
)
def test_what_is_wrong_is_said_everywhere_alike(daemon: Daemon, path: str, query: str, told: str) -> None:
    if path == "analytics" and "sample" in query:
        get(daemon, f"{path}?{query}")  # it has no such parameter
        return
    answer = get(daemon, f"{path}?{query}", 400)
    assert list(answer) == ["error"]
    assert answer["error"].startswith(told)


def test_a_view_that_was_never_refreshed_has_no_age() -> None:
    with (
        fresh_database() as url,
        running_daemon("--refresh-views-seconds", "0", database=url) as daemon,
    ):
        never = {"refreshed_at": None, "age_seconds": None}
        assert get(daemon, f"analytics?{WINDOW}")["views"] == dict.fromkeys(VIEWS, never)


class TestRefreshing:
    def test_while_it_takes_its_time_the_others_answer(self, daemon: Daemon) -> None:
        daemon.sql("UPDATE view_refreshes SET refreshed_at = now() - interval '1 minute'")
        with closing(psycopg2.connect(daemon.database_url)) as connection:
            with connection.cursor() as cursor:
                cursor.execute("LOCK TABLE user_activity IN ACCESS EXCLUSIVE MODE")
            with ThreadPoolExecutor(1) as pool:
                asked = pool.submit(daemon.get, "/api/metrics/refresh-views", method="POST")
                eventually(lambda: daemon.sql(_WAITING_FOR_A_LOCK)[0][0] == 1, "the refresh is under way")
                assert get(daemon, f"throughput?{WINDOW}").keys() == {"minutes", "truncated"}
                assert not asked.done()
                connection.rollback()
                assert asked.result().status == 200

    def test_a_failure_has_the_references_shape(self, module_database_url: str) -> None:
        with PostgresProxy(module_database_url) as proxy, running_daemon(database=proxy.url) as daemon:
            proxy.cut()
            answer = daemon.get("/api/metrics/refresh-views", method="POST")
            assert (answer.status, answer.headers["retry-after"]) == (503, "1")
            assert answer.json().keys() == {"status", "message"}
            assert answer.json()["status"] == "error"


def test_refreshing_wants_a_post(daemon: Daemon) -> None:
    answer = daemon.get("/api/metrics/refresh-views")
    assert (answer.status, answer.headers["allow"]) == (405, "OPTIONS, POST")


def test_views_are_refreshed_on_a_timer(module_database_url: str) -> None:
    with running_daemon("--refresh-views-seconds", "0.5", database=module_database_url) as daemon:
        count = "SELECT count(*), min(server_id) FROM view_refreshes WHERE refreshed_at > now() - interval '3 s'"
        eventually(lambda: daemon.sql(count)[0][0] == 4, "all four are fresh")
