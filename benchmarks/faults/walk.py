"""A sequence of faults drawn from a seed: the same seed, the same sequence, on whatever machine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random

from benchmarks.faults.fault import Fault
from benchmarks.faults.trial import Step

_SHORTEST_SECONDS = 1.0


def walk(faults: Sequence[Fault], seed: int, seconds: float, longest_seconds: float = 15.0) -> Iterator[Step]:
    """Steps until their planned seconds are over: how long they take in the end changes nothing.

    :param faults: to draw from. Each comes once before any comes again, so that a long walk leaves none out.
    :param longest_seconds: that a fault lasts.
    """
    random = Random(seed)
    left = seconds
    bag: list[Fault] = []
    while left > 0:
        if not bag:
            bag = sorted(faults, key=lambda one: one.name)
            random.shuffle(bag)
        fault = bag.pop()
        most = min(longest_seconds, max(_SHORTEST_SECONDS, fault.hold_seconds))
        step = Step(fault, round(random.uniform(_SHORTEST_SECONDS, most), 1), random.randrange(1 << 30))
        left -= step.hold_seconds + fault.more_seconds
        yield step


def legs(steps: Sequence[Step], count: int) -> Iterator[Sequence[Step]]:
    """So many steps at a time, which share a run of load."""
    for begin in range(0, len(steps), count):
        yield steps[begin : begin + count]
