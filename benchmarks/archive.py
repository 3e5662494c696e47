"""Reads, analytics and refreshes over many messages of many days."""

from __future__ import annotations

import argparse
import random
import statistics
import threading
import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from functools import partial

import attrs
import psycopg2

from benchmarks.micro import Maker, database
from benchmarks.results import Result
from chatflow.contracts.archive import PageCursor
from chatflow.persistence import analytics, archive, partitions
from chatflow.persistence.commit import commit_in_thread
from chatflow.persistence.driver import Cursor
from chatflow.persistence.recount import recount_in_thread
from chatflow.persistence.refresh import refresh_in_thread
from chatflow.persistence.rollups import COUNTS_BY_TYPE

_ROOMS = 20
_USERS = 100_000
_WINDOW_MESSAGES = 500_000
_COMMITS_BETWEEN_REFRESHES = 40
#: Of the reference's four core queries, in ms: its own figures, on Aurora, over 500,000 messages.
_CORE_GOALS = (42, 118, 287, 21)

# Message g of all, in the order of time, is in room g % 20 + 1: so each room's seqs have no hole.
_FILL = """
INSERT INTO messages (room_id, seq, created_at, message_id, user_id, username, message_text, message_type, server_id,
                      client_ip, client_timestamp)
SELECT g %% %(rooms)s + 1, g / %(rooms)s + 1, at, gen_random_uuid(), who, 'user' || who,
       'The build is green, let us ship it ~' || to_hex(g),
       CASE WHEN g %% 20 = 7 THEN 'JOIN' WHEN g %% 20 = 13 THEN 'LEAVE' ELSE 'TEXT' END, 'server-1', '127.0.0.1', at
FROM (SELECT g, %(begin)s::timestamptz + (g - %(first)s) * %(step)s * interval '1 microsecond' AS at,
             1 + (hashint8(g)::bigint + 2147483648) %% %(users)s AS who
      FROM generate_series(%(first)s::bigint, %(last)s::bigint) AS g) AS made
"""

_ROLL_UP = (
    f"""INSERT INTO user_activity
       SELECT user_id, room_id, max(username), count(*), {COUNTS_BY_TYPE},
              min(created_at), max(created_at)
       FROM messages GROUP BY 1, 2""",
    f"""INSERT INTO message_stats_minute
       SELECT room_id, date_trunc('minute', created_at), count(*), {COUNTS_BY_TYPE}
       FROM messages GROUP BY 1, 2""",
    """INSERT INTO rooms (room_id, last_seq, last_activity)
       SELECT room_id, max(seq), max(created_at) FROM messages GROUP BY 1""",
)


