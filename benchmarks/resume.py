"""What it costs to give clients what they missed: how fast it is, and what live traffic notices of it."""

from __future__ import annotations

import argparse
import multiprocessing
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any

from benchmarks.results import Result
from benchmarks.returning import LiveTraffic, Wish, come_back, p99
from testbed.daemon import Daemon

_ROOMS = 20

_FILL = """
INSERT INTO messages (room_id, seq, created_at, message_id, user_id, username, message_text, message_type, server_id,
                      client_ip, client_timestamp)
SELECT %s, seq, now(), gen_random_uuid(), user_id, 'user' || user_id,
       'The build is green, let us ship it ~' || lpad(to_hex(seq), 6, '0'), 'TEXT', 'server-1', '127.0.0.1', now()
FROM generate_series(1, %s) AS seq, LATERAL (SELECT 1 + seq * 7919 %% 100000 AS user_id) AS users
"""


def add_to(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Register the benchmarks; see :mod:`benchmarks.__main__`."""
    one = add("resume-one", help="one client away for 100,000 messages, beside live traffic")
    one.add_argument("--messages", type=int, default=100_000, help="that it missed")
    one.add_argument("--times", type=int, default=5, help="it comes back")
    one.add_argument("--rate", type=float, default=1000, help="live messages/s, all rooms together")
    one.add_argument("--seconds", type=float, default=10, help="of live traffic before")
    one.set_defaults(run=_one)
    many = add("resume-many", help="a thousand clients that come back at the same moment, beside live traffic")
    many.add_argument("--connections", type=int, default=1000)
    many.add_argument("--messages", type=int, default=1000, help="that each of them missed, about")
    many.add_argument("--rate", type=float, default=200, help="live messages/s, all rooms together")
    many.add_argument("--seconds", type=float, default=5, help="of live traffic before")
    many.set_defaults(run=_many)
    for parser in (one, many):
        parser.add_argument("options", nargs="*", metavar="-- OPTION", help="of the daemon, behind --")


def _one(arguments: argparse.Namespace) -> Result:
    result = Result("resume-one")
    rates = []
    # Each time another room, whose pages are in nobody's memory.
    rooms = range(1, arguments.times + 1)
    with _filled_daemon(dict.fromkeys(rooms, arguments.messages), arguments.options) as daemon, _process() as process:
        traffic = LiveTraffic(daemon.port, range(1, _ROOMS + 1), arguments.rate)
        before = traffic.run(_after(arguments.seconds))
        during: dict[str, list[float]] = {"ack": [], "delivery": []}
        for room in rooms:
            wish = Wish(room, 0, arguments.messages)
            returned = process.submit(come_back, daemon.port, [wish])
            for kind, seconds in traffic.run(returned.done).items():
                during[kind] += seconds
            found = returned.result()
            result.faults += found["faults"]
            rates += [arguments.messages / seconds for seconds in found["seconds"]]
        traffic.close()
        result.raw["prometheus"] = _figures(daemon)
    result.raw |= {"before": before, "during": during, "messages_per_second": rates}
    result.add("history given, slowest", min(rates, default=None), "messages/s", (">=", 50_000))
    result.add("history given, fastest", max(rates, default=None), "messages/s")
    for kind in ("ack", "delivery"):
        result.add(f"live {kind} p99 before", p99(before[kind]), "ms")
        result.add(f"live {kind} p99 meanwhile", p99(during[kind]), "ms")
        result.add(f"live {kind} p99, ratio", p99(during[kind]) / p99(before[kind]), "", ("<=", 2))
    return result


def _many(arguments: argparse.Namespace) -> Result:
    result = Result("resume-many")
    held = 2 * arguments.messages
    rooms = range(1, _ROOMS + 1)
    with _filled_daemon(dict.fromkeys(rooms, held), arguments.options) as daemon, _process() as process:
        traffic = LiveTraffic(daemon.port, rooms, arguments.rate)
        before = traffic.run(_after(arguments.seconds))
        heads = dict(daemon.sql("SELECT room_id, last_seq FROM rooms"))
        wishes = []
        for index in range(arguments.connections):
            room = index % _ROOMS + 1
            # Everybody lost the connection at another moment.
            wishes.append(Wish(room, max(0, heads[room] - arguments.messages - index % 100), heads[room]))
        returned = process.submit(come_back, daemon.port, wishes)
        during = traffic.run(returned.done)
        traffic.close()
        result.raw["prometheus"] = _figures(daemon)
    found = returned.result()
    result.faults += found["faults"]
    result.raw |= {"before": before, "during": during, "seconds": found["seconds"]}
    all_seconds = max(found["seconds"], default=None)
    result.add("all have what they missed", all_seconds, "s", ("<=", 10))
    if all_seconds:
        result.add("history given", sum(wish.head - wish.since for wish in wishes) / all_seconds, "messages/s")
    result.add("latest live delivery", max(during["delivery"], default=0.0), "s", ("<=", 2))
    for kind in ("ack", "delivery"):
        result.add(f"live {kind} p99 before", p99(before[kind]), "ms")
        result.add(f"live {kind} p99 meanwhile", p99(during[kind]), "ms")
    return result


@contextmanager
def _filled_daemon(messages: dict[int, int], options: list[str]) -> Iterator[Daemon]:
    """One whose rooms hold so many messages, which it knows from its start on."""
    with Daemon(*options) as daemon:
        daemon.start()
        for room, count in messages.items():
            daemon.sql(_FILL, room, count)
            daemon.sql("UPDATE rooms SET last_seq = %s WHERE room_id = %s", count, room)
        daemon.sql("VACUUM (ANALYZE) messages")  # as the server does by itself, some time later
        daemon.stop()
        yield daemon.restart()


@contextmanager
def _process() -> Iterator[ProcessPoolExecutor]:
    """Another process, which has already started."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as executor:
        executor.submit(time.time).result()
        yield executor


def _after(seconds: float) -> Callable[[], bool]:
    end = time.perf_counter() + seconds
    return lambda: time.perf_counter() >= end


def _figures(daemon: Daemon) -> Any:
    return daemon.get("/metrics", headers={"Accept": "text/plain"}).body.decode()
