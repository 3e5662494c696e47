"""How long messages wait when an instance of a cluster is killed, and when one is stopped; and the calls that costs."""

from __future__ import annotations

import argparse
import signal
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from benchmarks.cluster import started
from benchmarks.results import Result
from benchmarks.returning import LiveTraffic, p99
from testbed.recounting import recount

#: Of each phase, before anything happens.
_BEFORE_SECONDS = 2.0


def add_to(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Register the benchmark; see :mod:`benchmarks.__main__`."""
    parser = add("cluster-recovery", help="the longest that a message waits when an instance is killed, or stopped")
    parser.add_argument("--instances", type=int, default=4)
    parser.add_argument("--room-queues", type=int, default=0, help="0 is one for each of the 20 rooms")
    parser.add_argument("--rate", type=float, default=20, help="messages/s, all rooms together")
    parser.add_argument("--seconds", type=float, default=30, help="of each of the three phases")
    parser.add_argument("--rooms", type=int, default=20)
    parser.add_argument("options", nargs="*", metavar="-- OPTION", help="of the daemons, behind --")
    parser.set_defaults(run=_run, no_proxy=True)


def _run(arguments: argparse.Namespace) -> Result:
    """The members are those of the last instance, so that what they wait for is stored, wherever its room's head is."""
    result = Result("cluster-recovery")
    with started(arguments, rooms=arguments.rooms) as cluster:
        killed, stopped, *_, serving = cluster.instances
        traffic = LiveTraffic(serving.port, range(1, arguments.rooms + 1), arguments.rate)
        try:
            before = cluster.aws_calls()
            quiet = traffic.run(_during(arguments.seconds, lambda: None))
            calls = cluster.aws_calls() - before
            after_kill = traffic.run(_during(arguments.seconds, killed.kill))
            after_stop = traffic.run(_during(arguments.seconds, lambda: stopped.send_signal(signal.SIGTERM)))
        finally:
            traffic.close()
        if status := stopped.wait(60):
            result.faults.append(f"the stopped instance ended with status {status}")
        result.faults += [f"recount: {name}: {rows}" for name, rows in recount(cluster.database_url).items()]
        totals = cluster.totals()
    result.raw = {"calls": calls, "quiet": quiet, "after_kill": after_kill, "after_stop": after_stop}
    result.add("delivery p99 while nothing happens", p99(quiet["delivery"]), "ms")
    result.add("longest delivery while nothing happens", max(quiet["delivery"]), "s")
    result.add("longest delivery when one is killed", max(after_kill["delivery"]), "s", ("<=", 5))
    result.add("longest delivery when one is stopped", max(after_stop["delivery"]), "s", ("<=", 1))
    result.add("calls while nothing happens", calls.total() / len(quiet["delivery"]) * 1000, "per 1,000")
    result.add("of them extend a visibility", _share_of_extensions(calls), "%", ("<=", 5))
    result.add("envelopes that were held too long", totals["chatflow_envelopes_too_late_total"], "")
    return result


def _during(seconds: float, act: Callable[[], Any]) -> Callable[[], bool]:
    """Whether a phase is over; asked again and again, it acts when it is time to."""
    began = time.perf_counter()
    to_do = [act]

    def is_over() -> bool:
        now = time.perf_counter() - began
        if to_do and now >= min(_BEFORE_SECONDS, seconds / 2):
            to_do.pop()()
        return now >= seconds

    return is_over


def _share_of_extensions(calls: Counter[str]) -> float:
    """Percent of all calls."""
    extensions = sum(count for call, count in calls.items() if call.startswith("change_message_visibility"))
    return 100 * extensions / max(1, calls.total())
