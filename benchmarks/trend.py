"""Whether something grows: a line through what was measured, by least squares."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import pairwise

import psutil

from testbed.threads import beside

Sample = tuple[float, float]
"""Seconds, and what was measured then."""


def slope_per_minute(samples: Sequence[Sample], warm_up_seconds: float = 0.0) -> float:
    """How much it grows in a minute, after the warm-up; 0 of fewer than two samples."""
    if not samples:
        return 0.0
    begin = samples[0][0] + warm_up_seconds
    later = [sample for sample in samples if sample[0] >= begin]
    if len(later) < 2:
        return 0.0
    slope, _ = statistics.linear_regression(*zip(*later, strict=True))
    return slope * 60


def fifths(values: Sequence[float]) -> list[Sequence[float]]:
    """Five parts of nearly the same length, in order."""
    bounds = [len(values) * part // 5 for part in range(6)]
    return [values[first:last] for first, last in pairwise(bounds)]


def percentile(values: Sequence[float], percent: float) -> float | None:
    """The least of them that so many percent do not exceed; None of none."""
    if not values:
        return None
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


@contextmanager
def sampled(measure: Callable[[], float], every_seconds: float) -> Iterator[list[Sample]]:
    """Within the block it is measured again and again, in a thread, as long as the process is there."""
    samples: list[Sample] = []

    def sample(over: threading.Event) -> None:
        while True:
            with suppress(OSError, psutil.Error):
                samples.append((time.monotonic(), measure()))
            if over.wait(every_seconds):
                return

    with beside("samples", sample):
        yield samples
