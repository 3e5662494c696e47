"""What clients notice of others that do not read, and of one address that wants everything."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from multiprocessing.synchronize import Event
from typing import Any

import psutil

from benchmarks.results import Result
from benchmarks.returning import LiveTraffic, p99
from testbed.client import TEXT, client_frame, handshake, message
from testbed.daemon import Daemon
from testbed.http_client import request

_ROOMS = 4
#: What is behind by then, is.
_FILL_SECONDS = 40.0
#: A slow client takes so much, so often.
_TRICKLE_BYTES, _TRICKLE_SECONDS = 500, 0.5
#: What one that is behind may have in the daemon for itself: docs/operations.rst.
OWN_BYTES = 192 * 1024
#: What the daemon takes for all else meanwhile: young objects, pages of history, fragmentation.
_SLACK_BYTES = 32 * 1024 * 1024

#: Loopback addresses are as good as those of different hosts. The first one is unlimited by default.
_STRANGER = "127.0.0.66"
_FLOOD_SOCKETS = 200
#: A flood is told by its rate: as many as this machine can would measure what the attackers take from its processors.
_CONNECTIONS_PER_SECOND = 1000
#: On each connection so often, of what is sent again and again: 100 messages, 40 requests.
_SENDS_PER_SECOND = 10
_DRIPPING_SOCKETS = 2000


def add_to(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Register the benchmarks; see :mod:`benchmarks.__main__`."""
    slow = add("slow-clients", help="members that do not read, or hardly, beside those that do")
    slow.add_argument("--members", type=int, default=1000, help="of four rooms together")
    slow.add_argument("--stalled", type=int, default=200, help="of them, that read nothing")
    slow.add_argument("--trickling", type=int, default=200, help="of them, that read 1 KB/s")
    slow.set_defaults(run=_slow_clients, rate=40.0, seconds=30.0)
    flood = add("flood", help="handshakes, messages, requests, dripping bytes from one address, 1,000 connections/s")
    flood.set_defaults(run=_flood, rate=100.0, seconds=10.0)
    for parser in (slow, flood):
        parser.add_argument("--rate", type=float, help="live messages/s, all rooms together")
        parser.add_argument("--seconds", type=float, help="without them, and with each of them")
        parser.add_argument("options", nargs="*", metavar="-- OPTION", help="of the daemon, behind --")


def _slow_clients(arguments: argparse.Namespace) -> Result:
    result = Result("slow-clients")
    slow = arguments.stalled + arguments.trickling
    options = ["--send-timeout-seconds", "3600", *arguments.options]
    with Daemon(*options) as daemon:
        daemon.start()
        process = psutil.Process(daemon.process.pid)
        traffic = LiveTraffic(daemon.port, range(1, _ROOMS + 1), arguments.rate, "x" * 450)
        with _crowd(daemon.port, arguments.members, 0, 0):
            before = traffic.run(_after(arguments.seconds))
            before_bytes = process.memory_info().rss
        with _crowd(daemon.port, arguments.members - slow, arguments.stalled, arguments.trickling):
            _fill(daemon, slow)
            during = traffic.run(_after(arguments.seconds))
            after_bytes = process.memory_info().rss
            waiting_bytes = daemon.counter("chatflow_buffered_bytes")
            behind = daemon.counter("chatflow_clients_behind")
            closed = daemon.counter("chatflow_slow_clients_closed_total")
        traffic.close()
    bound_bytes = slow * OWN_BYTES + waiting_bytes + _SLACK_BYTES
    result.raw |= {"before": before, "during": during, "memory_bytes": [before_bytes, after_bytes]}
    result.add("clients that are behind", behind, "")
    result.add("waits for them, each broadcast once", waiting_bytes / 1e6, "MB")
    result.add("closed as too slow", closed, "")
    result.add("memory of the daemon, more by", (after_bytes - before_bytes) / 1e6, "MB", ("<=", bound_bytes / 1e6))
    _compare(result, before, during, "with them", "without")
    if after_bytes - before_bytes > bound_bytes:
        result.faults.append("the daemon took more memory than the formula of docs/operations.rst allows")
    return result


def _fill(daemon: Daemon, slow: int) -> None:
    """Talk until the system holds no more for those who do not read, about 3 MB each, and the daemon has to."""
    talkers = LiveTraffic(daemon.port, range(1, _ROOMS + 1), 400, "\N{PARTY POPPER}" * 450)
    is_over = [False]
    look = _after(_FILL_SECONDS, lambda: is_over.append(daemon.counter("chatflow_clients_behind") >= slow))
    talkers.run(lambda: look() or is_over[-1])
    talkers.close()


