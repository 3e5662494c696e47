"""Half an hour of load with connections that come and go: nothing may be lost, grow, or become slower."""

from __future__ import annotations

import argparse
from array import array
from collections.abc import Callable
from pathlib import Path

import psutil

from benchmarks.faults.hosts import Host
from benchmarks.one_node import main_phase
from benchmarks.results import Result
from benchmarks.trend import fifths, percentile, sampled, slope_per_minute
from testbed.daemon import Daemon
from testbed.fault_points import PLANTS
from testbed.load_client import LoadClient
from testbed.postgres import copy_cluster
from testbed.recounting import recount

_MOST_BYTES_PER_MINUTE = 1_000_000.0
_MOST_TIMES = 1.2
_WARM_UP_SHARE = 1 / 3
_SAMPLES = 600
# Pools and buffers fill for some minutes: before that a slope says more of them than of a leak.
_LONG_ENOUGH_MINUTES = 10.0
_SPARE_SECONDS = 600.0


def add_to(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Register the benchmark; see :mod:`benchmarks.__main__`."""
    parser = add("endurance", help="half an hour with connections that come and go: memory and latencies stay")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--rate", type=float, default=2400, help="messages/s, all connections together")
    parser.add_argument("--connections", type=int, default=100)
    parser.add_argument("--every-seconds", type=float, default=20, help="each connection is cut about so often")
    parser.add_argument("--plant", default="", choices=("", *PLANTS), help="a defect that is to be found")
    parser.add_argument("options", nargs="*", metavar="-- OPTION", help="of the daemon, behind --")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> Result:
    result = Result("endurance")
    seconds = arguments.minutes * 60
    messages = round(arguments.rate * seconds)
    size = ("--rate", arguments.rate, "--messages", messages, "--connections", arguments.connections)
    churn = ("--reconnect", arguments.every_seconds, "--warmup-messages", 0, "--timeout-seconds", 60)
    with Host(*arguments.options) if arguments.plant else Daemon(*arguments.options) as daemon:
        copy_cluster(daemon.data_directory)
        daemon.start()
        if isinstance(daemon, Host):
            daemon.plant(arguments.plant)
        process = psutil.Process(daemon.process.pid)
        with (
            sampled(lambda: float(process.memory_full_info().uss), max(0.05, seconds / _SAMPLES)) as memory,
            LoadClient(
                *size,
                *churn,
                urls=[f"ws://127.0.0.1:{daemon.port}/chat"],
                database_url=daemon.database_url,
                progress=True,
            ) as client,
        ):
            report = client.report(seconds + _SPARE_SECONDS)
            latencies = latencies_ms(client.directory / "messages.csv")
        result.expect_pass(report)
        result.faults += [f"recount: {name}: {rows}" for name, rows in recount(daemon.database_url).items()]
    slope = slope_per_minute(memory, seconds * _WARM_UP_SHARE)
    # Until all users are known, commits become dearer: see docs/faults.rst. That is no drift of the daemon.
    first, *_, last = fifths(latencies[round(len(latencies) * _WARM_UP_SHARE) :])
    result.raw = {"report": report, "memory_bytes": memory}
    result.add("messages acknowledged, stored and delivered", report["acked"], "", ("==", messages))
    result.add("acknowledged", main_phase(report)["acked_per_second"], "messages/s")
    result.add("times that a connection came back", report["reconnects"], "")
    result.add("memory of the daemon at the end", memory[-1][1] / 1e6, "MB")
    result.add("grows after the warm-up by", slope / 1e6, "MB per minute", ("<=", _MOST_BYTES_PER_MINUTE / 1e6))
    for percent in (50, 99):
        before, after = percentile(first, percent), percentile(last, percent)
        result.add(f"ack p{percent} after the warm-up, of the first fifth", before, "ms")
        result.add(f"ack p{percent} of the last fifth", after, "ms")
        if percent == 50 and before and after:
            result.add("ack p50 of the last fifth, times", after / before, "", ("<=", _MOST_TIMES))
    if slope > _MOST_BYTES_PER_MINUTE and arguments.minutes >= _LONG_ENOUGH_MINUTES:
        result.faults.append(f"the daemon grows by {slope / 1e6:.1f} MB per minute")
    return result


def latencies_ms(path: Path) -> array[float]:
    """Of every acknowledged message, in the order of acknowledgements; see docs/load.rst, ``messages.csv``."""
    found = array("d")
    with path.open(encoding="ascii") as lines:
        next(lines)
        for line in lines:
            latency = line.split(",", 3)[2]
            if latency:
                found.append(float(latency))
    return found
