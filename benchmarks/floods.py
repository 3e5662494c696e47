"""What others notice of one address that wants everything.

Whoever floods is on this machine, and takes of its processors what somebody elsewhere would not. So it is compared with
what others notice of a process that takes as much and sends nothing.
"""

from __future__ import annotations

import argparse
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median

import psutil

from benchmarks.attacks import ATTACKS, Sent
from benchmarks.elsewhere import Times, busy, compare, process
from benchmarks.results import Result
from benchmarks.returning import LiveTraffic
from testbed.daemon import Daemon
from testbed.http_client import request
from testbed.threads import beside

_ROOMS = range(1, 21)


def add_to(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Register the benchmark; see :mod:`benchmarks.__main__`."""
    flood = add("flood", help="of one address, beside which another one talks")
    flood.add_argument("--kinds", nargs="+", choices=ATTACKS, default=list(ATTACKS), help="of what")
    flood.add_argument("--rate", type=float, default=100.0, help="live messages/s, all rooms together")
    flood.add_argument("--seconds", type=float, default=10.0, help="without and beside each of them")
    flood.add_argument("--rounds", type=int, default=3, help="how often that is done")
    flood.add_argument("options", nargs="*", metavar="-- OPTION", help="of the daemon, behind --")
    flood.set_defaults(run=_flood)


def _flood(arguments: argparse.Namespace) -> Result:
    result = Result("flood")
    alone, beside_them = ({kind: Times() for kind in arguments.kinds} for _ in range(2))
    answers: dict[str, list[int]] = {kind: [] for kind in arguments.kinds}
    sent = {kind: Sent() for kind in arguments.kinds}
    shares: dict[str, list[float]] = {kind: [] for kind in arguments.kinds}
    with Daemon(*arguments.options) as daemon:
        daemon.start()
        os_process = psutil.Process(daemon.process.pid)
        traffic = LiveTraffic(daemon.port, _ROOMS, arguments.rate)
        for _ in range(arguments.rounds):
            for kind in arguments.kinds:
                with (
                    process(ATTACKS[kind], daemon.port, sent[kind]) as attacker,
                    _looking(daemon.port, answers[kind]),
                ):
                    share = beside_them[kind].measure(os_process, traffic, arguments.seconds, attacker)
                with process(busy, share), _looking(daemon.port, []):
                    alone[kind].measure(os_process, traffic, arguments.seconds)
                shares[kind].append(share)
        traffic.close()
        text = daemon.get("/metrics", headers={"Accept": "text/plain"}).body.decode()
        result.raw["limited"] = [line for line in text.splitlines() if line.startswith("chatflow_limited_total")]
    for kind in arguments.kinds:
        spans = arguments.seconds * arguments.rounds
        result.raw[kind] = {"alone": alone[kind].seconds, "beside": beside_them[kind].seconds}
        for what, count in sent[kind].counts().items():
            result.add(f"{what} of the flood of {kind}, a second", count / spans, "")
        result.add(f"processor of the flood of {kind}", median(shares[kind]) * 100, "%")
        compare(result, alone[kind], beside_them[kind], kind)
        good = answers[kind].count(200) / len(answers[kind]) * 100
        result.add(f"/health/ready beside {kind}: 200 in", good, "%", ("==", 100))
        if good != 100:
            result.faults.append(f"beside {kind} a health check was not answered 200: {sorted(set(answers[kind]))}")
    return result


@contextmanager
def _looking(port: int, answers: list[int]) -> Iterator[None]:
    """Ask as a load balancer does, until the block ends; 0 stands for no answer."""

    def look(over: threading.Event) -> None:
        while not over.wait(0.5):
            try:
                answers.append(request(port, "GET", "/health/ready").status)
            except OSError:
                answers.append(0)

    with beside("a load balancer", look):
        yield
