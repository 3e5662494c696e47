"""Clocks: the reactor's measures what cannot jump, and the one for stamps does not follow a jump."""

from __future__ import annotations

import time

import pytest
from twisted.internet.epollreactor import EPollReactor
from twisted.internet.task import Clock

from chatflow.lifecycle.clocks import StampClock, make_monotonic, monotonic_seconds


def test_a_reactor_that_was_made_monotonic_keeps_and_tells_time_by_the_same_clock() -> None:
    reactor = make_monotonic(EPollReactor())
    due = reactor.callLater(60, lambda: None)
    assert abs(reactor.seconds() - monotonic_seconds()) < 5
    assert 0 < due.getTime() - monotonic_seconds() <= 60
    assert 0 < reactor.timeout() <= 60
    assert abs(monotonic_seconds() - time.time()) > 86_400  # or this test could not fail


def test_a_reactor_that_has_timers_is_not_given_another_clock() -> None:
    reactor = EPollReactor()
    reactor.callLater(60, lambda: None)
    with pytest.raises(RuntimeError, match="timers already"):
        make_monotonic(reactor)


def test_it_may_be_asked_for_twice() -> None:
    reactor = make_monotonic(EPollReactor())
    reactor.callLater(60, lambda: None)
    assert make_monotonic(reactor) is reactor


class Stepped:
    """Three clocks: that of durations, the machine's and the database's."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.here = self.there = 0.0
        self.stamps = StampClock(self.clock, lambda: self._true() + self.here)
        self.compare()

    def _true(self) -> float:
        return 1e9 + self.clock.seconds()

    def compare(self) -> StampClock:
        self.clock.advance(5)
        self.stamps.compare(self.stamps.here_offset(), 1e9 + self.there)
        return self.stamps

    def off(self) -> float:
        """By how much a stamp is ahead of the true time."""
        return self.stamps() - self._true()


STEPS = [-86_400, -3600, -301, 301, 3600, 86_400]


@pytest.mark.parametrize("step", STEPS)
def test_a_clock_that_was_set_here_is_wrong_until_it_is_set_right_and_moves_no_stamp(step: float) -> None:
    clocks = Stepped()
    clocks.here = step
    assert clocks.off() == 0
    for _ in range(3):
        assert clocks.compare().is_wrong
        assert clocks.off() == 0
    assert clocks.stamps.off_seconds == step
    clocks.here = 0
    assert not clocks.compare().is_wrong
    assert clocks.off() == 0
    assert clocks.stamps.jumps == 2


@pytest.mark.parametrize("step", STEPS)
def test_a_clock_that_was_set_on_the_database_server_takes_no_instance_out_of_service(step: float) -> None:
    clocks = Stepped()
    clocks.there = step
    for _ in range(3):
        assert not clocks.compare().is_wrong
    assert clocks.off() == 0
    assert clocks.stamps.jumps == 1
    clocks.there = 0
    assert not clocks.compare().is_wrong
    assert clocks.off() == 0


@pytest.mark.parametrize("step", STEPS)
def test_stamps_follow_where_both_clocks_were_set(step: float) -> None:
    clocks = Stepped()
    clocks.here = clocks.there = step
    assert clocks.off() == 0
    assert not clocks.compare().is_wrong
    assert clocks.off() == step


def test_a_clock_here_that_drifts_is_wrong_from_five_minutes_on() -> None:
    clocks = Stepped()
    for here in range(0, 301, 5):
        clocks.here = here
        assert not clocks.compare().is_wrong
    assert clocks.stamps.jumps == 0
    clocks.here = 305
    assert clocks.compare().is_wrong
    assert clocks.off() == 0


def test_of_two_clocks_that_both_jump_apart_the_one_here_is_wrong() -> None:
    clocks = Stepped()
    clocks.here, clocks.there = 3600, -3600
    assert clocks.compare().is_wrong


def test_stamps_follow_the_databases_clock_but_not_for_what_a_question_takes() -> None:
    clocks = Stepped()
    clocks.there = 0.9
    clocks.compare()
    assert clocks.off() == 0
    clocks.there = 60
    clocks.compare()
    assert clocks.off() == 60


def test_how_long_no_clock_was_set_begins_anew_with_each_jump_and_while_they_differ() -> None:
    clocks = Stepped()
    clocks.clock.advance(100)
    assert clocks.compare().steady_seconds() == 110
    clocks.there = 20
    assert clocks.compare().steady_seconds() == 0
    clocks.clock.advance(100)
    assert clocks.compare().steady_seconds() == 105


def test_stamps_do_not_follow_a_clock_that_is_set() -> None:
    clock, wall = Clock(), [1e9]
    now = StampClock(clock, lambda: wall[0])
    wall[0] -= 3600
    clock.advance(5)
    assert now() == 1e9 + 5
