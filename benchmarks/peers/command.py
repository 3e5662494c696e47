"""``peers``: the table of workloads and systems."""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from functools import partial

import attrs

from benchmarks.peers import servers
from benchmarks.peers.client import Finding, take_all
from benchmarks.peers.servers import Server
from benchmarks.peers.workloads import WORKLOADS, Shown, Sizes, Workload
from benchmarks.results import Result

_DESCRIPTION = """\
Systems beside each other: each workload in turn on all of them, round after round, all by the same client.
--chatflow takes several checkouts, each with its own .venv; behind a directory may stand options of its daemon:
  --chatflow ../before,.            two versions
  --chatflow ".,. --max-linger-ms 5"  one version, two settings
"""


def add_to(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Register the benchmark; see :mod:`benchmarks.__main__`."""
    peers = add("peers", help="ChatFlow beside other systems, or beside other versions of itself")
    peers.description = _DESCRIPTION
    peers.formatter_class = argparse.RawDescriptionHelpFormatter
    peers.add_argument(
        "--chatflow",
        default=str(servers.HERE),
        metavar="DIRECTORY,...",
        help="checkouts, the first one is what others are compared with (this one)",
    )
    what = ", ".join(f"{name}: {workload.help}" for name, workload in WORKLOADS.items())
    peers.add_argument("--workloads", default="A,D,E,500", help=f"(A,D,E,500) of {what}".replace("%", "%%"))
    peers.add_argument("--rounds", type=int, default=3, help="medians are taken of so many runs (3)")
    peers.add_argument("--seconds", type=float, default=5.0, help="a run is measured, after a fifth of it (5)")
    peers.add_argument("--connections", type=int, default=5000, help="of workload C (5000)")
    peers.add_argument("options", nargs="*", metavar="-- OPTION", help="of all daemons, behind --")
    peers.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> Result:
    result = Result("peers")
    workloads = arguments.workloads.split(",")
    unknown = set(workloads) - set(WORKLOADS)
    if unknown:
        sys.exit(f"--workloads: no {', '.join(sorted(unknown))}; there are {', '.join(WORKLOADS)}")
    starts: dict[str, Callable[[], Server]] = {
        name: partial(servers.ChatFlow, *given)
        for name, given in servers.checkouts(arguments.chatflow, arguments.options).items()
    }
    sizes = Sizes(arguments.seconds, arguments.connections)
    runs: dict[str, dict[str, list[Finding]]] = {name: defaultdict(list) for name in workloads}
    sent: Counter[str] = Counter()
    with ExitStack() as stack:
        running = {}
        for name, start in starts.items():
            running[name] = start()
            stack.callback(running[name].stop)
        for number in range(arguments.rounds):
            for workload in workloads:
                # the order is turned round: who comes second may find a warmer machine
                for name in list(running)[:: -1 if number % 2 else 1]:
                    finding = _one(WORKLOADS[workload], running[name], sizes)
                    runs[workload][name].append(finding)
                    sent[name] += finding.sent
                    result.faults += [f"{name}, {workload}: {fault}" for fault in finding.faults]
                    print(f"{number + 1}: {workload}, {name}: {_line(workload, finding)}", flush=True)
        for name, server in running.items():
            result.faults += [f"{name}: {fault}" for fault in server.faults(sent[name])]
    for workload, found in runs.items():
        result.raw[workload] = {name: [attrs.asdict(finding) for finding in of_it] for name, of_it in found.items()}
        for shown in WORKLOADS[workload].shown:
            for name, of_it in found.items():
                result.add(f"{workload} {shown.name}, {name}", _median(of_it, shown.name), shown.unit, shown.goal)
    print("\n".join(["", *_table(runs, list(starts))]), flush=True)
    return result


def _one(workload: Workload, server: Server, sizes: Sizes) -> Finding:
    """A run, by a client process of its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as executor:
        return executor.submit(take_all, workload.work, workload.plan_for(server, sizes)).result()


def _line(workload: str, finding: Finding) -> str:
    figures = [f"{finding.figures.get(shown.name, 0.0):,.6g} {shown.unit}" for shown in WORKLOADS[workload].shown]
    client = (
        f"client {finding.figures['client_us_per_message']:.3g} µs"
        if "client_us_per_message" in finding.figures
        else ""
    )
    return ", ".join(filter(None, (*figures, client, *finding.faults)))


def _median(findings: Sequence[Finding], name: str) -> float | None:
    values = [finding.figures[name] for finding in findings if name in finding.figures]
    return statistics.median(values) if values else None


def _ratio(first: Sequence[Finding], other: Sequence[Finding], name: str) -> float | None:
    """The median of the rounds' ratios: what happens to the machine happens to both."""
    pairs = [
        b.figures[name] / a.figures[name]
        for a, b in zip(first, other, strict=True)
        if a.figures.get(name) and name in b.figures
    ]
    return statistics.median(pairs) if pairs else None


def _table(runs: Mapping[str, Mapping[str, Sequence[Finding]]], names: Sequence[str]) -> list[str]:
    """A line for each figure, a column for each system; behind the median of others the ratio to the first."""
    rows = [["", "", *names]]
    for workload, found in runs.items():
        parts = list(next(iter(found.values()))[0].cpu_seconds)
        more = [Shown(f"cpu_ms_per_1000_{role}", f"ms/1000 {role}") for role in parts] if len(parts) > 1 else []
        shown = [*WORKLOADS[workload].shown, *more, Shown("client_us_per_message", "µs of the client")]
        for figure in shown:
            row = [workload, f"{figure.name.split('_')[0]} {figure.unit}"]
            for index, name in enumerate(names):
                median = _median(found[name], figure.name)
                ratio = _ratio(found[names[0]], found[name], figure.name) if index else None
                row.append(("-" if median is None else _number(median)) + (f" x{ratio:.2f}" if ratio else ""))
            if any(cell != "-" for cell in row[2:]):
                rows.append(row)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
