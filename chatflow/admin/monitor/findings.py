"""What was seen, and how bad it is. Pure: no input and no output."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from enum import IntEnum
from typing import Any

from attrs import field, frozen


class Level(IntEnum):
    """How bad something is; the largest one sets the exit status."""

    FINE = 0
    WARNING = 3
    CRITICAL = 4


@frozen
class Threshold:
    """From ``warning`` on it is one, from ``critical`` on that; if ``falls``, the smaller the worse.

    :ivar meaning: of the value, with its unit, for the help.
    """

    warning: float
    critical: float
    meaning: str
    falls: bool = False

    def level(self, value: float) -> Level:
        """The level of one value against its limits: ok, warning or critical."""
        sign = -1 if self.falls else 1
        if sign * value >= sign * self.critical:
            return Level.CRITICAL
        return Level.WARNING if sign * value >= sign * self.warning else Level.FINE


#: By the name that ``--threshold`` gives them.
THRESHOLDS = {
    "waiting": Threshold(100, 1000, "envelopes in a queue that no consumer has"),
    "oldest-seconds": Threshold(10, 60, "age of the oldest envelope of a queue, or of the commit under way"),
    "dead-letters": Threshold(1, 1, "envelopes that were set aside"),
    "heartbeat-seconds": Threshold(15, 60, "since an instance was heard of"),
    "buffer-percent": Threshold(50, 90, "messages that wait for their answer, of --max-pending-messages"),
    "commit-seconds": Threshold(0.5, 5, "of a commit, on the average"),
    "errors": Threshold(1, 10, "transactions tried again and envelopes set aside, since the look before"),
    "cpu-percent": Threshold(70, 90, "of the database server's processors (CloudWatch)"),
    "connections-percent": Threshold(70, 90, "of the database's max_connections"),
    "query-seconds": Threshold(5, 30, "that a statement has been running"),
    "lock-waits": Threshold(1, 5, "sessions that wait for a lock"),
    "cache-percent": Threshold(95, 80, "of the blocks that were read since the statistics began", falls=True),
    "view-seconds": Threshold(300, 3600, "since the analytics' views were refreshed"),
}


@frozen
class Limits:
    """The thresholds that hold for one run."""

    thresholds: dict[str, Threshold] = field(factory=lambda: dict(THRESHOLDS))

    def cell(self, name: str, value: float | None, text: str = "") -> Cell:
        """A figure, judged. None, which is shown as ``-``, is fine."""
        if value is None:
            return Cell(text or "-", None)
        return Cell(text or _number(value), value, self.thresholds[name].level(value))


@frozen
class Cell:
    """:ivar value: for programs; :ivar text: for people. :ivar is_told: among the section's findings already."""

    text: str
    value: Any = None
    level: Level = Level.FINE
    is_told: bool = False


@frozen
class Section:
    """A table.

    :ivar columns: the keys of each row's cells.
    :ivar findings: what is wrong, in words; each in one line.
    """

    name: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    findings: Sequence[tuple[Level, str]] = ()

    @property
    def level(self) -> Level:
        """The worst level among the findings of this section."""
        return max((level for level, _ in self.all_findings()), default=Level.FINE)

    def all_findings(self) -> list[tuple[Level, str]]:
        """Also those of single cells: the row's first cell, the column and the figure."""
        of_cells = [
            (cell.level, f"{row[0].text}: {column} {cell.text}" if cell is not row[0] else cell.text)
            for row in self.rows
            for column, cell in zip(self.columns, row, strict=True)
            if cell.level and not cell.is_told
        ]
        return sorted([*self.findings, *of_cells], key=lambda finding: -finding[0])


def unreachable(name: str, what: str, reason: str) -> Section:
    """What cannot be looked at is the worst that there is to see."""
    return Section(name, (), (), [(Level.CRITICAL, f"{what} does not answer: {reason}")])


def parse_threshold(text: str) -> tuple[str, Threshold]:
    """``NAME=WARNING,CRITICAL``, for argparse."""
    name, _, values = text.partition("=")
    try:
        warning, critical = map(float, values.split(","))
        known = THRESHOLDS[name]
    except (KeyError, ValueError):
        raise argparse.ArgumentTypeError(
            f"must be NAME=WARNING,CRITICAL, such as waiting=100,1000; names are {', '.join(THRESHOLDS)}"
        ) from None
    if (critical - warning) * (-1 if known.falls else 1) < 0:
        raise argparse.ArgumentTypeError(f"{name}: the warning must come before the critical value")
    return name, Threshold(warning, critical, known.meaning, known.falls)


def with_overrides(given: Iterable[tuple[str, Threshold]]) -> Limits:
    """The usual ones, but for these."""
    return Limits({**THRESHOLDS, **dict(given)})


def _number(value: float) -> str:
    if value == int(value):
        return f"{int(value)}"
    return f"{value:.3f}" if abs(value) < 1 else f"{value:.1f}"
