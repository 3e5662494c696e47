"""How long SQS is asked to hide what is received."""

from __future__ import annotations

from twisted.internet.task import Clock

from chatflow.broker.visibility import Visibility


def test_it_is_short_while_envelopes_are_held_for_moments() -> None:
    visibility = Visibility(Clock(), 4)
    for _ in range(100):
        visibility.observe(1.3)
    assert visibility.seconds == 4


def test_it_follows_at_once_when_they_are_held_for_long_and_slowly_when_they_no_longer_are() -> None:
    visibility = Visibility(Clock(), 4)
    visibility.observe(5.0)
    assert visibility.seconds == 15
    visibility.observe(0.1)
    assert 10 < visibility.seconds < 15
    for _ in range(50):
        visibility.observe(0.1)
    assert visibility.seconds == 4


def test_a_room_never_has_to_wait_for_longer_than_half_a_minute_or_what_was_asked_for() -> None:
    short, long = Visibility(Clock(), 4), Visibility(Clock(), 600)
    for visibility in (short, long):
        visibility.observe(3600.0)
    assert (short.seconds, long.seconds) == (30, 600)


def test_the_longest_outage_is_forgotten_after_a_few_batches() -> None:
    visibility = Visibility(Clock(), 4)
    visibility.observe(3600.0)
    for _ in range(25):
        visibility.observe(0.1)
    assert visibility.seconds == 4


def test_an_outage_is_forgotten_within_seconds_where_nothing_comes() -> None:
    clock = Clock()
    visibility = Visibility(clock, 4)
    for _ in range(8):  # one in each queue
        visibility.observe(60.0)
    assert visibility.seconds == 30
    clock.advance(15)
    assert visibility.seconds == 4


def test_what_is_slow_all_the_time_is_received_for_longer_each_time() -> None:
    clock = Clock()
    visibility = Visibility(clock, 4)
    for _ in range(10):
        clock.advance(6)
        visibility.observe(6.0)
        assert visibility.seconds == 18


def test_an_extension_is_due_while_there_is_time_to_try_it_twice() -> None:
    assert 2 < Visibility.until_late(4) < 3
