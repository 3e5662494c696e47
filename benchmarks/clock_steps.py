"""The clock of daemon and PostgreSQL, as that of one machine, is set forward and back under load."""

from __future__ import annotations

import argparse
import contextlib
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.one_node import RUN_SECONDS, add_latencies, main_phase
from benchmarks.results import Result
from chatflow.postgres.embedded import EmbeddedPostgres
from testbed.cluster import Cluster
from testbed.daemon import Daemon, running_daemon
from testbed.load_client import LoadClient
from testbed.postgres import migrate
from testbed.recounting import recount
from testbed.set_clock import HOW_TO_INSTALL, SteppedClock, find_libfaketime
from testbed.threads import beside

HOUR, DAY = 3600.0, 86_400.0
#: Ahead of the true time, one after the other.
STEPS = (HOUR, 0.0, -HOUR, 0.0, DAY, 0.0, -DAY, 0.0, DAY, -DAY, HOUR, 0.0)


def add_to(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Register the benchmark; see :mod:`benchmarks.__main__`."""
    parser = add("clock-steps", help="the clock is set by an hour and a day, both ways, in mid-run")
    parser.add_argument("--rate", type=float, default=3465, help="messages/s, all connections together")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--every-seconds", type=float, default=5, help="between two steps")
    parser.add_argument("--instances", type=int, default=0, help="of a cluster; 0 is one node without SQS")
    parser.add_argument("options", nargs="*", metavar="-- OPTION", help="of the daemons, behind --")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> Result:
    result = Result("clock-steps")
    if find_libfaketime() is None:
        result.faults.append(HOW_TO_INSTALL)
        return result
    with tempfile.TemporaryDirectory(prefix="chatflow-clock-") as directory:
        clock = SteppedClock(Path(directory))
        with _servers(arguments, clock) as daemons:
            url = daemons[0].database_url
            messages = round(arguments.rate * arguments.seconds)
            options = ("--rate", arguments.rate, "--messages", messages, "--warmup-messages", messages // 10)
            urls = [f"ws://127.0.0.1:{daemon.port}" for daemon in daemons]
            with (
                _stepping(clock, arguments.every_seconds) as done,
                LoadClient(*options, urls=urls, database_url=url, progress=True) as client,
            ):
                report = client.report(RUN_SECONDS)
            result.expect_pass(report)
            result.faults += [f"recount: {name}: {rows}" for name, rows in recount(url).items()]
            result.raw = {"report": report, "steps": list(done)}
            seen = sum(daemon.counter("chatflow_clock_jumps_total") for daemon in daemons)
            dropped = sum(daemon.counter("chatflow_silent_clients_dropped_total") for daemon in daemons)
            opened = sum(daemon.counter("chatflow_connections_opened_total") for daemon in daemons)
    result.add("times the clock was set", len(done), "", (">=", min(8, arguments.seconds // arguments.every_seconds)))
    result.add("seen by the daemons", seen, "", (">=", 1))
    result.add("acknowledged, stored and delivered", main_phase(report)["acked_per_second"], "messages/s")
    result.add("connections that were dropped", dropped, "", ("==", 0))
    result.add("connections that were made", opened, "")
    add_latencies(result, report)
    return result


@contextlib.contextmanager
def _servers(arguments: argparse.Namespace, clock: SteppedClock) -> Iterator[Sequence[Daemon]]:
    with contextlib.ExitStack() as stack:
        if arguments.instances:
            cluster = Cluster(*arguments.options, instances=arguments.instances, clock=clock)
            yield stack.enter_context(cluster).start().running
            return
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="chatflow-stepped-"))
        postgres = EmbeddedPostgres(Path(directory))
        stack.callback(postgres.stop)
        with clock.inherited():
            url = postgres.start()
        migrate(url)
        yield [stack.enter_context(running_daemon(*arguments.options, database=url, environment=clock.environment))]


@contextlib.contextmanager
def _stepping(clock: SteppedClock, every_seconds: float) -> Iterator[list[Any]]:
    """Within the block the clock is set again and again; what it was set to."""
    done: list[Any] = []

    def step(over: threading.Event) -> None:
        while not over.wait(every_seconds):
            done.append(STEPS[len(done) % len(STEPS)])
            clock.set(done[-1])

    with beside("clock", step):
        yield done
