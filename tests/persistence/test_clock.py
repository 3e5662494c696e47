"""The clock here is compared with a real database's, and what is found wrong is told once."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest
from twisted.internet.task import Clock

from chatflow.errors import Unavailable
from chatflow.lifecycle.clocks import StampClock
from chatflow.persistence.clock_watch import ClockWatch
from chatflow.persistence.database import Database, SessionLimits
from testbed.postgres import execute
from tests.support.reactor import on_reactor, reactor


class Here:
    """A machine whose clock may be set."""

    def __init__(self, database: Database) -> None:
        self.step = 0.0
        self.told: list[str] = []
        self.durations = Clock()
        self.stamps = StampClock(self.durations, lambda: time.time() + self.step)
        self.watch = ClockWatch(
            seconds=self.durations.seconds,
            database=database,
            stamps=self.stamps,
            on_wrong=lambda: self.told.append("wrong"),
            on_right=lambda: self.told.append("right"),
        )


@pytest.fixture
def here(database_url: str) -> Iterator[Callable[[], Here]]:
    limits = SessionLimits(application_name="clock")
    database = Database(reactor=reactor, url=database_url, connections=1, limits=limits)
    database.start()
    yield lambda: Here(database)
    database.stop()


@on_reactor
async def test_it_is_told_once_when_the_clock_here_is_wrong_and_once_when_it_is_right(
    here: Callable[[], Here],
) -> None:
    machine = here()
    assert await machine.watch.compare()
    for step in (-3600, -3700, 0, 0, 86_400, 0):
        machine.step = step
        assert await machine.watch.compare()
    assert machine.told == ["wrong", "right", "wrong", "right"]
    assert abs(machine.stamps.off_seconds) < 5


class Server:
    """A database whose clock may be set; an answer may take long, or not come, or something may happen meanwhile."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.step = self.takes_seconds = 0.0
        self.meanwhile: Callable[[], object] = lambda: None
        self.away = False

    async def run_once(self, name: str, transaction_in_thread: Callable[..., Any], *arguments: Any) -> Any:
        if self.away:
            raise Unavailable(name)
        return transaction_in_thread(self, *arguments)

    def execute(self, sql: str, values: object = ()) -> None:
        self.asked = sql
        self.clock.advance(self.takes_seconds)
        self.meanwhile()

    def fetchall(self) -> list[tuple[float]]:
        if "message_stats_minute" in self.asked:
            return [(False,)]  # nothing is stored
        return [(1e9 + self.clock.seconds() + self.step,)]


class Retention:
    """Two machines on one clock of durations."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.server: Any = Server(self.clock)
        self.step = 0.0
        self.stamps = StampClock(self.clock, lambda: 1e9 + self.clock.seconds() + self.step)
        self.watch = ClockWatch(
            seconds=self.clock.seconds,
            database=cast(Any, self.server),
            stamps=self.stamps,
            on_wrong=lambda: None,
            on_right=lambda: None,
        )

    async def hours_pass(self, hours: float) -> None:
        for _ in range(round(hours * 60)):
            self.clock.advance(60)
            await self.watch.compare()


@on_reactor
async def test_retention_waits_for_an_hour_after_the_start() -> None:
    machine = Retention()
    assert not await machine.watch.may_drop()
    await machine.hours_pass(1)
    assert await machine.watch.may_drop()


@pytest.mark.parametrize(
    ("minutes", "may_drop"), [(0, False), (45, False), (55, True), (350, True), (370, False), (-86_400, False)]
)
@on_reactor
async def test_retention_does_not_wait_after_a_restart_where_something_was_stored_before_by_the_same_clock(
    here: Callable[[], Here], database_url: str, minutes: int, may_drop: bool
) -> None:
    execute(
        database_url,
        "INSERT INTO message_stats_minute (room_id, minute, message_count, text_count, join_count, leave_count)"
        f" VALUES (1, now() - interval '{minutes} minutes', 1, 1, 0, 0)",
    )
    machine = here()
    assert await machine.watch.may_drop() == may_drop
    machine.step = 3600.0
    assert not await machine.watch.may_drop()
    machine.step = 0.0
    assert not await machine.watch.may_drop(), "a clock was set"


@pytest.mark.parametrize("both", [False, True])
@on_reactor
async def test_retention_waits_for_a_day_after_a_jump_even_one_that_nobody_has_seen_yet(both: bool) -> None:
    machine = Retention()
    await machine.hours_pass(2)
    machine.server.step = 400 * 86_400.0
    machine.step = machine.server.step if both else 0.0
    assert not await machine.watch.may_drop()
    await machine.hours_pass(23)
    assert not await machine.watch.may_drop()
    await machine.hours_pass(2)
    assert await machine.watch.may_drop() == both, "while the clocks differ nothing is certain"


@on_reactor
async def test_a_clock_that_is_set_on_both_sides_during_a_comparison_is_not_wrong() -> None:
    machine = Retention()

    def set_both() -> None:
        machine.step = machine.server.step = 3600.0

    machine.server.meanwhile = set_both
    assert not await machine.watch.compare()
    machine.server.meanwhile = lambda: None
    assert await machine.watch.compare()
    assert not machine.stamps.is_wrong


@on_reactor
async def test_an_answer_that_takes_too_long_or_does_not_come_says_nothing() -> None:
    machine = Retention()
    await machine.hours_pass(2)
    machine.server.step, machine.server.takes_seconds = 3600.0, 3.0
    assert not await machine.watch.compare()
    assert not await machine.watch.may_drop()
    machine.server.step, machine.server.away = 0.0, True
    assert not await machine.watch.compare()
    machine.server.away, machine.server.takes_seconds = False, 0.0
    assert await machine.watch.may_drop()
