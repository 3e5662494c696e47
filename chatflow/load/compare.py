"""``chatflow-load-compare A B``: two runs of the load client side by side, with ratios."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from attrs import frozen

from chatflow.errors import ChatFlowError
from chatflow.load.page import charts_of, document, errors, main_phase, table, verdict_box
from chatflow.load.svg import number

Report = Mapping[str, Any]

_MAX_BYTES = 256 * 1024 * 1024
_KEYS = ("verdict", "phases", "ack_latency_ms")

_EXIT_STATUS = """\
exit status:
  0  both runs passed, and with --max-worse B is not worse by more than that
  1  a run failed, or B is worse
  2  the command line is wrong, or a report cannot be read or written
"""


class CannotCompare(ChatFlowError):
    """One line that names the file."""


@frozen
class Figure:
    """One row. :ivar more_is_better: None if neither is."""

    name: str
    a: float | None
    b: float | None
    more_is_better: bool | None

    @property
    def ratio(self) -> float | None:
        """B over A; None if there is none."""
        return self.b / self.a if self.a and self.b is not None else None

    @property
    def worse_by(self) -> float:
        """Share by which B is worse than A, negative if it is better; 0 if that cannot be said."""
        if self.more_is_better is None or self.ratio is None:
            return 0.0
        return 1 - self.ratio if self.more_is_better else self.ratio - 1


def main(arguments: Sequence[str] | None = None) -> int:
    """:param arguments: by default the command line.

    :return: the exit status.
    """
    parsed = _parser().parse_args(arguments)
    try:
        a, b = _read(parsed.a), _read(parsed.b)
        found = list(compare(a, b))
        print(as_text(parsed.a, parsed.b, a, b, found), end="")
        if parsed.html:
            _write(parsed.html, as_page(parsed.a, parsed.b, a, b, found))
    except CannotCompare as error:
        print(f"chatflow-load-compare: {error}", file=sys.stderr)
        return 2
    status = 0 if a["verdict"] == b["verdict"] == "pass" else 1
    for figure in found:
        if parsed.max_worse is not None and figure.worse_by * 100 > parsed.max_worse:
            print(f"worse by more than {parsed.max_worse:g} %: {figure.name}, {figure.worse_by:.1%}")
            status = 1
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="chatflow-load-compare",
        description="Puts two runs of chatflow-load side by side: figures of their main phases, with the ratio B / A.",
        epilog=_EXIT_STATUS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("a", metavar="A", help="--output directory of a run, or its report.json")
    parser.add_argument("b", metavar="B", help="the other one")
    parser.add_argument("--html", metavar="FILE", help="also write a page with both runs in each chart")
    parser.add_argument(
        "--max-worse",
        type=_percent,
        metavar="PERCENT",
        help="exit with 1 if a rate of B is lower, or a latency higher, by more than this",
    )
    return parser


def _percent(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1_000_000:
        raise argparse.ArgumentTypeError("must be a number from 0, in percent")
    return value


def _read(name: str) -> Report:
    path = Path(name)
    if path.is_dir():
        path /= "report.json"
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_BYTES + 1)
        report = json.loads(text) if len(text) <= _MAX_BYTES else None
    except OSError as error:
        raise CannotCompare(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise CannotCompare(f"{path} is not JSON") from error
    if not isinstance(report, dict) or any(key not in report for key in _KEYS):
        raise CannotCompare(f"{path} is no report of chatflow-load")
    return report


def _write(name: str, text: str) -> None:
    try:
        Path(name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise CannotCompare(f"cannot write to --html {name}: {error.strerror or error}") from error


def compare(a: Report, b: Report) -> Iterator[Figure]:
    """The figures of both; one that a report does not have is None."""
    rows: tuple[tuple[str, str, bool | None], ...] = (
        ("seconds", "seconds", None),
        ("connections", "connections", None),
        ("messages acknowledged", "acked", None),
        ("acknowledged/s", "acked_per_second", True),
        ("delivered/s", "delivered_per_second", True),
    )
    for name, key, more_is_better in rows:
        yield Figure(name, _number(main_phase(a), key), _number(main_phase(b), key), more_is_better)
    for what, key in (("ack", "ack_latency_ms"), ("delivery", "delivery_latency_ms")):
        for percentile in ("p50", "p95", "p99", "p99_9", "max"):
            name = f"{what} {percentile.replace('_', '.')}, ms"
            yield Figure(name, _number(a.get(key, {}), percentile), _number(b.get(key, {}), percentile), False)


def _number(figures: Mapping[str, Any], key: str) -> float | None:
    value = figures.get(key)
    return value if isinstance(value, int | float) else None


def _troubles(a: Report, b: Report) -> list[tuple[str, int, int]]:
    """What should be 0 and is not in one of them."""
    of_a, of_b = errors(a), errors(b)
    both = ((name, of_a.get(name, 0), of_b.get(name, 0)) for name in {**of_a, **of_b})
    return [(name, one, other) for name, one, other in both if one or other]


def _ratio(figure: Figure) -> str:
    return "–" if figure.ratio is None else f"{figure.ratio:.3f}"


def as_text(name_a: str, name_b: str, a: Report, b: Report, figures: Sequence[Figure]) -> str:
    """The comparison as lines of text for a terminal."""
    lines = [f"{name} = {path}: {report['verdict']}" for name, path, report in (("A", name_a, a), ("B", name_b, b))]
    lines += ["", f"{'':<24}{'A':>14}{'B':>14}{'B / A':>10}"]
    lines += [f"{row.name:<24}{number(row.a):>14}{number(row.b):>14}{_ratio(row):>10}" for row in figures]
    lines += [f"{name:<24}{one:>14,}{other:>14,}" for name, one, other in _troubles(a, b)]
    return "\n".join(lines) + "\n"


def as_page(name_a: str, name_b: str, a: Report, b: Report, figures: Sequence[Figure]) -> str:
    """The comparison with charts, as one HTML file that loads nothing."""
    rows = [[escape(row.name), number(row.a), number(row.b), _judged(row)] for row in figures]
    troubles = [[escape(name), f"{one:,}", f"{other:,}"] for name, one, other in _troubles(a, b)]
    return document(
        "ChatFlow load: two runs",
        [
            "<h1>ChatFlow load: two runs</h1>",
            f'<section class="charts">{verdict_box(a, f"A {name_a}")}{verdict_box(b, f"B {name_b}")}</section>',
            table("Main phase", ["", "A", "B", "B / A"], rows),
            *([table("Errors", ["", "A", "B"], troubles)] if troubles else []),
            f'<section class="charts">{"".join(charts_of([("A", a), ("B", b)]))}</section>',
        ],
    )


def _judged(row: Figure) -> str:
    name = "worse" if row.worse_by > 0.03 else "better" if row.worse_by < -0.03 else ""
    return f'<span class="{name}">{_ratio(row)}{f" {name}" if name else ""}</span>'
