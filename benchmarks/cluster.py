"""Several instances with emulator, PostgreSQL, HAProxy and the load client, all together on this machine."""

from __future__ import annotations

import argparse
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

from benchmarks.one_node import RUN_SECONDS, add_latencies, main_phase
from benchmarks.results import Goal, Result
from benchmarks.usage import cpu_seconds
from testbed.cluster import Cluster, check_left_behind
from testbed.crowd import Crowd
from testbed.haproxy import HOW_TO_INSTALL, HAProxy, find_haproxy
from testbed.load_client import LoadClient
from testbed.recounting import recount
from testbed.waiting import eventually

_DEADLINE_SECONDS = 120.0
_FAULTS = "*:drop=0.05,fail=0.05,delay_ms=500"
# As instances in AWS see them: a call takes 8 to 20 ms, and from SNS to a queue it takes 30 to 80. The emulator hands
# over at once; so the answers in which an instance hears of others are late, which bounds how many it gets as well.
_AWS_LATENCIES = (
    "ReceiveMessage@chatflow-fanout-*:least_answer_ms=40,answer_ms=100",
    "ReceiveMessage:least_answer_ms=10,answer_ms=20",
    "*:least_delay_ms=8,delay_ms=15",
)


def add_to(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Register the benchmarks; see :mod:`benchmarks.__main__`."""

    def benchmark(name: str, run: Callable[[argparse.Namespace], Result], help: str) -> argparse.ArgumentParser:
        parser = add(name, help=help)
        parser.add_argument("--instances", type=int, default=4)
        parser.add_argument("--room-queues", type=int, default=0, help="0 is one for each of the 20 rooms")
        parser.add_argument("--connections", type=int, default=400)
        parser.add_argument("--no-proxy", action="store_true", help="without HAProxy")
        parser.add_argument("options", nargs="*", metavar="-- OPTION", help="of the daemons, behind --")
        parser.set_defaults(run=run)
        return parser

    full = benchmark("cluster-throughput", _throughput, "four instances, as fast as acknowledgements allow")
    full.add_argument("--messages", type=int, default=200_000)
    full.add_argument("--in-flight", type=int, default=8, help="messages per connection without an answer")

    rate = benchmark("cluster-rate", _rate, "acknowledgement and delivery at a fixed rate, and what it costs in calls")
    rate.add_argument("--rate", type=float, default=20, help="messages/s, all connections together")
    rate.add_argument("--seconds", type=float, default=60)
    rate.add_argument("--aws-latencies", action="store_true", help="calls take as long as in AWS")
    rate.add_argument("--seed", type=int, default=1, help="of these latencies")

    idle = benchmark("cluster-idle", _idle, "AWS calls while nobody says anything")
    idle.add_argument("--seconds", type=float, default=120)

    changes = benchmark("cluster-changes", _changes, "one instance killed, one stopped, one added in mid-run")
    changes.add_argument("--rate", type=float, default=1000)
    changes.add_argument("--seconds", type=float, default=60)

    faults = benchmark("cluster-faults", _faults, "calls to AWS are delayed, fail, or lose their answer")
    faults.add_argument("--rules", default=_FAULTS, help="of the fault proxy, separated by spaces")
    faults.add_argument("--seed", type=int, default=1)
    faults.add_argument("--rate", type=float, default=500)
    faults.add_argument("--seconds", type=float, default=60)

    reconnect = benchmark("cluster-reconnect", _reconnect, "connections are cut at random, and one instance is killed")
    reconnect.add_argument("--every-seconds", type=float, default=5, help="a connection is cut about so often")
    reconnect.add_argument("--rate", type=float, default=1000)
    reconnect.add_argument("--seconds", type=float, default=60)

    away = benchmark("cluster-database-away", _database_away, "PostgreSQL is stopped for a while in mid-run")
    away.add_argument("--away-seconds", type=float, default=20)
    away.add_argument("--rate", type=float, default=1000)
    away.add_argument("--seconds", type=float, default=60)


@contextmanager
def started(arguments: argparse.Namespace, **more: Any) -> Iterator[Cluster]:
    """A cluster as the command line wants it."""
    haproxy = None
    if not arguments.no_proxy:
        if find_haproxy():
            haproxy = HAProxy()
        else:
            print(HOW_TO_INSTALL)
    common = {"instances": arguments.instances, "room_queues": arguments.room_queues, "haproxy": haproxy}
    with Cluster(*arguments.options, **common, **more) as cluster:
        yield cluster.start()


def load(cluster: Cluster, arguments: argparse.Namespace, *options: object, urls: Sequence[str] = ()) -> LoadClient:
    """A run of the load client against the cluster, or these instances of it, checked against the database."""
    common = ("--connections", arguments.connections, "--timeout-seconds", 60)
    where = list(urls) or cluster.urls
    return LoadClient(*common, *options, urls=where, database_url=cluster.database_url, progress=True)


def at_rate(arguments: argparse.Namespace, warmup_seconds: float = 5) -> list[object]:
    """Options for ``--rate`` and ``--seconds``."""
    messages = max(1, round(arguments.rate * arguments.seconds))
    warmup = round(arguments.rate * warmup_seconds)
    return ["--rate", arguments.rate, "--messages", messages, "--warmup-messages", warmup]


def finish(result: Result, cluster: Cluster, client: LoadClient) -> dict[str, Any]:
    """The report of a run that must pass, on counts that must be exact; with the cluster's own figures in ``raw``."""
    report = client.report(RUN_SECONDS)
    result.expect_pass(report)
    result.faults += [f"recount: {name}: {rows}" for name, rows in recount(cluster.database_url).items()]
    result.raw |= {"report": report, "calls": cluster.aws_calls(), "figures": cluster.totals()}
    return report


def per_thousand(before: Counter[str], after: Counter[str], messages: int) -> float | None:
    """AWS requests per 1,000 messages."""
    return (after.total() - before.total()) / messages * 1000 if messages else None


def _throughput(arguments: argparse.Namespace) -> Result:
    result = Result("cluster-throughput")
    with started(arguments) as cluster:
        before = cluster.aws_calls()
        size = ("--messages", arguments.messages, "--in-flight", arguments.in_flight, "--warmup-messages", 0)
        with load(cluster, arguments, *size) as client:
            report = finish(result, cluster, client)
        calls = per_thousand(before, cluster.aws_calls(), report["acked"])
    main = main_phase(report)
    result.add("acknowledged, stored and delivered", main["acked_per_second"], "messages/s", (">=", 3465))
    result.add("AWS requests per 1,000 messages", calls, "", ("<=", 60))
    result.add("delivery p50", report["delivery_latency_ms"]["p50"], "ms", ("<=", 1000))
    result.add("delivered", main["delivered_per_second"], "deliveries/s")
    add_latencies(result, report)
    return result


_LATENCY_GOALS: dict[float, tuple[Goal | None, Goal | None]] = {
    20: (("<=", 30), ("<=", 250)),
    200: (None, ("<=", 500)),
    3465: (None, ("<=", 1000)),
}


def _rate(arguments: argparse.Namespace) -> Result:
    result = Result(f"cluster-rate-{arguments.rate:g}")
    faults = _AWS_LATENCIES if arguments.aws_latencies else None
    with started(arguments, faults=faults, seed=arguments.seed) as cluster:
        daemons = tuple((f"daemon {number}", one.process.pid) for number, one in enumerate(cluster.instances, 1))
        before, worked = cluster.aws_calls(), sum(cpu_seconds(daemons).values())
        with load(cluster, arguments, *at_rate(arguments)) as client:
            report = finish(result, cluster, client)
        calls = per_thousand(before, cluster.aws_calls(), report["acked"])
        worked = sum(cpu_seconds(daemons).values()) - worked
    ack_goal, delivery_goal = _LATENCY_GOALS.get(arguments.rate, (None, None))
    if arguments.aws_latencies:
        ack_goal, delivery_goal = None, ("<=", 250)
    result.add("ack p50, from when it was due", report["ack_latency_ms"]["p50"], "ms", ack_goal)
    result.add("delivery p50, from when it was due", report["delivery_latency_ms"]["p50"], "ms", delivery_goal)
    result.add("acknowledged", main_phase(report)["acked_per_second"], "messages/s")
    result.add("AWS requests per 1,000 messages", calls, "", ("<=", 60) if arguments.rate >= 3465 else None)
    spent_ms = worked / report["acked"] * 1e6 if report["acked"] else None
    result.add("processor time of the daemons per 1,000 messages", spent_ms, "ms")
    add_latencies(result, report)
    return result


def _idle(arguments: argparse.Namespace) -> Result:
    result = Result("cluster-idle")
    with started(arguments) as cluster:
        time.sleep(min(20.0, arguments.seconds))  # the first long polls begin with the start
        before, began = cluster.aws_calls(), time.monotonic()
        time.sleep(arguments.seconds)
        calls, minutes = cluster.aws_calls() - before, (time.monotonic() - began) / 60
    queues = (arguments.room_queues or 20) + 1
    result.raw = {"calls": calls, "minutes": minutes, "queues": queues}
    per_instance = calls.total() / minutes / arguments.instances
    result.add("calls per minute, queue and instance", per_instance / queues, "", ("<=", 3))
    result.add("calls per minute and instance", per_instance, "")
    for call, count in calls.most_common():
        result.add(call, count / minutes / arguments.instances, "per minute")
    return result


def _changes(arguments: argparse.Namespace) -> Result:
    """Survivors' clients are proven by the load client; those of the others talk less, and remember everything."""
    result = Result("cluster-changes")
    with started(arguments) as cluster:
        killed, stopped, *survivors = cluster.instances
        first, second = (Crowd(one, rooms=(1, 2, 3, 4), each=1, window=10) for one in (killed, stopped))
        urls = cluster.urls_of(survivors)
        with load(cluster, arguments, *at_rate(arguments, 0), urls=urls) as client, first, second:
            _wait(cluster, client, arguments.rate * arguments.seconds / 5)
            killed.kill()
            died = time.monotonic()
            (added,) = cluster.add()
            late_size = ("--connections", 50, "--rate", 200, "--messages", 2000, "--warmup-messages", 0)
            with load(cluster, arguments, *late_size, urls=cluster.urls_of([added])) as late:
                _wait(cluster, client, arguments.rate * arguments.seconds / 5)
                status = stopped.stop()
                if not client.runs:
                    result.faults.append("the load was over before everything had happened: more --seconds")
                late_report = late.report(RUN_SECONDS)
                result.expect_pass(late_report, "load client on the added instance")
            eventually(lambda: not cluster.fanout_names(killed), "the killed one's queue is reaped", _DEADLINE_SECONDS)
            reaped = time.monotonic() - died
            report = finish(result, cluster, client)
        for crowd in (first, second):
            try:
                check_left_behind(cluster, crowd)
            except AssertionError as error:
                result.faults.append(str(error))
    result.raw["late"] = late_report
    result.raw["acknowledged_by_the_dead"] = first.acknowledged, second.acknowledged
    if status:
        result.faults.append(f"the stopped instance ended with status {status}")
    result.add("acknowledged by the killed and the stopped", first.acknowledged + second.acknowledged, "messages")
    result.add("longest time without a delivery elsewhere", _longest_silence(report), "s")
    result.add("queue of the killed one is gone after", reaped, "s")
    add_latencies(result, report)
    return result


def _faults(arguments: argparse.Namespace) -> Result:
    result = Result("cluster-faults")
    with started(arguments, faults=arguments.rules.split(), seed=arguments.seed) as cluster:
        with load(cluster, arguments, *at_rate(arguments)) as client:
            report = finish(result, cluster, client)
        faults = cluster.faults.faults
        injected = {f"{operation} {kind}": count for (operation, kind), count in faults.injected.items()}
        result.raw |= {"injected": injected, "calls_through_proxy": faults.calls}
        totals = cluster.totals()
    result.add("calls", faults.calls.total(), "")
    result.add("of them made to fail", sum(injected.values()), "")
    result.add("envelopes received again", totals["chatflow_queue_redeliveries_total"], "")
    result.add("publishes tried again", totals["chatflow_publish_retries_total"], "")
    result.add("acknowledged", main_phase(report)["acked_per_second"], "messages/s")
    add_latencies(result, report)
    return result


def _database_away(arguments: argparse.Namespace) -> Result:
    result = Result("cluster-database-away")
    with started(arguments) as cluster, load(cluster, arguments, *at_rate(arguments, 0)) as client:
        _wait(cluster, client, arguments.rate * arguments.seconds / 6)
        cluster.stop_database()
        acked = cluster.totals()["chatflow_messages_acknowledged_total"]
        threading.Event().wait(arguments.away_seconds)
        acked_meanwhile = cluster.totals()["chatflow_messages_acknowledged_total"] - acked
        cluster.start_database()
        report = finish(result, cluster, client)
    result.add("acknowledged while it was away", acked_meanwhile, "messages")
    result.add("longest time without a delivery", _longest_silence(report), "s")
    add_latencies(result, report)
    return result


def _reconnect(arguments: argparse.Namespace) -> Result:
    """The load client comes back through HAProxy, on whichever instance lives."""
    result = Result("cluster-reconnect")
    with started(arguments) as cluster:
        options = ["--reconnect", arguments.every_seconds, *at_rate(arguments, 0)]
        with load(cluster, arguments, *options) as client:
            _wait(cluster, client, arguments.rate * arguments.seconds / 4)
            cluster.instances[0].kill()
            report = finish(result, cluster, client)
    result.add("times that a connection came back", report["reconnects"], "")
    result.add("of these, ended by the instances", sum(report["losses"].values()), "")
    result.add("messages sent again", report["resent"], "")
    result.add("acknowledged", main_phase(report)["acked_per_second"], "messages/s")
    add_latencies(result, report)
    return result


def _wait(cluster: Cluster, client: LoadClient, acknowledgements: float) -> None:
    """Until so many more messages are acknowledged."""

    def acknowledged() -> float:
        return cluster.totals()["chatflow_messages_acknowledged_total"]

    goal = acknowledged() + acknowledgements
    eventually(lambda: not client.runs or acknowledged() >= goal, "the load goes on", _DEADLINE_SECONDS)


def _longest_silence(report: dict[str, Any]) -> float:
    """Whole seconds of the main phase in which nothing was delivered to anybody."""
    seconds = report["delivered_in_second"][: math.ceil(main_phase(report)["seconds"])]
    busy = [-1, *(second for second, count in enumerate(seconds) if count)]
    return float(max((later - earlier - 1 for earlier, later in pairwise(busy)), default=0))
