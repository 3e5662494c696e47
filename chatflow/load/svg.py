"""Line charts as SVG text, for pages that load nothing. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape

from attrs import frozen

WIDTH, HEIGHT = 560, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 10, 24
#: More points than a screen has columns are drawn as the highest of several.
_MAX_POINTS = 600

Point = tuple[float, float | None]


@frozen
class Line:
    """:ivar points: x and y; a y that is None interrupts the line. :ivar color: a number from 0 to 5."""

    label: str
    points: Sequence[Point]
    color: int = 0
    dashed: bool = False


@frozen
class Axis:
    """Where on the x axis a value is, from 0 to 1, and what is written below."""

    place: Callable[[float], float]
    marks: Sequence[tuple[float, str]]


def ceiling(value: float) -> float:
    """The least of 1, 2, 5, 10, 20, … that is not below a value; 1 for 0."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(digit * power for digit in (1, 2, 5, 10) if digit * power >= value * (1 - 1e-9))


def seconds_axis(seconds: float) -> Axis:
    """From 0 to this, at least 1."""
    last = max(seconds, 1.0)
    step = max(1.0, ceiling(last / 8))
    return Axis(lambda x: x / last, [(x * step, f"{x * step:g} s") for x in range(int(last / step) + 1)])


def percentile_axis(nines: float) -> Axis:
    """As HDR histograms have it: each nine takes as much place as the one before.

    :param nines: how many fit: 2 is 99 %.
    """
    last = max(nines, 1.0)
    marks = [(0.0, "0"), (50.0, "50"), (90.0, "90")]
    marks += [
        (100 - 10.0 ** (2 - nine), f"{100 - 10.0 ** (2 - nine):.{nine - 2}f}") for nine in range(2, int(last) + 1)
    ]
    return Axis(lambda p: min(1.0, nines_of(p, last) / last), [(value, f"{text} %") for value, text in marks])


def nines_of(percentile: float, at_most: float) -> float:
    """How many nines a percentile has: 2 for 99."""
    return min(at_most, -math.log10(1 - percentile / 100)) if percentile < 100 else at_most


def number(value: float | None) -> str:
    """A number as people read it: commas between thousands, at most two decimals, a dash for none."""
    if value is None:
        return "–"
    if abs(value) >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:,.2f}" if abs(value) < 10 else f"{value:,.1f}"


def chart(title: str, unit: str, axis: Axis, lines: Sequence[Line]) -> str:
    """A figure with its legend. What cannot be seen is said: the least, the mean and the highest of each line."""
    highest = ceiling(max((y for line in lines for _, y in line.points if y is not None), default=0.0))
    drawn = "".join(_path(line, axis, highest) for line in lines)
    spoken = "; ".join(_spoken(line) for line in lines)
    legend = "".join(
        f'<span><i class="s{line.color}{" dashed" if line.dashed else ""}"></i>{escape(line.label)}</span>'
        for line in lines
        if len(lines) > 1
    )
    return (
        f'<figure class="card"><figcaption><h2>{escape(title)} <small>{escape(unit)}</small></h2>'
        f'<p class="legend">{legend}</p></figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(f"{title}, {unit}: {spoken}")}">'
        f"{_grid(axis, highest)}{drawn}</svg></figure>"
    )


def _x(share: float) -> float:
    return _LEFT + share * (WIDTH - _LEFT - _RIGHT)


def _y(value: float, highest: float) -> float:
    return HEIGHT - _BOTTOM - value / highest * (HEIGHT - _TOP - _BOTTOM)


def _grid(axis: Axis, highest: float) -> str:
    parts = []
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = _y(highest * share, highest)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{number(highest * share)}</text>')
    for value, text in axis.marks:
        x = _x(axis.place(value))
        anchor = "end" if x > WIDTH - _RIGHT - 12 else "middle"
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{HEIGHT - _BOTTOM}"/>')
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - 7}" text-anchor="{anchor}">{escape(text)}</text>')
    return "".join(parts)


def _path(line: Line, axis: Axis, highest: float) -> str:
    commands, pen_is_down = [], False
    for x, y in _thinned(line.points):
        if y is None:
            pen_is_down = False
            continue
        place = f"{_x(axis.place(x)):.1f} {_y(y, highest):.1f}"
        # A single point is a line of no length, which round ends make a dot.
        commands.append(f"L{place}" if pen_is_down else f"M{place}l.01 0")
        pen_is_down = True
    if not commands:
        return ""
    return f'<path class="line s{line.color}{" dashed" if line.dashed else ""}" d="{"".join(commands)}"/>'


def _thinned(points: Sequence[Point]) -> Sequence[Point]:
    width = -(-len(points) // _MAX_POINTS)
    if width <= 1:
        return points
    found: list[Point] = []
    for begin in range(0, len(points), width):
        values = [y for _, y in points[begin : begin + width] if y is not None]
        found.append((points[begin][0], max(values, default=None)))
    return found


def _spoken(line: Line) -> str:
    values = [y for _, y in line.points if y is not None]
    if not values:
        return f"{line.label}: nothing"
    mean = sum(values) / len(values)
    return f"{line.label}: from {number(min(values))} to {number(max(values))}, {number(mean)} on average"
