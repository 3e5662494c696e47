"""``peers``: the table of workloads and systems."""

from __future__ import annotations

import argparse
import statistics
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial

import attrs

from benchmarks.peers import servers
from benchmarks.peers.client import Finding
from benchmarks.peers.process import run_apart
from benchmarks.peers.programs import PEERS, Absent, System
from benchmarks.peers.servers import Server
from benchmarks.peers.workloads import WORKLOADS, Shown, Sizes, Workload
from benchmarks.results import Result

_DESCRIPTION = """\
Systems beside each other: each workload in turn on all of them, round after round, all by the same client.
--chatflow takes several checkouts, each with its own .venv; behind a directory may stand options of its daemon:
  --chatflow ../before,.          two versions
  --chatflow ".,. --linger-ms 0"  one version, two settings
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
    peers.add_argument(
        "--against", default="", metavar="NAME,...", help=f"of {', '.join(PEERS)}: skipped if this machine has none"
    )
    what = ", ".join(f"{name}: {workload.help}" for name, workload in WORKLOADS.items())
    peers.add_argument("--workloads", default="A,D,E,500", help=f"(A,D,E,500) of {what}".replace("%", "%%"))
    peers.add_argument("--rounds", type=int, default=3, help="medians are taken of so many runs (3)")
    peers.add_argument("--seconds", type=float, default=5.0, help="a run is measured, after a fifth of it (5)")
    peers.add_argument("--connections", type=int, default=5000, help="of workload C (5000)")
    peers.add_argument("--missed", type=int, default=50_000, help="messages, of workload resume (50000)")
    peers.add_argument("options", nargs="*", metavar="-- OPTION", help="of all daemons, behind --")
    peers.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> Result:
    result = Result("peers")
    workloads = arguments.workloads.split(",")
    unknown = set(workloads) - set(WORKLOADS)
    if unknown:
        sys.exit(f"--workloads: no {', '.join(sorted(unknown))}; there are {', '.join(WORKLOADS)}")
    systems = _systems(arguments)
    sizes = Sizes(arguments.seconds, arguments.connections, arguments.missed)
    runs: dict[str, dict[str, list[Finding]]] = {name: defaultdict(list) for name in workloads}
    sent: Counter[str] = Counter()
    with ExitStack() as stack:
        running: dict[str, Server] = {}
        for name, system in systems.items():
            try:
                running[name] = system.start()
            except Absent as absent:
                print(f"skipped: {name}: {absent}", flush=True)
            else:
                stack.callback(running[name].stop)
        for number in range(arguments.rounds):
            for workload in workloads:
                # the order is turned round: who comes second may find a warmer machine
                for name in list(running)[:: -1 if number % 2 else 1]:
                    if WORKLOADS[workload].of_chatflow and not isinstance(running[name], servers.ChatFlow):
                        continue
                    finding = _one(WORKLOADS[workload], running[name], systems[name], sizes)
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
                goal = shown.goal if isinstance(running[name], servers.ChatFlow) else None
                result.add(f"{workload} {shown.name}, {name}", _median(of_it, shown.name), shown.unit, goal)
    for line in tables(runs, {name: system.acknowledgement for name, system in systems.items()}):
        print(line, flush=True)
    return result


def _systems(arguments: argparse.Namespace) -> dict[str, System]:
    """By name, ChatFlow's first."""
    stored = "in PostgreSQL, with fsync; so is what is delivered"
    try:
        checkouts = servers.checkouts(arguments.chatflow, arguments.options)
    except ValueError as error:
        sys.exit(str(error))
    systems = {name: System(partial(servers.ChatFlow, *given), stored) for name, given in checkouts.items()}
    variants = {name: system for group in PEERS.values() for name, system in group.items()}
    for name in filter(None, arguments.against.split(",")):
        if name not in PEERS and name not in variants:
            sys.exit(f"--against: no {name}; there are {', '.join(PEERS)}, and of them {', '.join(variants)}")
        systems |= PEERS.get(name) or {name: variants[name]}
    return systems


def _one(workload: Workload, running: Server, system: System, sizes: Sizes) -> Finding:
    """A run, by a client process of its own."""
    with ExitStack() as stack:
        server = running
        if workload.alone:
            server = system.start()
            stack.callback(server.stop)
        return run_apart(workload.work, workload.plan_for(server, sizes))


def _line(workload: str, finding: Finding) -> str:
    figures = [f"{finding.figures.get(shown.name, 0.0):,.6g} {shown.unit}" for shown in WORKLOADS[workload].shown]
    own_us = finding.figures.get("client_us_per_message")
    return ", ".join((*figures, *([f"client {own_us:.3g} µs"] if own_us else []), *finding.faults))


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


def tables(runs: Mapping[str, Mapping[str, Sequence[Finding]]], acknowledgements: Mapping[str, str]) -> Iterator[str]:
    """A table for each workload, a line for each system; behind a median its ratio to that of the first system."""
    for workload, found in runs.items():
        first = next(iter(found.values()))
        shown = [*WORKLOADS[workload].shown, Shown("client_us_per_message", "client, µs")]
        rows = [("", *(each.title for each in shown), "CPU of", "acknowledged when")]
        for name, of_it in found.items():
            cells = []
            for each in shown:
                median = _median(of_it, each.name)
                ratio = _ratio(first, of_it, each.name) if of_it is not first else None
                cells.append(("-" if median is None else _number(median)) + (f" x{ratio:.2f}" if ratio else ""))
            rows.append((name, *cells, _parts(of_it), acknowledgements[name]))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        yield f"\n{workload}: {WORKLOADS[workload].help}"
        yield from ("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def _parts(findings: Sequence[Finding]) -> str:
    """Whose the CPU is, where it is of several."""
    parts = {role: _median(findings, f"cpu_ms_per_1000_{role}") for role in findings[0].cpu_seconds}
    return ", ".join(f"{role} {_number(median)}" for role, median in parts.items() if median) if len(parts) > 1 else ""


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
