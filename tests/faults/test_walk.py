"""A walk's seed says all of it, and no fault is left out of a long one."""

from __future__ import annotations

from benchmarks.faults.catalogue import FAULTS
from benchmarks.faults.walk import legs, walk

_ALL = list(FAULTS.values())


def test_the_same_seed_does_the_same_things_in_the_same_order() -> None:
    assert list(walk(_ALL, 7, 600)) == list(walk(_ALL, 7, 600))
    assert list(walk(_ALL, 7, 600)) == list(walk(_ALL[::-1], 7, 600)), "whatever the order of the list"
    assert list(walk(_ALL, 7, 600)) != list(walk(_ALL, 8, 600))


def test_a_longer_walk_begins_as_a_shorter_one() -> None:
    short, long = list(walk(_ALL, 7, 100)), list(walk(_ALL, 7, 1000))
    assert 0 < len(short) < len(long)
    assert long[: len(short)] == short


def test_no_fault_comes_again_before_all_others_came() -> None:
    steps = list(walk(_ALL, 3, 3600))
    first = [step.fault.name for step in steps[: len(_ALL)]]
    assert sorted(first) == sorted(FAULTS)
    assert len(steps) > 2 * len(_ALL)


def test_a_fault_lasts_no_longer_than_is_wanted() -> None:
    assert all(1.0 <= step.hold_seconds <= 4.0 for step in walk(_ALL, 5, 3600, longest_seconds=4.0))


def test_legs_are_all_of_the_walk() -> None:
    steps = list(walk(_ALL, 5, 300))
    assert [step for leg in legs(steps, 4) for step in leg] == steps
