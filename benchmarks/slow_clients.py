"""What members of a room notice of others that do not read, or hardly."""

from __future__ import annotations

import argparse
import selectors
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from multiprocessing.synchronize import Event

import psutil

from benchmarks.elsewhere import Times, after, compare, process, turns
from benchmarks.results import Result
from benchmarks.returning import LiveTraffic
from testbed.client import handshake
from testbed.daemon import Daemon

_ROOMS = 4
#: Before the slow ones come and after they have left; with them twice as many.
_SPANS = 3
#: What is behind by then, is.
_FILL_SECONDS = 40.0
#: A slow client takes so much, so often.
_TRICKLE_BYTES, _TRICKLE_SECONDS = 500, 0.5
#: What one that is behind may have in the daemon for itself: docs/operations.rst.
OWN_BYTES = 192 * 1024
#: What the daemon takes for all else meanwhile: young objects, pages of history, fragmentation.
_SLACK_BYTES = 32 * 1024 * 1024


def add_to(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Register the benchmark; see :mod:`benchmarks.__main__`."""
    slow = add("slow-clients", help="members that do not read, or hardly, beside those that do")
    slow.add_argument("--members", type=int, default=1000, help="of four rooms together")
    slow.add_argument("--stalled", type=int, default=200, help="of them, that read nothing")
    slow.add_argument("--trickling", type=int, default=200, help="of them, that read 1 KB/s")
    slow.add_argument("--rate", type=float, default=40.0, help="live messages/s, all rooms together")
    slow.add_argument("--seconds", type=float, default=3.0, help="of each of several spans of time")
    slow.add_argument("options", nargs="*", metavar="-- OPTION", help="of the daemon, behind --")
    slow.set_defaults(run=_slow_clients)


def _slow_clients(arguments: argparse.Namespace) -> Result:
    result = Result("slow-clients")
    slow = arguments.stalled + arguments.trickling
    # Nobody here answers pings, or is to be dropped for that.
    options = ["--send-timeout-seconds", "3600", "--ping-interval-seconds", "0", *arguments.options]
    without, beside = Times(), Times()

    def measure(times: Times) -> None:
        for _ in range(_SPANS):
            times.measure(os_process, traffic, arguments.seconds)

    with Daemon(*options) as daemon:
        daemon.start()
        os_process = psutil.Process(daemon.process.pid)
        traffic = LiveTraffic(daemon.port, range(1, _ROOMS + 1), arguments.rate, "x" * 450)
        with _reading(daemon.port, arguments.members - slow):
            with _reading(daemon.port, slow):
                measure(without)
                before_bytes = os_process.memory_info().rss
            with process(_hardly_read, daemon.port, arguments.stalled, arguments.trickling):
                _fill(daemon, slow)
                for _ in range(2):
                    measure(beside)
                more_bytes = os_process.memory_info().rss - before_bytes
                waiting_bytes = daemon.counter("chatflow_buffered_bytes")
                behind = daemon.counter("chatflow_clients_behind")
                closed = daemon.counter("chatflow_slow_clients_closed_total")
            with _reading(daemon.port, slow):
                measure(without)
        traffic.close()
    bound_bytes = slow * OWN_BYTES + waiting_bytes + _SLACK_BYTES
    result.raw |= {"without": without.seconds, "beside": beside.seconds, "more_bytes": more_bytes}
    result.add("clients that are behind", behind, "")
    result.add("waits for them, each broadcast once", waiting_bytes / 1e6, "MB")
    result.add("closed as too slow", closed, "")
    result.add("memory of the daemon, more by", more_bytes / 1e6, "MB", ("<=", bound_bytes / 1e6))
    compare(result, without, beside, "them")
    if more_bytes > bound_bytes:
        result.faults.append("the daemon took more memory than the formula of docs/operations.rst allows")
    return result


def _fill(daemon: Daemon, slow: int) -> None:
    """Talk until the system holds no more for those who do not read, about 3 MB each, and the daemon has to."""
    talkers = LiveTraffic(daemon.port, range(1, _ROOMS + 1), 400, "\N{PARTY POPPER}" * 450)
    is_over = [False]
    look = after(_FILL_SECONDS, lambda: is_over.append(daemon.counter("chatflow_clients_behind") >= slow))
    talkers.run(lambda: look() or is_over[-1])
    talkers.close()


@contextmanager
def _reading(port: int, members: int) -> Iterator[None]:
    """Members who read; they are as much in the way of others as the others are in theirs."""
    with process(_read, port, members, gives_way=False):
        yield


def _read(begun: Event, ended: Event, port: int, members: int) -> None:
    with ExitStack() as stack, selectors.DefaultSelector() as selector:
        for member in _members(stack, port, members):
            selector.register(member, selectors.EVENT_READ, member)
        begun.set()
        while not ended.is_set():
            for key, _ in selector.select(0.05):
                key.data.recv(1 << 20)


def _hardly_read(begun: Event, ended: Event, port: int, stalled: int, trickling: int) -> None:
    with ExitStack() as stack:
        members = list(_members(stack, port, stalled + trickling, receive_bytes=4096))
        begun.set()
        for _ in turns(ended, _TRICKLE_SECONDS):
            for member in members[stalled:]:
                with suppress(BlockingIOError):
                    member.recv(_TRICKLE_BYTES)


def _members(stack: ExitStack, port: int, count: int, receive_bytes: int | None = None) -> Iterable[socket.socket]:
    for number in range(count):
        yield stack.enter_context(_member(port, 1 + number % _ROOMS, receive_bytes))


def _member(port: int, room: int, receive_bytes: int | None) -> socket.socket:
    member = socket.socket()
    if receive_bytes is not None:
        member.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    member.connect(("127.0.0.1", port))
    member.sendall(handshake(port, f"/chat/{room}"))
    received = b""
    while b"\r\n\r\n" not in received:
        received += member.recv(1)
    member.setblocking(False)
    return member
