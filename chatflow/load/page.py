"""``report.html``: what ``report.json`` says, in one file that loads nothing and runs nothing. Pure.

What is missing in a report, as in one of an older version, is left out. Every text of it is escaped.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import Any

from chatflow.load.svg import Line, Point, chart, nines_of, number, percentile_axis, seconds_axis

Report = Mapping[str, Any]

_PERCENTILES = ("p50", "p95", "p99")
_LATENCIES = {"p50": "p50", "p95": "p95", "p99": "p99", "p99_9": "p99.9", "max": "max", "mean": "mean"}
_MAX_NINES = 6.0
#: Rows of a table; what is beyond is told by number.
_MAX_ROWS = 200


def document(title: str, parts: Iterable[str]) -> str:
    """A whole page. The policy lets not even a text that escaped us do anything."""
    body = "\n".join(parts)
    style = files("chatflow.load").joinpath("report.css").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        f"<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n"
        "</body>\n</html>\n"
    )


def as_page(report: Report) -> str:
    """:param report: of :func:`chatflow.load.report.as_report`, or read from a ``report.json`` of any version."""
    verdict = str(report.get("verdict", "unknown"))
    return document(
        f"{verdict.upper()} · ChatFlow load report",
        [
            "<h1>ChatFlow load report</h1>",
            verdict_box(report),
            _numbers(report),
            f'<section class="charts">{"".join(charts(report))}</section>',
            *_tables(report),
            f'<p class="note">{escape(str(report.get("client_ceiling_hint", "")))}. {escape(_settings(report))}</p>',
        ],
    )


def verdict_box(report: Report, name: str = "") -> str:
    """The verdict and its causes."""
    verdict = str(report.get("verdict", "unknown"))
    causes = "".join(f"<li>{escape(str(cause))}</li>" for cause in report.get("causes", ()))
    what = f"{_count(report.get('acked'))} of {_count(report.get('sent'))} messages acknowledged"
    label = f"{escape(name)} " if name else ""
    return (
        f'<section class="verdict {"pass" if verdict == "pass" else "fail"}" aria-label="Verdict">'
        f"<b>{label}{escape(verdict.upper())}</b><p>{what}</p>{f'<ul>{causes}</ul>' if causes else ''}</section>"
    )


def main_phase(report: Report) -> Report:
    """The measured phase of a report; an empty dictionary if the run never reached it."""
    phases: Sequence[Report] = report.get("phases", ())
    return next((phase for phase in phases if phase.get("name") == "main"), {})


def _numbers(report: Report) -> str:
    main, ack = main_phase(report), report.get("ack_latency_ms", {})
    figures = {
        "acknowledged/s": number(main.get("acked_per_second")),
        "delivered/s": number(main.get("delivered_per_second")),
        "ack p50, ms": number(ack.get("p50")),
        "ack p99, ms": number(ack.get("p99")),
        "connections": number(main.get("connections")),
        "seconds": number(main.get("seconds")),
    }
    boxes = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in figures.items())
    return f'<dl class="numbers" aria-label="Main phase">{boxes}</dl>'


def charts(report: Report) -> list[str]:
    """Throughput and latency over time, and the HDR curve; of the main phase."""
    return charts_of([("", report)])


def charts_of(reports: Sequence[tuple[str, Report]]) -> list[str]:
    """Charts with several runs in each, by name: every further one dashed."""
    seconds = max(len(report.get("acked_in_second", ())) for _, report in reports)
    found = [
        chart(f"{title} over time", "messages/s", seconds_axis(seconds), _each(reports, lambda r, k=key: _rates(r, k)))
        for title, key in (("Acknowledged", "acked_in_second"), ("Delivered", "delivered_in_second"))
    ]
    latencies = [
        Line(f"{name} {percentile}".strip(), _of_second(report, place), place, dashed=index > 0)
        for index, (name, report) in enumerate(reports)
        for place, percentile in enumerate(_PERCENTILES)
    ]
    found.append(chart("Latency of acks over time", "ms", seconds_axis(seconds), latencies))
    curves = [
        Line(f"{name} send → {what}".strip(), report.get(key, ()), color, dashed=index > 0)
        for index, (name, report) in enumerate(reports)
        for color, (what, key) in enumerate((("ack", "ack_curve_ms"), ("delivery", "delivery_curve_ms")))
    ]
    below = [point[0] for line in curves for point in line.points if point[0] < 100]
    nines = nines_of(max(below, default=90.0), _MAX_NINES)
    found.append(chart("Latency by percentile", "ms, HDR histogram", percentile_axis(nines), curves))
    return found


def _each(reports: Sequence[tuple[str, Report]], read: Any) -> list[Line]:
    return [Line(name, read(report), index, dashed=index > 0) for index, (name, report) in enumerate(reports)]


def _rates(report: Report, key: str) -> list[Point]:
    """The last second was no whole one: it is as long as it was."""
    counts = report.get(key, ())
    seconds = main_phase(report).get("seconds", float(len(counts)))
    last = len(counts) - 1
    return [
        (second, count / min(1.0, max(seconds - second, 0.05)) if second == last else count)
        for second, count in enumerate(counts)
    ]


def _of_second(report: Report, place: int) -> list[Point]:
    by_second = report.get("ack_latency_in_second_ms", ())
    return [(second, values[place] if values else None) for second, values in enumerate(by_second)]


# Tables


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """``rows``: HTML, of which the first is the row's name."""
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in columns)
    body = "".join(
        f'<tr><th scope="row">{row[0]}</th>{"".join(f"<td>{cell}</td>" for cell in row[1:])}</tr>'
        for row in rows[:_MAX_ROWS]
    )
    more = f'<p class="note">and {len(rows) - _MAX_ROWS:,} more</p>' if len(rows) > _MAX_ROWS else ""
    return (
        f'<section class="card"><h2>{escape(title)}</h2><div class="scroll" tabindex="0" role="region" '
        f'aria-label="{escape(title)}"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>{more}'
        "</section>"
    )


