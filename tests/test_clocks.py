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


def test_stamps_do_not_follow_a_clock_that_is_set() -> None:
    clock, wall = Clock(), [1e9]
    now = StampClock(clock, lambda: wall[0])
    wall[0] -= 3600
    clock.advance(5)
    assert now() == 1e9 + 5
