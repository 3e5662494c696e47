"""How a daemon grows: tens of thousands of connections, a thousand rooms, one room with thousands of members."""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import select
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

import psutil

from benchmarks.peers.client import Plan, talk
from benchmarks.peers.process import run_apart
from benchmarks.peers.wires import MARK
from benchmarks.results import Result
from testbed.client import PING, PONG, RawClient, client_frame, handshake
from testbed.daemon import Daemon
from testbed.postgres import copy_cluster

#: Opened at the same time.
_CHUNK = 200
#: Of one source address: the system has about 28,000 ports for each.
_PER_ADDRESS = 20_000
#: Of Linux: the port is chosen when it is known where the connection goes. Python has no name for it.
_BIND_ADDRESS_NO_PORT = 24
#: Files that a process has open beside its connections.
_OTHER_FILES = 1000
_BIG_ROOM = 1
_BIG_ROOM_MESSAGES = 5
_PATIENCE_SECONDS = 60.0

# A user has a line for each room that it has talked in.
_FILL_USERS = """
INSERT INTO user_activity (user_id, room_id, username, message_count, text_count, join_count, leave_count,
                           first_activity, last_activity)
SELECT 1 + number %% 100000, 1 + number / 100000, 'user' || 1 + number %% 100000, 1, 1, 0, 0, now(), now()
FROM generate_series(0, %s - 1) AS number ON CONFLICT DO NOTHING
"""