def errors(report: Report) -> dict[str, int]:
    """Every figure that should be 0, by name."""
    found: dict[str, int] = {
        name: report[key]
        for name, key in (
            ("messages refused", "refused"),
            ("messages without an answer", "failed"),
            ("messages not sent", "unsent"),
            ("connections lost", "connections_lost"),
            ("unexpected frames", "unexpected_frames"),
            ("seqs that nobody received", "room_seq_holes"),
        )
        if key in report
    }
    for group, names in (("deliveries", {"expected", "received", "foreign"}), ("acks", set()), ("stored", {"checked"})):
        for name, count in report.get(group, {}).items():
            if name not in names:
                found[f"{group}: {name.replace('_', ' ')}"] = count
    found |= {f"refused as {code}": count for code, count in report.get("refusals", {}).items()}
    return found | {f"connections ended: {code}": count for code, count in report.get("losses", {}).items()}


def _tables(report: Report) -> Iterable[str]:
    latencies = [
        [title, *(number(report.get(key, {}).get(name)) for name in _LATENCIES)]
        for title, key in (("send → ack", "ack_latency_ms"), ("send → delivery", "delivery_latency_ms"))
    ]
    yield table("Latency, ms", ["", *_LATENCIES.values()], latencies)
    yield table(
        "Errors",
        ["what", "count"],
        [
            [escape(name), f'<span class="{"trouble" if n else "zero"}">{_count(n)}</span>']
            for name, n in errors(report).items()
        ],
    )
    yield table(
        "Phases",
        ["phase", "seconds", "connections", "sent", "acknowledged", "acknowledged/s", "delivered/s"],
        [
            [
                escape(str(phase.get("name"))),
                *(number(phase.get(key)) for key in ("seconds", "connections", "sent", "acked")),
                *(number(phase.get(key)) for key in ("acked_per_second", "delivered_per_second")),
            ]
            for phase in report.get("phases", ())
        ],
    )
    types = report.get("types", {})
    total = sum(types.values()) or 1
    yield table(
        "Types",
        ["type", "acknowledged", "share"],
        [[escape(str(name)), _count(count), f"{count / total:.1%}"] for name, count in sorted(types.items())],
    )
    yield table(
        "Rooms",
        ["room", "connections", "acknowledged", "first seq", "last seq"],
        [
            [escape(str(room)), *(_count(tally.get(key)) for key in ("connections", "acked", "first_seq", "last_seq"))]
            for room, tally in report.get("rooms", {}).items()
        ],
    )


def _count(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else "–"


def _settings(report: Report) -> str:
    settings = report.get("settings", {})
    return "Settings: " + ", ".join(f"{name.replace('_', '-')} {value}" for name, value in settings.items()) + "."
