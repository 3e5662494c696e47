"""What a benchmark tells: a line for each figure, with its goal, and everything raw as JSON."""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs

RESULTS = Path(__file__).parent / "results"

Goal = tuple[str, float]
"""``("<=", 15)``: what the figure should be."""

_HOLDS: dict[str, Callable[[float, float], bool]] = {
    "<=": lambda value, bound: value <= bound,
    ">=": lambda value, bound: value >= bound,
    "==": lambda value, bound: value == bound,
}


@attrs.frozen
class Figure:
    """One number. :ivar value: None if it could not be taken, which misses any goal."""

    name: str
    value: float | None
    unit: str
    goal: Goal | None = None

    @property
    def met(self) -> bool:
        """Whether it reaches its goal; without a goal it does."""
        if self.goal is None:
            return True
        return self.value is not None and _HOLDS[self.goal[0]](self.value, self.goal[1])

    def line(self) -> str:
        value = "-" if self.value is None else f"{self.value:,.0f}" if abs(self.value) >= 1000 else f"{self.value:,.4g}"
        goal = "" if self.goal is None else f"{self.goal[0]} {self.goal[1]:,g} {'' if self.met else '  MISSED'}"
        return f"  {self.name:<44}{value:>12} {self.unit:<14}{goal}".rstrip()


@attrs.define
class Result:
    """What one benchmark found.

    :ivar faults: why it proves nothing, such as a verdict that is not *pass*; figures are then worth nothing.
    :ivar raw: whatever the figures were taken from, as JSON has it.
    """

    name: str
    figures: list[Figure] = attrs.Factory(list)
    faults: list[str] = attrs.Factory(list)
    raw: dict[str, Any] = attrs.Factory(dict)

    def add(self, name: str, value: float | None, unit: str, goal: Goal | None = None) -> None:
        """Add a figure."""
        self.figures.append(Figure(name, value, unit, goal))

    def expect_pass(self, report: dict[str, Any], what: str = "load client") -> None:
        """A report of the load client must have the verdict *pass*."""
        if report["verdict"] != "pass":
            self.faults += [f"{what}: {cause}" for cause in report["causes"]]

    def tell(self) -> int:
        """Print it, and write it below ``benchmarks/results``.

        :return: the exit status: 1 if there are faults; a goal that is missed is only told.
        """
        path = RESULTS / f"{self.name}-{time.strftime('%Y%m%d-%H%M%S')}.json"
        RESULTS.mkdir(exist_ok=True)
        content = {
            "name": self.name,
            "command": shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]]),
            "ended": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "machine": _machine(),
            "faults": self.faults,
            "figures": [attrs.asdict(figure) | {"met": figure.met} for figure in self.figures],
            "raw": self.raw,
        }
        path.write_text(json.dumps(content, indent=1) + "\n")
        print(f"\n{self.name}")
        print("\n".join(figure.line() for figure in self.figures))
        for fault in self.faults:
            print(f"  FAULT: {fault}")
        print(f"  raw numbers: {os.path.relpath(path)}", flush=True)
        return 1 if self.faults else 0


def _machine() -> dict[str, Any]:
    return {
        "processors": len(os.sched_getaffinity(0)),
        "load_average_at_end": os.getloadavg()[0],
        "system": platform.platform(),
        "python": platform.python_version(),
    }