def _flood(arguments: argparse.Namespace) -> Result:
    result = Result("flood")
    with Daemon(*arguments.options) as daemon:
        daemon.start()
        traffic = LiveTraffic(daemon.port, range(1, 21), arguments.rate)
        with _looking(daemon.port, []):
            alone = traffic.run(_after(arguments.seconds))
        result.raw["alone"] = alone
        for kind, attack in _ATTACKS.items():
            answers: list[int] = []
            # Here the attackers' work is done by the same processors; elsewhere it would be done by theirs.
            with (
                socket.create_server(("127.0.0.1", 0), backlog=50) as nobody,
                _process(_close_at_once, nobody),
                _process(attack, nobody.getsockname()[1]),
                _looking(daemon.port, []),
            ):
                elsewhere = traffic.run(_after(arguments.seconds))
            with _process(attack, daemon.port), _looking(daemon.port, answers):
                during = traffic.run(_after(arguments.seconds))
            result.raw[kind] = {"elsewhere": elsewhere, "here": during}
            _compare(result, alone, during, f"beside {kind}", "alone")
            _compare(result, elsewhere, during, f"beside {kind}", f"while {kind} go to a null server")
            result.add(
                f"/health/ready beside {kind}: 200 in", answers.count(200) / len(answers) * 100, "%", ("==", 100)
            )
            if set(answers) != {200}:
                result.faults.append(f"beside {kind} a health check was not answered 200: {sorted(set(answers))}")
        traffic.close()
        text = daemon.get("/metrics", headers={"Accept": "text/plain"}).body.decode()
        result.raw["limited"] = [line for line in text.splitlines() if line.startswith("chatflow_limited_total")]
    return result


def _compare(
    result: Result, before: dict[str, list[float]], during: dict[str, list[float]], what: str, without: str
) -> None:
    for kind in ("ack", "delivery"):
        result.add(f"{kind} p99 {without}", p99(before[kind]), "ms")
        result.add(f"{kind} p99 {what}", p99(during[kind]), "ms")
        result.add(f"{kind} p99 {what}, as against {without}", p99(during[kind]) / p99(before[kind]), "", ("<=", 1.5))


def _after(seconds: float, look: Callable[[], object] = int) -> Callable[[], bool]:
    """Whether so much time has gone by. :param look: called about twice a second meanwhile."""
    ends = time.monotonic() + seconds
    next_look = time.monotonic()

    def done() -> bool:
        nonlocal next_look
        if time.monotonic() >= next_look:
            look()
            next_look = time.monotonic() + 0.5
        return time.monotonic() >= ends

    return done


