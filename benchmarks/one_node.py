"""One daemon with all defaults, its embedded PostgreSQL and the load client, together on this machine."""

from __future__ import annotations

import argparse
import resource
import secrets
import selectors
import socket
import statistics
import time
from collections.abc import Callable
from typing import Any

import psutil

from benchmarks import load_ceiling
from benchmarks.results import Result
from testbed.client import PING, PONG, RawClient, client_frame
from testbed.daemon import LISTEN, Daemon
from testbed.http_client import request
from testbed.load_client import LoadClient

RUN_SECONDS = 900.0
_ROOMS = 20


def add_to(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Register the benchmarks; see :mod:`benchmarks.__main__`."""

    def benchmark(name: str, run: Callable[[argparse.Namespace], Result], help: str) -> argparse.ArgumentParser:
        parser = add(name, help=help)
        parser.add_argument("options", nargs="*", metavar="-- OPTION", help="of the daemon, behind --")
        parser.set_defaults(run=run)
        return parser

    throughput = benchmark(
        "throughput", _throughput, "as fast as acknowledgements allow, all looked up in the database"
    )
    throughput.add_argument("--messages", type=int, default=500_000)
    throughput.add_argument("--connections", type=int, default=64)
    throughput.add_argument(
        "--tokens", action="store_true", help="of a daemon with --auth jwt: see docs/authentication.rst"
    )
    throughput.add_argument("--processes", type=int, default=1, help="of the load client")

    latency = benchmark("latency", _latency, "acknowledgement and delivery at a fixed rate")
    latency.add_argument("--rate", type=float, default=3465, help="messages/s, all connections together")
    latency.add_argument("--seconds", type=float, default=60)

    fanout = benchmark("fanout", _fanout, "a thousand listeners in ten rooms: deliveries per second")
    fanout.add_argument("--connections", type=int, default=1000)
    fanout.add_argument("--rooms", type=int, default=10)
    fanout.add_argument("--messages", type=int, default=100_000)
    fanout.add_argument("--processes", type=int, default=1, help="of the load client")

    idle = benchmark("idle", _idle, "memory of the daemon per idle connection")
    idle.add_argument("--connections", type=int, default=5000)
    idle.add_argument("--seconds", type=float, default=45, help="how long they stay: pings go out every 20 s")

    start = benchmark("start", _start, "start to ready on an existing data directory")
    start.add_argument("--times", type=int, default=10)
    start.add_argument("--messages", type=int, default=100_000, help="what the directory holds")

    ceiling = add("client-ceiling", help="the load client against a server that does nothing")
    ceiling.set_defaults(run=_client_ceiling)


def load(url: str, *options: object, database_url: str = "") -> dict[str, Any]:
    """The report of a run of the load client, whose progress is shown."""
    with LoadClient(*options, urls=[url], database_url=database_url, progress=True) as client:
        return client.report(RUN_SECONDS)


def main_phase(report: dict[str, Any]) -> dict[str, Any]:
    """Its main phase, all zero if it was never reached."""
    missed = {"seconds": 0.0, "acked_per_second": 0.0, "delivered_per_second": 0.0}
    return next((phase for phase in report["phases"] if phase["name"] == "main"), missed)


def add_latencies(result: Result, report: dict[str, Any]) -> None:
    """Percentiles without goals."""
    for what in ("ack", "delivery"):
        for name, value in report[f"{what}_latency_ms"].items():
            result.add(f"{what} {name.replace('_', '.')}", value, "ms")


def _throughput(arguments: argparse.Namespace) -> Result:
    result = Result("throughput")
    with Daemon(*arguments.options) as daemon:
        size = ("--messages", arguments.messages, "--warmup-messages", min(32_000, arguments.messages))
        options: tuple[object, ...] = (*size, "--connections", arguments.connections)
        if arguments.tokens:
            key = daemon.directory / "key"
            key.write_text(secrets.token_hex(32))
            daemon.options += ("--auth", "jwt", "--jwt-key-file", str(key), "--admin-listen", LISTEN)
            options += ("--token-key-file", key)
        daemon.start()
        report = load(_url(daemon), *options, "--processes", arguments.processes, database_url=daemon.database_url)
        result.raw = {"report": report, "daemon": _daemon_figures(daemon)}
    result.expect_pass(report)
    main = main_phase(report)
    result.add("acknowledged, stored and delivered", main["acked_per_second"], "messages/s", (">=", 15_000))
    result.add("delivered", main["delivered_per_second"], "deliveries/s")
    result.add("looked up in the database", report["stored"]["checked"], "messages")
    add_latencies(result, report)
    return result


def _latency(arguments: argparse.Namespace) -> Result:
    result = Result("latency")
    with Daemon(*arguments.options) as daemon:
        daemon.start()
        messages = round(arguments.rate * arguments.seconds)
        report = load(
            _url(daemon), "--rate", arguments.rate, "--messages", messages, "--warmup-messages", messages // 10
        )
        result.raw = {"report": report, "daemon": _daemon_figures(daemon)}
    result.expect_pass(report)
    latencies = report["ack_latency_ms"]
    result.add("ack p50, from when it was due", latencies["p50"], "ms", ("<=", 15))
    result.add("ack p99, from when it was due", latencies["p99"], "ms", ("<=", 60))
    add_latencies(result, report)
    return result


def _fanout(arguments: argparse.Namespace) -> Result:
    result = Result("fanout")
    with Daemon(*arguments.options) as daemon:
        daemon.start()
        rooms = ("--rooms", arguments.rooms, "--even-rooms", "--senders", arguments.rooms)
        client = ("--in-flight", 500, "--warmup-messages", 2000, "--processes", arguments.processes)
        size = ("--connections", arguments.connections, "--messages", arguments.messages)
        report = load(_url(daemon), *rooms, *size, *client)
        result.raw = {"report": report, "daemon": _daemon_figures(daemon)}
    result.expect_pass(report)
    main = main_phase(report)
    result.add("deliveries", main["delivered_per_second"], "deliveries/s", (">=", 500_000))
    result.add("acknowledged", main["acked_per_second"], "messages/s")
    result.add("busiest client process", max(report["client"]["busy"], default=None), "of a CPU")
    add_latencies(result, report)
    return result


def _idle(arguments: argparse.Namespace) -> Result:
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    result = Result("idle")
    with Daemon(*arguments.options) as daemon:
        daemon.start()
        process = psutil.Process(daemon.process.pid)
        warm = [_listener(daemon.port, index) for index in range(50)]  # what is made once, at first use
        for each in warm:
            each.close()
        before = process.memory_full_info()
        sockets = [_listener(daemon.port, index) for index in range(arguments.connections)]
        opened = process.memory_full_info()
        pings, lost = _stay(sockets, arguments.seconds)
        after = process.memory_full_info()
        connections = daemon.get("/metrics").json()["rooms"]["totalSessions"]
        for each in sockets:
            each.close()
    result.raw = {name: info._asdict() for name, info in (("before", before), ("opened", opened), ("after", after))}
    result.raw |= {"pings_answered": pings, "connections": connections}
    if lost or connections != arguments.connections:
        result.faults.append(f"{connections} of {arguments.connections} connections are left")
    per_connection = (after.uss - before.uss) / arguments.connections / 1000
    result.add("memory per connection", per_connection, "KB", ("<=", 20))
    result.add("just after they were opened", (opened.uss - before.uss) / arguments.connections / 1000, "KB")
    result.add("memory before", before.uss / 1e6, "MB")
    result.add("pings answered", pings, "")
    return result


def _listener(port: int, index: int) -> socket.socket:
    client = RawClient(port, f"/chat/{index % _ROOMS + 1}")
    assert client.answer.status == 101, client.answer
    return client.socket


def _stay(sockets: list[socket.socket], seconds: float) -> tuple[int, int]:
    """Answer pings for a while: how many were answered, and how many connections the server closed."""
    pings = lost = 0
    deadline = time.monotonic() + seconds
    with selectors.DefaultSelector() as selector:
        for each in sockets:
            selector.register(each, selectors.EVENT_READ)
        while (left := deadline - time.monotonic()) > 0:
            for key, _ in selector.select(left):
                ready = key.fileobj
                assert isinstance(ready, socket.socket)
                data = ready.recv(4096)
                if not data:
                    selector.unregister(ready)
                    lost += 1
                elif data[0] & 0xF == PING:  # nothing else is sent to a silent room
                    ready.sendall(client_frame(PONG, data[2:]))
                    pings += 1
    return pings, lost


def _start(arguments: argparse.Namespace) -> Result:
    result = Result("start")
    seconds = []
    with Daemon(*arguments.options) as daemon:
        began = time.monotonic()
        daemon.start()
        first = time.monotonic() - began
        result.expect_pass(load(_url(daemon), "--messages", arguments.messages))
        for _ in range(arguments.times):
            daemon.stop()
            began = time.monotonic()
            daemon.restart()
            seconds.append(time.monotonic() - began)
    result.raw = {"first_seconds": first, "seconds": seconds}
    result.add("start to ready, slowest", max(seconds), "s", ("<=", 3))
    result.add("start to ready, median", statistics.median(seconds), "s")
    result.add("first start, which makes the cluster", first, "s")
    return result


def _client_ceiling(arguments: argparse.Namespace) -> Result:
    result = Result("client-ceiling")
    for workload in ("mixed", "fan-out"):
        report = load_ceiling.measure(workload)
        found = load_ceiling.figures(report)
        result.raw[workload] = {"report": report, "figures": found}
        result.expect_pass(report)
        result.add(f"{workload}: acknowledged", found["messages_per_second"], "messages/s")
        result.add(f"{workload}: acks and broadcasts", found["frames_per_second"], "frames/s")
        result.add(f"{workload}: processor time", found["us_per_frame"], "µs/frame")
    return result


def _url(daemon: Daemon) -> str:
    return f"ws://127.0.0.1:{daemon.port}/chat"


def _daemon_figures(daemon: Daemon) -> dict[str, Any]:
    """What the run cost the daemon, and what it says of itself."""
    process = psutil.Process(daemon.process.pid)
    cpu = process.cpu_times()
    port = daemon.admin_port if "--admin-listen" in daemon.options else daemon.port
    return {
        "processor_seconds": {"user": cpu.user, "system": cpu.system},
        "memory": process.memory_full_info()._asdict(),
        "prometheus": request(port, "GET", "/metrics", {"Accept": "text/plain"}).body.decode(),
    }
