"""What a run tells: ``report.json``, ``throughput.csv`` and the summary. Pure, but for :func:`write_files`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs

from chatflow.load.latency import curve_ms, percentiles_by_second, percentiles_ms
from chatflow.load.output import CannotWrite
from chatflow.load.page import as_page
from chatflow.load.proof import Stored
from chatflow.load.run import Outcome
from chatflow.load.scenario import MAIN, Settings
from chatflow.load.tally import PhaseTally, merge
from chatflow.passwords import mask_password

_INTERVAL_SECONDS = 10  # as the reference's throughput_over_time.csv
_BAR_COLUMNS = 40

# Beyond this share of a processor, or of its time spent in line for one, the client may have slowed the run down.
_BUSY = 0.9
_IN_LINE = 0.2


def as_report(outcome: Outcome) -> dict[str, Any]:
    """The content of ``report.json``. Figures are of all phases, latencies, rooms and types of the main phase.

    Keys and units are listed in docs/load.rst.
    """
    whole = merge(outcome.phases) if outcome.phases else PhaseTally()
    main = _main(outcome)
    stored = outcome.stored or Stored()
    return {
        "verdict": outcome.verdict,
        "causes": outcome.causes,
        "sent": whole.sent,
        "acked": whole.acked,
        "refused": whole.refused,
        "refusals": whole.refusals,
        "failed": whole.failed,
        "unsent": whole.unsent,
        "reconnects": whole.returns,
        "connections_lost": whole.connections_lost,
        "returns_refused": whole.returns_refused,
        "away_ms": percentiles_ms(whole.away_ticks),
        "resent": whole.resent,
        "losses": whole.losses,
        "deliveries": {
            "expected": whole.expected,
            "received": whole.received,
            "missing": whole.missing,
            "duplicated": whole.duplicated + whole.repeated,
            "out_of_order": whole.out_of_order,
            "altered": whole.altered,
            "stray": whole.misrouted,
            "conflicting": whole.conflicting,
            "foreign": whole.foreign,
        },
        "acks": {
            "unexpected": whole.unexpected_acks,
            "never_broadcast": whole.never_broadcast,
            "changed_ids": whole.changed_ids,
        },
        "unexpected_frames": whole.unexpected_frames,
        "room_seq_holes": sum(phase.room_seq_holes for phase in outcome.phases),
        "stored": {
            "checked": stored.checked,
            "missing": stored.missing,
            "duplicated": stored.duplicated,
            "holes": stored.holes,
        },
        "phases": [_phase(phase) for phase in outcome.phases],
        "ack_latency_ms": percentiles_ms(main.ack_ticks),
        "delivery_latency_ms": percentiles_ms(main.delivery_ticks),
        "ack_latency_in_second_ms": percentiles_by_second(main.ack_buckets),
        "ack_curve_ms": curve_ms(main.ack_ticks),
        "delivery_curve_ms": curve_ms(main.delivery_ticks),
        "acked_in_second": _by_second(main.acked_in_second),
        "delivered_in_second": _by_second(main.delivered_in_second),
        "rooms": {
            str(room): {
                "connections": tally.connections,
                "acked": tally.acked,
                "first_seq": tally.first,
                "last_seq": tally.last,
            }
            for room, tally in sorted(main.rooms.items())
        },
        "types": main.types,
        "client": {
            "busy": [round(share, 3) for share in _shares(main, main.cpu_seconds)],
            "in_line": [round(share, 3) for share in _shares(main, main.waited_seconds)],
        },
        "client_ceiling_hint": ceiling_hint(main),
        "settings": _as_given(outcome.settings),
    }


def _as_given(settings: Settings) -> dict[str, Any]:
    """As they are written, where none is a 0 or nothing."""
    given = attrs.asdict(settings)
    del given["token_key"]
    for name, none in (("senders", 0), ("rate", 0.0), ("reconnect", 0.0), ("output", "")):
        given[name] = none if given[name] is None else given[name]
    given["urls"] = [mask_password(url) for url in settings.urls]
    return given


def _main(outcome: Outcome) -> PhaseTally:
    return next((phase for phase in outcome.phases if phase.name == MAIN), PhaseTally(name=MAIN))


def _phase(phase: PhaseTally) -> dict[str, Any]:
    return {
        "name": phase.name,
        "seconds": round(phase.seconds, 6),
        "connections": phase.connections,
        "sent": phase.sent,
        "acked": phase.acked,
        "delivered": phase.received,
        "acked_per_second": round(phase.acked / phase.seconds, 1),
        "delivered_per_second": round(phase.received / phase.seconds, 1),
    }


def _by_second(counts: dict[int, int]) -> list[int]:
    return [counts.get(second, 0) for second in range(max(counts, default=-1) + 1)]


def _shares(phase: PhaseTally, seconds: list[float]) -> list[float]:
    return [part / phase.seconds for part in seconds]


def ceiling_hint(phase: PhaseTally) -> str:
    """Whether the figures are the server's or this client's own, one process of which has one thread to work with."""
    busy = max(_shares(phase, phase.cpu_seconds), default=0.0)
    in_line = max(_shares(phase, phase.waited_seconds), default=0.0)
    state = f"the busiest client process used {busy:.0%} of a processor and stood in line for one {in_line:.0%}"
    if busy > _BUSY:
        return f"{state}: the client may have been the bottleneck, try more --processes"
    if in_line > _IN_LINE:
        return f"{state}: it shared the processors with others, which makes latencies longer"
    return f"{state}: it was not the bottleneck"


def throughput_lines(phase: PhaseTally) -> Iterator[str]:
    """``throughput.csv``: acknowledged messages in intervals of 10 s; the last one is as long as it really was."""
    yield "TimeInterval,StartTime,EndTime,MessageCount,Throughput\n"
    for start, end, count in _intervals(phase, _INTERVAL_SECONDS):
        yield f"{start:g}-{end:g},{start:g},{end:g},{count},{count / (end - start):.2f}\n"


def _intervals(phase: PhaseTally, width: int) -> Iterator[tuple[int, float, int]]:
    for start in range(0, max(phase.acked_in_second, default=-1) + 1, width):
        end = min(float(start + width), round(phase.seconds, 3))
        count = sum(phase.acked_in_second.get(second, 0) for second in range(start, start + width))
        yield start, max(end, start + 0.001), count


def as_summary(outcome: Outcome) -> str:
    """The report as lines of text for people."""
    report = as_report(outcome)
    main = _main(outcome)
    lines = [f"Verdict: {outcome.verdict.upper()}", *(f"  - {cause}" for cause in outcome.causes), ""]
    lines += [
        f"{phase['name']:>9}: {phase['acked']:,} messages acknowledged in {phase['seconds']:.2f} s over"
        f" {phase['connections']:,} connections: {phase['acked_per_second']:,.0f}/s acknowledged,"
        f" {phase['delivered_per_second']:,.0f}/s delivered"
        for phase in report["phases"]
    ]
    lines += [
        "",
        _figures("Messages", report, "sent", "acked", "refused", "failed", "unsent"),
        _figures("Deliveries", report["deliveries"], "expected", "received", "missing", "duplicated", "out_of_order"),
        _figures("Acks", report["acks"], *report["acks"]),
        _figures("Database", report["stored"], *report["stored"]) if outcome.stored else "Database    not checked",
        *_comings_back(report),
        "",
        f"{'Latency, ms':<18}" + "".join(f"{name.replace('_', '.'):>10}" for name in report["ack_latency_ms"]),
        _latencies("send → ack", report["ack_latency_ms"]),
        _latencies("send → delivery", report["delivery_latency_ms"]),
    ]
    lines += ["", "Acknowledged over time (main phase)", *_chart(main)]
    total = sum(main.types.values()) or 1
    shares = (f"{name} {count:,} ({count / total:.1%})" for name, count in sorted(main.types.items()))
    lines += ["", "Types: " + ", ".join(shares), "Rooms: " + _rooms(main)]
    lines += ["", f"Client: {report['client_ceiling_hint']}. Seed: {outcome.settings.seed}."]
    return "\n".join(lines) + "\n"


def _figures(title: str, figures: dict[str, Any], *names: str) -> str:
    return f"{title:<12}" + ", ".join(f"{name.replace('_', ' ')} {figures[name]:,}" for name in names)


def _comings_back(report: dict[str, Any]) -> Iterator[str]:
    if report["settings"]["reconnect"]:
        losses = ", ".join(f"{how} {count:,}" for how, count in sorted(report["losses"].items())) or "none"
        yield f"{_figures('Reconnects', report, 'reconnects', 'resent')}; losses by the server's doing: {losses}"
        if longest_ms := report["away_ms"]["max"]:
            refused = report["returns_refused"]
            yield f"{'':<12}tries to come back refused {refused:,}; away for {longest_ms / 1000:.2f} s at most"


def _latencies(title: str, figures: dict[str, float | None]) -> str:
    return f"{title:<18}" + "".join(
        f"{value:>10,.1f}" if value is not None else f"{'-':>10}" for value in figures.values()
    )


def _chart(phase: PhaseTally) -> Iterator[str]:
    width = max(1, int(phase.seconds / 20))
    rows = [(start, end, count / (end - start)) for start, end, count in _intervals(phase, width)]
    highest = max((rate for _, _, rate in rows), default=1.0) or 1.0
    for start, end, rate in rows:
        yield f"  {start:>5}-{end:<8g} s {rate:>10,.0f}/s  {'█' * round(rate / highest * _BAR_COLUMNS)}"


def _rooms(phase: PhaseTally) -> str:
    return ", ".join(f"{room}: {tally.acked:,}" for room, tally in sorted(phase.rooms.items())) or "none"


def as_json(report: dict[str, Any]) -> str:
    """For people too: a line for each key, and for each second or point of a list."""
    return json.dumps(report, indent=2) + "\n"


def write_files(outcome: Outcome, directory: str) -> None:
    """``report.json``, ``report.html`` and ``throughput.csv``. :raises CannotWrite: that cannot be done."""
    into = Path(directory)
    report = as_report(outcome)
    try:
        (into / "report.json").write_text(as_json(report), encoding="utf-8")
        (into / "report.html").write_text(as_page(report), encoding="utf-8")
        (into / "throughput.csv").write_text("".join(throughput_lines(_main(outcome))), encoding="ascii")
    except OSError as error:
        raise CannotWrite(directory, error) from error
