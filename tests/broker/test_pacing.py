"""The gap between calls: none while they are quick and few, growing under pressure up to its bound, and back."""

from __future__ import annotations

import pytest
from twisted.internet.task import Clock

from chatflow.broker.pacing import Pace

_MAX_GAP_SECONDS = 0.8
_BUDGET = 60.0


class Caller:
    """Makes calls at a steady rate, heeding no gap."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.clock.advance(1000.0)
        self.pace = Pace(clock=self.clock, max_gap_seconds=_MAX_GAP_SECONDS, calls_per_second=_BUDGET)

    def call(self, seconds: float, *, per_second: float, round_trip: float | None) -> list[float]:
        """The gap after each call."""
        gaps = []
        for _ in range(round(seconds * per_second)):
            self.clock.advance(1 / per_second)
            self.pace.count(round_trip)
            gaps.append(self.pace.gap_seconds)
        return gaps


@pytest.fixture
def caller() -> Caller:
    return Caller()


def test_no_gap_while_calls_are_quick_and_few(caller: Caller) -> None:
    assert max(caller.call(60, per_second=0.7 * _BUDGET, round_trip=0.01)) == 0.0


def test_the_gap_grows_over_budget_up_to_its_bound_and_no_further(caller: Caller) -> None:
    gaps = caller.call(30, per_second=2 * _BUDGET, round_trip=0.01)
    assert gaps == sorted(gaps)
    assert gaps[-1] == _MAX_GAP_SECONDS


def test_calls_that_wait_by_themselves_count_for_the_budget_only(caller: Caller) -> None:
    caller.call(30, per_second=2 * _BUDGET, round_trip=None)
    assert caller.pace.gap_seconds == _MAX_GAP_SECONDS
    assert caller.pace.round_trip_seconds == 0.0


def test_the_gap_grows_while_the_round_trip_is_well_above_its_base(caller: Caller) -> None:
    caller.call(10, per_second=10, round_trip=0.02)
    assert caller.pace.gap_seconds == 0.0
    caller.call(3, per_second=10, round_trip=0.3)
    assert caller.pace.gap_seconds > 0.0
    assert caller.pace.base_seconds == pytest.approx(0.02, rel=0.2)


def test_a_round_trip_of_twice_its_base_is_no_pressure(caller: Caller) -> None:
    caller.call(10, per_second=10, round_trip=0.02)
    assert max(caller.call(10, per_second=10, round_trip=0.04)) == 0.0


def test_a_slow_call_among_quick_ones_is_no_pressure(caller: Caller) -> None:
    """Where calls queue, every one of them is slow."""
    for round_trip in [0.02, 0.02, 2.0] * 100:
        assert caller.call(0.05, per_second=20, round_trip=round_trip) == [0.0]


def test_a_base_of_next_to_nothing_makes_no_round_trip_look_slow(caller: Caller) -> None:
    caller.call(10, per_second=10, round_trip=0.0005)
    assert max(caller.call(10, per_second=10, round_trip=0.02)) == 0.0


@pytest.mark.parametrize(("rate", "round_trip"), [(2 * _BUDGET, 0.02), (20.0, 0.5)])
def test_the_gap_shrinks_to_nothing_once_the_pressure_is_gone(caller: Caller, rate: float, round_trip: float) -> None:
    caller.call(5, per_second=20, round_trip=0.02)
    caller.call(30, per_second=rate, round_trip=round_trip)
    assert caller.pace.gap_seconds > 0.1
    gaps = caller.call(30, per_second=20, round_trip=0.02)
    assert gaps[-1] == 0.0
    relieved = gaps.index(max(gaps))
    assert gaps[relieved:] == sorted(gaps[relieved:], reverse=True)


def test_the_gap_holds_just_below_the_budget_instead_of_swinging(caller: Caller) -> None:
    caller.call(2, per_second=1.5 * _BUDGET, round_trip=0.01)
    caller.call(5, per_second=0.9 * _BUDGET, round_trip=0.01)
    reached = caller.pace.gap_seconds
    assert 0.0 < reached < _MAX_GAP_SECONDS
    assert set(caller.call(10, per_second=0.9 * _BUDGET, round_trip=0.01)) == {reached}


def test_a_path_that_became_longer_for_good_is_the_new_base(caller: Caller) -> None:
    caller.call(10, per_second=20, round_trip=0.02)
    caller.call(5, per_second=20, round_trip=0.1)
    assert caller.pace.gap_seconds > 0.0
    caller.call(60, per_second=20, round_trip=0.1)
    assert caller.pace.gap_seconds > 0.0, "not before some minutes"
    caller.call(240, per_second=20, round_trip=0.1)
    assert caller.pace.gap_seconds == 0.0


@pytest.mark.parametrize("rate", [5.0, 0.95 * _BUDGET])
def test_how_soon_the_base_is_forgotten_does_not_depend_on_the_rate(caller: Caller, rate: float) -> None:
    caller.call(10, per_second=20, round_trip=0.02)
    before = caller.pace.base_seconds
    caller.call(60, per_second=rate, round_trip=0.1)
    assert caller.pace.base_seconds == pytest.approx(before * 1.27, rel=0.02)


def test_after_hours_of_rest_the_first_call_is_the_base(caller: Caller) -> None:
    caller.call(10, per_second=20, round_trip=0.02)
    caller.clock.advance(1e7)
    caller.pace.count(0.05)
    assert caller.pace.base_seconds < 1e6
    caller.pace.count(0.05)
    assert caller.pace.base_seconds == 0.05


def test_after_a_long_rest_a_single_call_finds_little_left_of_a_burst(caller: Caller) -> None:
    caller.call(30, per_second=2 * _BUDGET, round_trip=0.01)
    caller.clock.advance(60)
    caller.pace.count(0.01)
    assert caller.pace.calls_per_second < 5
    assert caller.pace.gap_seconds < _MAX_GAP_SECONDS


def test_the_wait_is_what_is_left_of_the_gap_since_the_last_call(caller: Caller) -> None:
    caller.call(30, per_second=2 * _BUDGET, round_trip=0.01)
    now = caller.clock.seconds()
    assert caller.pace.wait_seconds(now) == pytest.approx(_MAX_GAP_SECONDS)
    assert caller.pace.wait_seconds(now - 0.5) == pytest.approx(_MAX_GAP_SECONDS - 0.5)
    assert caller.pace.wait_seconds(now - 2.0) == 0.0
    assert caller.pace.wait_seconds(now, share=0.25) == pytest.approx(_MAX_GAP_SECONDS / 4)
    assert caller.pace.wait_seconds(float("-inf")) == 0.0


def test_calls_that_fail_are_pressure_however_few_they_are(caller: Caller) -> None:
    for _ in range(20):
        caller.clock.advance(0.5)
        caller.pace.failed()
    assert caller.pace.gap_seconds > 0.0
    caller.call(30, per_second=5, round_trip=0.01)
    assert caller.pace.gap_seconds == 0.0


def test_a_receive_that_waited_does_not_look_like_a_long_way(caller: Caller) -> None:
    caller.pace.observe("receive_message", 20.0)
    assert caller.pace.round_trip_seconds == 0.0
    caller.pace.observe("send_message_batch", 0.02)
    assert caller.pace.round_trip_seconds == pytest.approx(0.02)
