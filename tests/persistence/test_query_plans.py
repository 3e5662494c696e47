"""How PostgreSQL finds what is asked: by an index, and of the days only those that are asked about."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from typing import Any

import psycopg2
import pytest
from attrs import define, field, frozen

from chatflow.contracts.analytics import Totals
from chatflow.contracts.archive import PageCursor
from chatflow.persistence import analytics, archive, partitions
from chatflow.persistence.analytics import Window
from testbed.postgres import fresh_database

_DAYS = [date(2026, 11, 23) + timedelta(days=number) for number in range(4)]
_ROWS = 6000  # a day, in 500 pages; 20 rooms, 100 users, one every 14.4 s
_LAST_US = int(datetime(2026, 11, 26, 23, 59, tzinfo=UTC).timestamp() * 1e6)

_MESSAGES = """
INSERT INTO messages (room_id, seq, created_at, message_id, user_id, username, message_text, message_type, server_id,
                      client_timestamp)
SELECT g %% 20 + 1, g / 20 + 1, at, gen_random_uuid(), 1 + g * 7 %% 100, 'user', repeat('x', 500), 'TEXT', 's', at
FROM (SELECT g, %s::timestamptz + g * interval '14.4 s' AS at FROM generate_series(0, %s) AS g) AS made
"""
_ROLLUPS = (
    """INSERT INTO message_stats_minute
       SELECT room_id, date_trunc('minute', created_at), count(*), count(*), 0, 0 FROM messages GROUP BY 1, 2""",
    """INSERT INTO user_activity
       SELECT user_id, room_id, 'user', count(*), count(*), 0, 0, min(created_at), max(created_at)
       FROM messages GROUP BY 1, 2""",
    "INSERT INTO rooms (room_id, last_seq) SELECT room_id, max(seq) FROM messages GROUP BY 1",
    "REFRESH MATERIALIZED VIEW mv_top_users",
    "REFRESH MATERIALIZED VIEW mv_user_participation",
)


@frozen
class Plan:
    """:ivar tables: what is read, partitions by their own names.
    :ivar indexes: by which, those of partitions by the name of the whole table's.
    :ivar scans: kinds of scans over ``tables``.
    """

    tables: set[str]
    indexes: set[str]
    scans: set[str]


@define
class Explaining:
    """A cursor that keeps the plan of each statement."""

    cursor: Any
    plans: list[Plan] = field(factory=list)

    def execute(self, sql: str, arguments: Sequence[Any] = ()) -> None:
        if "pg_inherits" in sql:  # how many days there are
            self.cursor.execute(sql, arguments)
            return
        self.cursor.execute(f"EXPLAIN (FORMAT JSON) {sql}", arguments)
        ((found,),) = self.cursor.fetchall()
        nodes = list(_nodes((json.loads(found) if isinstance(found, str) else found)[0]["Plan"]))
        self.plans.append(
            Plan(
                {node["Relation Name"] for node in nodes if "Relation Name" in node},
                {self._of_the_whole(node["Index Name"]) for node in nodes if "Index Name" in node},
                {node["Node Type"] for node in nodes if "Relation Name" in node},
            )
        )
        self.cursor.execute(sql, arguments)

    def fetchall(self) -> Any:
        return self.cursor.fetchall()

    def _of_the_whole(self, index: str) -> str:
        self.cursor.execute("SELECT inhparent::regclass::text FROM pg_inherits WHERE inhrelid = %s::regclass", (index,))
        return next((whole for (whole,) in self.cursor.fetchall()), index)


def _nodes(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for child in node.get("Plans", ()):
        yield from _nodes(child)


@pytest.fixture(scope="module")
def filled() -> Iterator[Any]:
    """A cursor on four days of messages."""
    with fresh_database() as url, closing(psycopg2.connect(url)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute("SET TimeZone = 'UTC'")
            with closing(psycopg2.connect(url)) as own, own, own.cursor() as transaction:
                partitions.create_ahead(transaction, _DAYS[1], 2)
            cursor.execute(_MESSAGES, (_DAYS[0].isoformat(), _ROWS * len(_DAYS) - 1))
            for statement in _ROLLUPS:
                cursor.execute(statement)
            cursor.execute("VACUUM ANALYZE")
            cursor.execute("SELECT count(DISTINCT tableoid) FROM messages")
            assert cursor.fetchone() == (4,)
            # In tables as small as these it is cheapest to read all of them, or of an index.
            cursor.execute("SET enable_seqscan = off")
            cursor.execute("SET enable_indexonlyscan = off")
            yield cursor


@pytest.fixture
def explaining(filled: Any) -> Any:
    return Explaining(filled)


def window(*days: int) -> Window:
    """Some hours of one day, or from one day to another."""
    return Window(f"{_DAYS[days[0]].isoformat()}T10:00:00Z", f"{_DAYS[days[-1]].isoformat()}T14:00:00Z")


def names(*days: int) -> set[str]:
    return {partitions.partition_name(_DAYS[day]) for day in days}


@pytest.mark.parametrize("days", [(1,), (1, 2)])
def test_core_queries_read_by_index_and_only_the_days_of_the_window(explaining: Any, days: tuple[int, ...]) -> None:
    found = analytics.core_queries_in_thread(explaining, window(*days), 8, 3)
    for query in (found.room_messages, found.user_messages, found.active_users, found.user_rooms):
        assert query.count > 0
    room, user, active, rooms = explaining.plans
    for plan in (room, user, active):
        assert plan.tables == names(*days)
    assert room.indexes == {"messages_pkey"}
    assert user.indexes == {"messages_user"}
    assert active.indexes == {"messages_created"}
    assert rooms.indexes == {"user_activity_pkey"}
    assert not any("Seq Scan" in plan.scans for plan in explaining.plans)


def test_the_rate_of_a_window_reads_by_index_and_only_its_days(explaining: Any) -> None:
    found = analytics.analytics_in_thread(explaining, window(1, 2))
    assert found.rate.messages > _ROWS
    rate, _, _, participation, _ = explaining.plans
    assert (rate.tables, rate.indexes) == (names(1, 2), {"messages_created"})
    assert participation.indexes >= {"mv_user_participation_key"}, "the row of each user is not read"


def test_of_equals_those_come_first_whose_ids_are_so_as_texts(filled: Any) -> None:
    for view in ("mv_top_rooms", "mv_top_users"):
        filled.execute(f"REFRESH MATERIALIZED VIEW {view}")
    found = analytics.analytics_in_thread(filled, window(1, 2))
    rooms = [(-one.messages, str(one.room)) for one in found.top_rooms]
    users = [(-one.messages, str(one.user_id)) for one in found.top_users]
    assert (rooms, users) == (sorted(rooms), sorted(users))
    assert len({messages for messages, _ in rooms}) < len(rooms), "some are equal"


def test_some_hours_of_all_rooms_are_found_without_the_rest_of_their_day(filled: Any) -> None:
    hours = window(1)
    filled.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {analytics._RATE}", (hours.start, hours.end))
    ((found,),) = filled.fetchall()
    (scan,) = [node for node in _nodes(found[0]["Plan"]) if node["Node Type"] == "Bitmap Heap Scan"]
    assert scan["Actual Rows"] + scan["Rows Removed by Index Recheck"] < _ROWS / 3, "32 pages at a time"


@pytest.mark.parametrize(("room", "index"), [(None, "message_stats_minute_minute"), (3, "message_stats_minute_pkey")])
def test_throughput_reads_by_index(explaining: Any, room: int | None, index: str) -> None:
    found = analytics.throughput_in_thread(explaining, window(1), room)
    assert found.minutes and not found.truncated
    assert explaining.plans[0].indexes == {index}


def test_throughput_says_when_there_are_more_minutes_than_it_gives(explaining: Any) -> None:
    found = analytics.throughput_in_thread(explaining, window(0, 3), None)
    assert (len(found.minutes), found.truncated) == (1440, True)


def test_stats_count_the_users_in_one_pass_and_no_messages(explaining: Any) -> None:
    assert analytics.stats_in_thread(explaining) == Totals(_ROWS * len(_DAYS), 100, 20, 100)
    (plan,) = explaining.plans
    assert plan.tables == {"rooms", "user_activity"}


def test_pages_read_by_index(explaining: Any) -> None:
    archive.room_messages_in_thread(explaining, 3, None, 100, 10)
    archive.user_messages_in_thread(explaining, 8, None, PageCursor(_LAST_US, 1, 1), None, None, 10)
    archive.user_rooms_in_thread(explaining, 8)
    archive.room_heads_in_thread(explaining, 0, 10)
    assert [plan.indexes for plan in explaining.plans] == [
        {"messages_pkey"},
        {"messages_user"},
        {"user_activity_pkey"},
        {"rooms_pkey"},
    ]
    assert not any("Seq Scan" in plan.scans for plan in explaining.plans)


@pytest.mark.parametrize("after", [None, PageCursor(_LAST_US - 86_400_000_000 * 2, 1, 1)])
def test_a_users_page_reads_only_the_days_between_its_bounds(explaining: Any, after: PageCursor | None) -> None:
    day_us = 86_400_000_000
    from_us, to_us = _LAST_US - 2 * day_us, _LAST_US - day_us
    archive.user_messages_in_thread(explaining, 8, after, None, from_us, to_us, 10)
    (plan,) = explaining.plans
    assert (plan.tables, plan.indexes) == (names(1, 2), {"messages_user"})


def test_a_new_days_partition_has_every_index_of_the_others_with_its_parameters(filled: Any) -> None:
    filled.execute(
        "SELECT reloptions FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid JOIN pg_am ON pg_am.oid = relam"
        " WHERE amname = 'brin' AND relkind = 'i'"
    )
    assert filled.fetchall() == [(["pages_per_range=32", "autosummarize=on"],)] * 5  # with the default partition
