"""What a commit costs by its size, and where: the budget of a commit in ``docs/performance.rst``."""

from __future__ import annotations

import argparse
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import psutil
import psycopg2

from benchmarks.micro import USERS, Maker, database
from benchmarks.results import Goal, Result
from chatflow.contracts.envelopes import Envelope
from chatflow.persistence.commit import commit_alone_in_thread
from chatflow.persistence.driver import Connection
from chatflow.persistence.sessions import SessionLimits
from chatflow.persistence.transactions import Transaction

_ROOMS = 20
# What the load client's users come to in a quarter of an hour: then each message finds a counter of its own.
_KNOW_ALL = """
INSERT INTO user_activity
SELECT users.id, rooms.id, 'user' || users.id, 1, 1, 0, 0, now(), now()
FROM generate_series(1, %(users)s) AS users (id), generate_series(1, %(rooms)s) AS rooms (id)
ON CONFLICT DO NOTHING
"""
_GOALS: dict[int, Goal] = {1: ("<=", 0.6), 1000: ("<=", 8.0)}


def add_to(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Register the benchmark; see :mod:`benchmarks.__main__`."""
    sizes = add("commit-sizes", help="a commit of 1, 10, 100 and 1,000 rows: wall time, CPU, round trips")
    sizes.add_argument("--seconds", type=float, default=20.0, help="how long, all sizes together")
    sizes.add_argument("--rows", type=int, nargs="*", default=[1, 10, 100, 1000])
    sizes.add_argument("--known", action="store_true", help="with the counters of all users in all rooms there already")
    sizes.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> Result:
    result = Result("commit-sizes")
    make = Maker()
    samples: dict[int, dict[str, list[float]]] = {rows: defaultdict(list) for rows in arguments.rows}
    with database() as url, closing(psycopg2.connect(url)) as connection:
        connection.autocommit = True  # as the daemon's
        backend = psutil.Process(connection.info.backend_pid)
        for rows in arguments.rows * 3:  # so that rooms, plans and caches are there
            _commit(connection, backend, _envelopes(make, rows))
        if arguments.known:
            with connection.cursor() as cursor:
                cursor.execute(_KNOW_ALL, {"users": USERS, "rooms": _ROOMS})
                cursor.execute("ANALYZE user_activity")
                cursor.execute("CHECKPOINT")
        ends = time.perf_counter() + arguments.seconds
        spent = dict.fromkeys(arguments.rows, 0.0)
        # In turns, each for as long: what happens to the machine happens to all sizes.
        while time.perf_counter() < ends:
            rows = min(spent, key=lambda each: spent[each])
            began = time.perf_counter()
            for what, milliseconds in _commit(connection, backend, _envelopes(make, rows)).items():
                samples[rows][what].append(milliseconds)
            spent[rows] += time.perf_counter() - began
    result.raw["milliseconds"] = samples
    for rows, sample in samples.items():
        found = dict(sample)
        whole = found.pop("whole")
        result.add(f"commit of {rows:,} rows", statistics.median(whole), "ms", _GOALS.get(rows))
        result.add("  the fastest tenth, without neighbours", sorted(whole)[len(whole) // 10], "ms")
        # processor time comes in ticks: only its mean means anything
        result.add("  CPU of PostgreSQL", statistics.fmean(found.pop("cpu of postgresql")), "ms")
        result.add("  CPU of its thread", statistics.fmean(found.pop("cpu of the thread")), "ms")
        for what, each in found.items():
            result.add(f"  {what}", statistics.median(each), "" if what == "round trips" else "ms")
    return result


def _envelopes(make: Maker, rows: int) -> list[Envelope]:
    """In as many rooms as there are, evenly."""
    rooms = min(rows, _ROOMS)
    return [
        Envelope(
            make.id(), room, "server-1", tuple(make.message() for _ in range(rows // rooms + (room <= rows % rooms)))
        )
        for room in range(1, rooms + 1)
    ]


def _commit(connection: Connection, backend: psutil.Process, envelopes: list[Envelope]) -> dict[str, float]:
    """A batch as the daemon commits it: milliseconds of the whole, and of its parts."""
    before = backend.cpu_times()
    thread, began = time.thread_time(), time.perf_counter()
    with _TimedTransaction(connection, SessionLimits()) as transaction:
        commit_alone_in_thread(transaction, envelopes)
    whole, thread = time.perf_counter() - began, time.thread_time() - thread
    after = backend.cpu_times()
    round_trips = transaction.seconds
    return {
        "whole": whole * 1000,
        "cpu of postgresql": (after.user + after.system - before.user - before.system) * 1000,
        "cpu of the thread": thread * 1000,
        "waiting for PostgreSQL, fsync included": sum(round_trips) * 1000,
        "before and after": (whole - sum(round_trips)) * 1000,
        "round trips": len(round_trips),
    }


class _TimedTransaction(Transaction):
    """:ivar seconds: of each round trip."""

    def __init__(self, connection: Connection, limits: SessionLimits) -> None:
        super().__init__(connection, limits)
        self.seconds: list[float] = []

    def execute(self, query: Any, vars: Any = None) -> None:
        with self._timed():
            super().execute(query, vars)

    def execute_alone(self, query: str, vars: Any = None) -> None:
        with self._timed():
            super().execute_alone(query, vars)

    @contextmanager
    def _timed(self) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.seconds.append(time.perf_counter() - began)
