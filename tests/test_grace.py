"""The time between the order to stop and the stop."""

from __future__ import annotations

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from chatflow.lifecycle.grace import Grace


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def told() -> list[float]:
    return []


@pytest.fixture
def grace(clock: Clock, told: list[float]) -> Grace:
    return Grace(clock, 25.0, lambda: told.append(clock.seconds()))


def test_it_is_told_at_once_and_over_after_its_time(clock: Clock, told: list[float], grace: Grace) -> None:
    waiting = Deferred.fromCoroutine(grace.wait())
    assert told == [0.0]
    clock.advance(24.9)
    assert not waiting.called
    clock.advance(0.1)
    assert waiting.called


def test_it_can_be_ended_at_any_time(clock: Clock, grace: Grace) -> None:
    grace.end()
    waiting = Deferred.fromCoroutine(grace.wait())
    assert not waiting.called
    grace.end()
    assert waiting.called
    grace.end()
    assert clock.getDelayedCalls() == []


def test_there_may_be_none(clock: Clock, told: list[float]) -> None:
    assert Deferred.fromCoroutine(Grace(clock, 0.0, lambda: told.append(1)).wait()).called
    assert told == [1]