def add_to(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Register the benchmark; see :mod:`benchmarks.__main__`."""
    scale = add("scale", help="tens of thousands of connections: memory, connect rate, latencies, at several sizes")
    scale.add_argument("--connections", type=int, nargs="+", default=[5000, 50_000], help="sizes, growing")
    scale.add_argument("--rooms", type=int, default=1000)
    scale.add_argument("--big-room", type=float, default=0.2, help="the share of all connections that one room has")
    scale.add_argument("--users", type=int, default=1_000_000, help="rows of users and rooms; 100,000 to a room")
    scale.add_argument("--rate", type=float, default=100, help="messages/s meanwhile, of 64 others in 20 rooms")
    scale.add_argument("--seconds", type=float, default=15)
    scale.add_argument("options", nargs="*", metavar="-- OPTION", help="of the daemon, behind --")
    scale.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> Result:
    result = Result("scale")
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    sizes = sorted({min(size, hard - _OTHER_FILES) for size in arguments.connections})
    if sizes[-1] < max(arguments.connections):
        print(f"a process may open {hard:,} files here (ulimit -Hn): at most {sizes[-1]:,} connections", flush=True)
    options = ("--rooms", str(arguments.rooms), "--max-connections", "1000000", "--unlimited-address", "127.0.0.0/8")
    with Daemon(*options, *arguments.options) as daemon, _holder() as holder:
        copy_cluster(daemon.data_directory)
        daemon.start()
        result.raw["empty"] = _talk(daemon, arguments, result)
        daemon.sql(_FILL_USERS, arguments.users)
        daemon.sql("VACUUM (ANALYZE) user_activity")
        result.raw["with_users"] = _talk(daemon, arguments, result)
        _add_latencies(result, "empty", result.raw["empty"])
        _add_latencies(result, f"{arguments.users:,} users", result.raw["with_users"])
        process = psutil.Process(daemon.process.pid)
        held, empty_bytes = 0, process.memory_full_info().uss
        for size in sizes:
            seconds = _open(holder, daemon.port, held, size, arguments)
            found = {"connections_per_second": (size - held) / seconds}
            found["kb_when_opened"] = (process.memory_full_info().uss - empty_bytes) / size / 1000
            held = size
            found["big_room_seconds"] = _tell_big_room(holder, daemon.port, round(size * arguments.big_room))
            found |= _talk(daemon, arguments, result)
            found["kb_per_connection"] = (process.memory_full_info().uss - empty_bytes) / size / 1000
            found["idle_cores"] = _idle_cores(process, arguments.seconds)
            left = daemon.get("/metrics").json()["rooms"]["totalSessions"]
            if left != size:
                result.faults.append(f"{left} of {size} connections are left")
            result.raw[str(size)] = found
            _add(result, f"{size:,} connections", found)
    return result


def _talk(daemon: Daemon, arguments: argparse.Namespace, result: Result) -> dict[str, float]:
    """64 others talk for a while: figures of :mod:`benchmarks.peers`."""
    plan = Plan(
        *("chatflow", daemon.port, (("postgresql", daemon.postmaster().pid), ("daemon", daemon.process.pid))),
        rate=arguments.rate,
        seconds=arguments.seconds,
        warmup_seconds=arguments.seconds / 5,
    )
    finding = run_apart(talk, plan)
    result.faults += finding.faults
    return finding.figures


def _add_latencies(result: Result, when: str, found: dict[str, float]) -> None:
    for percentile in ("p50", "p99"):
        result.add(f"{when}: ack {percentile}", found.get(f"ack_{percentile}_ms"), "ms")


def _add(result: Result, when: str, found: dict[str, float]) -> None:
    result.add(f"{when}: memory of each, just opened", found["kb_when_opened"], "KB", ("<=", 8))
    result.add(f"{when}: memory of each, after messages", found["kb_per_connection"], "KB")
    result.add(f"{when}: opened", found["connections_per_second"], "connections/s")
    result.add(f"{when}: a message to all of the big room", found["big_room_seconds"] * 1000, "ms")
    result.add(f"{when}: daemon when nobody talks", found["idle_cores"], "cores")
    _add_latencies(result, when, found)


def _idle_cores(process: psutil.Process, seconds: float) -> float:
    before = process.cpu_times()
    time.sleep(seconds)
    after = process.cpu_times()
    cores: float = (after.user + after.system - before.user - before.system) / seconds
    return cores


def _open(holder: Connection, port: int, first: int, last: int, arguments: argparse.Namespace) -> float:
    """Open connections number ``first`` to ``last``: how many seconds it took."""
    began = time.perf_counter()
    every = round(1 / arguments.big_room) if arguments.big_room else last + 1
    for start in range(first, last, _CHUNK):
        numbers = range(start, min(start + _CHUNK, last))
        rooms = [_BIG_ROOM if number % every == 0 else 2 + number % (arguments.rooms - 1) for number in numbers]
        _ask(holder, ("open", port, f"127.0.1.{1 + start // _PER_ADDRESS}", rooms))
    return time.perf_counter() - began


def _tell_big_room(holder: Connection, port: int, members: int) -> float:
    """Seconds from when a message is sent until the last member has it, the median of some."""
    seconds: list[float] = []
    with RawClient(port, f"/chat/{_BIG_ROOM}") as client:
        for _ in range(_BIG_ROOM_MESSAGES):
            began = time.perf_counter()
            client.send_message(MARK.decode())
            seconds.append(_ask(holder, ("hear", members)) - began)
    return sorted(seconds)[len(seconds) // 2]


def _ask(holder: Connection, question: tuple[Any, ...]) -> Any:
    holder.send(question)
    if not holder.poll(_PATIENCE_SECONDS):
        raise TimeoutError(f"the process with the connections did not {question[0]} in time")
    answer = holder.recv()
    if isinstance(answer, Exception):
        raise answer
    return answer


@contextmanager
def _holder() -> Iterator[Connection]:
    """A process that holds connections, until the block ends."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_hold, args=(theirs,), daemon=True)
    process.start()
    try:
        yield ours
    finally:
        process.terminate()
        process.join()


def _hold(questions: Connection) -> None:
    """Answer pings, and questions: ``open`` connections, ``hear`` so many marked messages (told with the time)."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    poll = select.epoll()
    poll.register(questions.fileno(), select.EPOLLIN)
    sockets: dict[int, socket.socket] = {}
    heard = wanted = 0
    while True:
        for number, _ in poll.poll():
            if number in sockets:
                heard += _hear(sockets[number], poll)
                continue
            question, *arguments = questions.recv()
            if question == "hear":
                wanted = arguments[0]
                continue
            try:
                opened = _open_all(*arguments)
            except OSError as error:
                questions.send(error)
                continue
            for each in opened:
                sockets[each.fileno()] = each
                poll.register(each.fileno(), select.EPOLLIN)
            questions.send(len(opened))
        if wanted and heard >= wanted:
            questions.send(time.perf_counter())
            heard = wanted = 0


def _open_all(port: int, address: str, rooms: list[int]) -> list[socket.socket]:
    """All at the same time, from one source address."""
    opened = []
    for _ in rooms:
        connection = socket.socket()
        connection.setsockopt(socket.IPPROTO_IP, _BIND_ADDRESS_NO_PORT, 1)
        connection.bind((address, 0))
        connection.settimeout(_PATIENCE_SECONDS)
        connection.connect(("127.0.0.1", port))
        opened.append(connection)
    for connection, room in zip(opened, rooms, strict=True):
        connection.sendall(handshake(port, f"/chat/{room}"))
    for connection in opened:
        answer = b""
        while b"\r\n\r\n" not in answer:
            more = connection.recv(4096)
            if not more:
                raise ConnectionError(f"no WebSocket: {answer!r}")
            answer += more
        if b" 101 " not in answer.split(b"\r\n")[0]:
            raise ConnectionError(f"no WebSocket: {answer!r}")
    return opened


def _hear(connection: socket.socket, poll: select.epoll) -> int:
    """Read what came, and answer a ping: how many marked messages these were."""
    data = connection.recv(1 << 16)
    if not data:
        poll.unregister(connection.fileno())
        return 0
    at = 0
    while at + 2 <= len(data):  # none is cut in two: what is waiting is less than the system's buffer
        start, length = at + 2, data[at + 1]
        if length == 126:
            start, length = at + 4, int.from_bytes(data[at + 2 : at + 4], "big")
        if data[at] & 0xF == PING:
            connection.sendall(client_frame(PONG, data[start : start + length]))
        at = start + length
    return data.count(MARK)
