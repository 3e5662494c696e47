"""Time as the load client takes it: one clock for all processes of the machine, and what the processor gave us."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import attrs


@attrs.frozen
class Clock:
    """:ivar monotonic_us: CLOCK_MONOTONIC in µs: never jumps, and all processes of a machine share it.
    :ivar wall_offset_us: what to add for the time since 1970.
    """

    monotonic_us: Callable[[], int]
    wall_offset_us: int

    def timestamp(self, at_us: int) -> str:
        """A value of ``monotonic_us`` as ISO 8601, UTC, with microseconds."""
        moment = datetime.fromtimestamp((at_us + self.wall_offset_us) / 1e6, UTC)
        return moment.isoformat(timespec="microseconds")[:-6] + "Z"


def _monotonic_us() -> int:
    return time.monotonic_ns() // 1000


def system_clock() -> Clock:
    return Clock(_monotonic_us, time.time_ns() // 1000 - _monotonic_us())


def processor_seconds() -> tuple[float, float]:
    """How long this process has run on a processor, and how long it stood in line for one (0 outside Linux)."""
    try:
        # "time on cpu, time waiting on a run queue (ns), time slices", of the thread that runs the reactor
        waited = int(Path("/proc/self/schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        waited = 0.0
    return time.process_time(), waited
