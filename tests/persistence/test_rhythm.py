"""Messages are gathered where others come anyway, until they pay for a commit, and a lone one never waits.

Simulated: a clock, messages that come at given times, and a database that needs as long as one was seen to need.
"""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest
from attrs import Factory, define
from twisted.internet.task import Clock

from chatflow.persistence.rhythm import ENOUGH_MESSAGES, Rhythm

_CEILING_SECONDS = 0.004
_STEP_SECONDS = 0.0001


def _commit_seconds(messages: int) -> float:
    return 0.0007 + messages * 0.000008


@define
class Simulation:
    """A database and those who gather for it.

    :ivar batches: the messages of each flush.
    :ivar waits: of each message, until its flush began, without the flush that was under way when it came.
    """

    ceiling_seconds: float = _CEILING_SECONDS
    clock: Clock = Factory(Clock)
    rhythm: Rhythm = Factory(
        lambda self: Rhythm(clock=self.clock, ceiling_seconds=self.ceiling_seconds), takes_self=True
    )
    batches: list[int] = Factory(list)
    waits: list[float] = Factory(list)
    _busy_until: float = 0.0
    _waiting: list[float] = Factory(list)
    _flushing: int = 0

    def run(self, arrivals: Iterable[float]) -> Simulation:
        """Let messages come so many seconds from now, until all are stored."""
        began_at = self.clock.seconds()
        to_come = [began_at + seconds for seconds in arrivals][::-1]
        while to_come or self._waiting or self._flushing:
            self.clock.advance(_STEP_SECONDS)
            now = self.clock.seconds()
            while to_come and to_come[-1] <= now:
                self._waiting.append(to_come.pop())
            self._turn(now)
        return self

    def run_alone(self, messages: int) -> Simulation:
        """Let one sender send each message as soon as the one before is stored."""
        for _ in range(messages):
            self.run([2 * _STEP_SECONDS])
        return self

    def _turn(self, now: float) -> None:
        if self._flushing and now >= self._busy_until:
            self.rhythm.ended(self._flushing)
            self._flushing = 0
        if self._waiting and not self._flushing and not self.rhythm.wait_seconds():
            self.rhythm.began()
            self.batches.append(len(self._waiting))
            self.waits += [now - max(came_at, self._busy_until) for came_at in self._waiting]
            self._flushing, self._waiting = len(self._waiting), []
            self._busy_until = now + _commit_seconds(self._flushing)

    def messages_per_flush(self) -> float:
        return sum(self.batches) / len(self.batches)


def _poisson(per_second: float, seconds: float = 2.0) -> list[float]:
    chance = random.Random(12)
    times: list[float] = []
    at = chance.expovariate(per_second)
    while at < seconds:
        times.append(at)
        at += chance.expovariate(per_second)
    return times


def test_who_sends_one_message_after_the_other_never_waits() -> None:
    simulation = Simulation().run_alone(500)
    assert simulation.batches == [1] * 500
    assert max(simulation.waits) <= _STEP_SECONDS


def test_where_messages_are_few_none_waits() -> None:
    simulation = Simulation().run([0.02 * number for number in range(200)])
    assert max(simulation.waits) <= _STEP_SECONDS


@pytest.mark.parametrize(("per_second", "at_least"), [(500, 2.0), (3465, 15)])
def test_where_others_come_anyway_a_flush_takes_several(per_second: float, at_least: float) -> None:
    gathered = Simulation().run(_poisson(per_second))
    at_once = Simulation(ceiling_seconds=0.0).run(_poisson(per_second))
    assert gathered.messages_per_flush() >= max(at_least, 1.8 * at_once.messages_per_flush())


@pytest.mark.parametrize("per_second", [20, 100, 500, 1000, 3465, 15_000, 40_000])
def test_nobody_waits_longer_than_the_ceiling(per_second: float) -> None:
    assert max(Simulation().run(_poisson(per_second)).waits) <= _CEILING_SECONDS + 5 * _STEP_SECONDS


def test_what_is_enough_for_a_commit_is_not_held_back() -> None:
    gathered = Simulation().run(_poisson(40_000, 1.0))
    assert gathered.messages_per_flush() < 2 * ENOUGH_MESSAGES
    # At such a rate, enough have come as soon as the commit before is done.
    assert sum(gathered.waits) / len(gathered.waits) < 0.001


def test_after_a_rush_whoever_is_left_alone_waits_for_a_few_messages_only() -> None:
    simulation = Simulation().run(_poisson(3465))
    simulation.waits.clear()
    simulation.run_alone(40)
    assert max(simulation.waits[20:]) <= _STEP_SECONDS


def test_after_an_outage_nobody_waits_for_as_long_again() -> None:
    simulation = Simulation().run(_poisson(3465))
    simulation.rhythm.began()
    simulation.clock.advance(60.0)
    simulation.rhythm.ended(1000)
    simulation.rhythm.began()
    assert simulation.rhythm.wait_seconds() < 2.1 * _CEILING_SECONDS


def test_a_flush_for_which_nobody_asked_begins_a_period_too() -> None:
    simulation = Simulation().run(_poisson(3465))
    simulation.clock.advance(1.0)
    simulation.rhythm.began()
    assert 0 < simulation.rhythm.wait_seconds() <= _CEILING_SECONDS + _commit_seconds(ENOUGH_MESSAGES)


def test_with_a_ceiling_of_nothing_a_flush_begins_when_the_one_before_is_done() -> None:
    assert max(Simulation(ceiling_seconds=0.0).run(_poisson(3465)).waits) <= _STEP_SECONDS


def test_after_a_pause_the_first_message_does_not_wait() -> None:
    simulation = Simulation().run(_poisson(3465))
    simulation.waits.clear()
    simulation.run([1.0])
    assert simulation.waits[0] <= _STEP_SECONDS