def add_to(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Register the benchmark; see :mod:`benchmarks.__main__`."""
    parser = add("archive", help="pages, core queries, refresh and recount over 10,000,000 messages of 30 days")
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--reads", type=int, default=1000, help="of each kind of page")
    parser.add_argument("--queries", type=int, default=100, help="windows for the core queries")
    parser.add_argument("--refreshes", type=int, default=5)
    parser.set_defaults(run=_archive)


def _archive(arguments: argparse.Namespace) -> Result:
    result = Result("archive")
    with database() as url, closing(psycopg2.connect(url)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute("SET TimeZone = 'UTC'")
            begin = fill(url, cursor, arguments.rows, arguments.days)
            _pages(result, cursor, arguments, begin)
            _core_queries(result, cursor, arguments, begin)
        _refresh(result, url, arguments.refreshes)
        began = time.perf_counter()
        with closing(psycopg2.connect(url)) as own:
            for check in recount_in_thread(own):
                result.faults += [f"{check.name}: {difference}" for difference in check.differences]
        result.add("recount of everything", time.perf_counter() - began, "s")
    return result


def fill(url: str, cursor: Cursor, rows: int, days: int) -> datetime:
    """Messages of some days up to today, with heads and rollups that agree with them; the begin of the first day."""
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    begin = today - timedelta(days=days)
    per_day = rows // days
    began = time.perf_counter()
    cursor.execute("DROP INDEX messages_user")  # made anew at the end, in a third of the time
    with closing(psycopg2.connect(url)) as own, own, own.cursor() as transaction:
        partitions.create_ahead(transaction, begin.date(), days)
    for day in range(days):
        cursor.execute(
            _FILL,
            {
                "rooms": _ROOMS,
                "users": _USERS,
                "begin": begin + timedelta(days=day),
                "first": day * per_day,
                "last": (day + 1) * per_day - 1,
                "step": 86_400_000_000 // per_day,
            },
        )
        print(f"{day + 1} of {days} days, {time.perf_counter() - began:.0f} s", flush=True)
    for statement in _ROLL_UP:
        cursor.execute(statement)
    cursor.execute("CREATE INDEX messages_user ON messages (user_id, created_at)")
    cursor.execute("VACUUM ANALYZE")
    print(f"filled in {time.perf_counter() - began:.0f} s", flush=True)
    return begin


def _pages(result: Result, cursor: Cursor, arguments: argparse.Namespace, begin: datetime) -> None:
    chance = random.Random(1)
    heads = arguments.rows // _ROOMS
    seconds: dict[str, list[float]] = {"page of a room": [], "page of a user": []}
    for _ in range(arguments.reads):
        room, before = chance.randint(1, _ROOMS), chance.randint(1 + heads // 100, heads)
        seconds["page of a room"].append(
            _timed(partial(archive.room_messages_in_thread, cursor, room, None, before, 101))
        )
        at = begin + timedelta(seconds=chance.uniform(0, arguments.days * 86_400))
        place = PageCursor(int(at.timestamp() * 1e6), 1, 1)
        user = chance.randint(1, _USERS)
        seconds["page of a user"].append(
            _timed(partial(archive.user_messages_in_thread, cursor, user, None, place, None, None, 101))
        )
    for name, values in seconds.items():
        result.add(f"{name}, p50", _quantile(values, 0.5), "ms")
        result.add(f"{name}, p99", _quantile(values, 0.99), "ms", ("<=", 10))
    result.raw["pages"] = seconds


def _core_queries(result: Result, cursor: Cursor, arguments: argparse.Namespace, begin: datetime) -> None:
    chance = random.Random(2)
    length = timedelta(days=arguments.days * min(1.0, _WINDOW_MESSAGES / arguments.rows))
    seconds: dict[str, list[float]] = {}
    for _ in range(arguments.queries):
        start = begin + (timedelta(days=arguments.days) - length) * chance.random()
        window = analytics.Window(start.isoformat(), (start + length).isoformat())
        found = analytics.core_queries_in_thread(cursor, window, chance.randint(1, _USERS), chance.randint(1, _ROOMS))
        for name, query in attrs.asdict(found, recurse=False).items():
            seconds.setdefault(name, []).append(query.milliseconds / 1000)
    for (name, values), goal in zip(seconds.items(), _CORE_GOALS, strict=True):
        result.add(f"{name}, p50", _quantile(values, 0.5), "ms")
        result.add(f"{name}, p99", _quantile(values, 0.99), "ms", ("<=", goal))
    result.raw["core queries"] = seconds


def _refresh(result: Result, url: str, refreshes: int) -> None:
    """Commits of 1,000 messages, without and with a refresh going on, in turn, so that both see the same machine."""
    make = Maker()
    with closing(psycopg2.connect(url)) as connection:
        commits: dict[bool, list[float]] = {False: [], True: []}

        def commit() -> None:
            with connection, connection.cursor() as cursor:
                commit_in_thread(cursor, make.batch(1))

        seconds = []
        for _ in range(refreshes):
            commits[False] += [_timed(commit) for _ in range(_COMMITS_BETWEEN_REFRESHES)]
            refresh = threading.Thread(target=refresh_in_thread, args=(url, "benchmark"))
            began = time.perf_counter()
            refresh.start()
            while refresh.is_alive():
                commits[True].append(_timed(commit))
            refresh.join()
            seconds.append(time.perf_counter() - began)
    result.add("refresh of all views, p50", statistics.median(seconds), "s")
    result.raw["refresh"] = {"refreshes": seconds, "without": commits[False], "with": commits[True]}
    medians = {during: statistics.median(values) for during, values in commits.items()}
    result.add("commit of 1,000 rows, p50", medians[False] * 1000, "ms")
    result.add("the same during a refresh", medians[True] * 1000, "ms")
    result.add("ratio", medians[True] / medians[False], "", ("<=", 1.5))


def _timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _quantile(seconds: list[float], share: float) -> float:
    """In ms."""
    return sorted(seconds)[min(len(seconds) - 1, int(share * len(seconds)))] * 1000