@contextmanager
def _looking(port: int, answers: list[int]) -> Iterator[None]:
    """Ask as a load balancer does, until the block ends; 0 stands for no answer."""
    ended = threading.Event()

    def look_in_thread() -> None:
        while not ended.wait(0.5):
            try:
                answers.append(request(port, "GET", "/health/ready").status)
            except OSError:
                answers.append(0)

    thread = threading.Thread(target=look_in_thread, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(30)


@contextmanager
def _process(work: Callable[..., None], *arguments: Any) -> Iterator[None]:
    """Other hosts, as far as one machine has them: a process that gives way to all others. Until the block ends."""
    context = multiprocessing.get_context("spawn")
    begun, ended = context.Event(), context.Event()
    process = context.Process(target=_give_way, args=(work, begun, ended, *arguments), daemon=True)
    process.start()
    try:
        assert begun.wait(120), "the others did not connect"
        yield
    finally:
        ended.set()
        process.join(10)
        process.kill()


def _give_way(work: Callable[..., None], begun: Event, ended: Event, *arguments: Any) -> None:
    os.nice(19)
    work(begun, ended, *arguments)


# Members of rooms


def _crowd(port: int, readers: int, stalled: int, trickling: int) -> Any:
    return _process(_sit_in_rooms, port, readers, stalled, trickling)


def _sit_in_rooms(begun: Event, ended: Event, port: int, readers: int, stalled: int, trickling: int) -> None:
    with ExitStack() as stack, selectors.DefaultSelector() as selector:
        enter = stack.enter_context
        for number in range(readers):
            selector.register(enter(_member(port, number)), selectors.EVENT_READ)
        for number in range(stalled):
            enter(_member(port, number, receive_bytes=4096))
        slow = [enter(_member(port, number, receive_bytes=4096)) for number in range(trickling)]
        begun.set()
        next_trickle = time.monotonic()
        while not ended.is_set():
            for key, _ in selector.select(0.05):
                key.fileobj.recv(1 << 20)  # type: ignore[union-attr]
            if time.monotonic() >= next_trickle:
                next_trickle = time.monotonic() + _TRICKLE_SECONDS
                for member in slow:
                    with suppress(BlockingIOError):
                        member.recv(_TRICKLE_BYTES)


def _member(port: int, number: int, receive_bytes: int | None = None) -> socket.socket:
    member = socket.socket()
    if receive_bytes is not None:
        member.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    member.connect(("127.0.0.1", port))
    member.sendall(handshake(port, f"/chat/{1 + number % _ROOMS}"))
    received = b""
    while b"\r\n\r\n" not in received:
        received += member.recv(1)
    member.setblocking(False)
    return member


# One address that wants everything


def _close_at_once(begun: Event, ended: Event, server: socket.socket) -> None:
    """A server that costs as little as one can."""
    server.settimeout(0.2)
    begun.set()
    while not ended.is_set():
        with suppress(OSError):
            server.accept()[0].close()


def _connect(port: int) -> socket.socket | None:
    stranger = socket.socket()
    stranger.settimeout(0.2)
    try:
        stranger.bind((_STRANGER, 0))
        stranger.connect(("127.0.0.1", port))
    except OSError:
        stranger.close()
        return None
    stranger.setblocking(False)
    return stranger


def _besiege(
    begun: Event, ended: Event, port: int, count: int, first: bytes, more: bytes, pause: float = 1 / _SENDS_PER_SECOND
) -> None:
    """Hold so many connections, say ``first`` on each, then ``more`` at each pause; open anew what is closed."""
    held: list[socket.socket] = []
    begun.set()
    for due in _turns(ended, pause):
        for stranger in _come(port, min(count - len(held), int(_CONNECTIONS_PER_SECOND * pause)), due + pause):
            with suppress(OSError):
                stranger.send(first)
            held.append(stranger)
        held = [stranger for stranger in held if _goes_on(stranger, more)]


def _turns(ended: Event, seconds: float) -> Iterator[float]:
    """Until it has ended, when the turn is due; what is too late is left out."""
    due = time.monotonic()
    while not ended.wait(max(0.0, due - time.monotonic())):
        yield due
        due = max(due + seconds, time.monotonic())


def _come(port: int, count: int, until: float) -> Iterator[socket.socket]:
    for _ in range(count):
        stranger = _connect(port)
        if stranger is not None:
            yield stranger
        if time.monotonic() >= until:
            return


def _goes_on(stranger: socket.socket, more: bytes) -> bool:
    try:
        with suppress(BlockingIOError):
            if stranger.recv(65536) == b"":
                raise ConnectionResetError
        with suppress(BlockingIOError):
            stranger.send(more)
    except OSError:
        stranger.close()
        return False
    return True


def _handshakes(begun: Event, ended: Event, port: int) -> None:
    """Connections that are opened, greeted and left at once."""
    begun.set()
    asked = handshake(port, "/chat/1?since=0")
    pause = 0.05
    for due in _turns(ended, pause):
        crowd = list(_come(port, int(_CONNECTIONS_PER_SECOND * pause), due + pause))
        for stranger in crowd:
            with suppress(OSError):
                stranger.send(asked)
        ended.wait(0.01)
        for stranger in crowd:
            stranger.close()


def _messages(begun: Event, ended: Event, port: int) -> None:
    frames = client_frame(TEXT, json.dumps(message("flood")).encode()) * 100
    _besiege(begun, ended, port, _FLOOD_SOCKETS, handshake(port, "/chat/1"), frames)


def _requests(begun: Event, ended: Event, port: int) -> None:
    asked = b"".join(
        b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n" % path
        for path in (b"/api/rooms/1/messages?limit=1000", b"/api/metrics/all", b"/api/rooms", b"/")
    )
    _besiege(begun, ended, port, _FLOOD_SOCKETS, asked, asked * 10)


def _drips(begun: Event, ended: Event, port: int) -> None:
    _besiege(begun, ended, port, _DRIPPING_SOCKETS, b"GET / HTTP/1.1\r\nHost: x\r\nX-A: ", b"a", pause=0.5)


_ATTACKS = {"handshakes": _handshakes, "messages": _messages, "requests": _requests, "drips": _drips}
