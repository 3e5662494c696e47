"""The one client for all, in a process of its own. What it costs by itself is part of what it finds."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import partial

import attrs

from benchmarks.peers.crowd import Crowd, member_name, open_connection
from benchmarks.peers.wires import MARK, WIRES
from benchmarks.usage import Roots, cpu_seconds, private_bytes

_SEQ = re.compile(rb'"seq":(\d+)')


@attrs.frozen
class Plan:
    """What to do. A plain value: it crosses processes.

    :ivar wire: which of :data:`~benchmarks.peers.wires.WIRES`.
    :ivar roots: the processes of the server; see :mod:`benchmarks.usage`.
    :ivar window: how many messages of a member may be unacknowledged.
    :ivar rate: messages/s, all members in turn. If there is neither window nor rate, they send one message after the
        other, each when the one before has been acknowledged.
    :ivar seconds: how long it is measured, after ``warmup_seconds``.
    :ivar patience_seconds: what comes later than that counts as lost.
    :ivar missed: so many messages at least are there for one who comes back.
    """

    wire: str
    port: int
    roots: Roots
    connections: int = 64
    rooms: int = 20
    window: int = 0
    rate: float = 0.0
    seconds: float = 5.0
    warmup_seconds: float = 1.0
    patience_seconds: float = 60.0
    missed: int = 0


@attrs.define
class Finding:
    """What was found.

    :ivar sent: all messages of the run, with those of the warm-up; so many were acknowledged if there are no faults.
    :ivar figures: of the measured part alone.
    """

    sent: int = 0
    faults: list[str] = attrs.Factory(list)
    figures: dict[str, float] = attrs.Factory(dict)
    cpu_seconds: dict[str, float] = attrs.Factory(dict)


def talk(plan: Plan) -> Finding:
    """Open the connections, warm up, measure, hear the rest."""
    finding = Finding()
    rooms = [index % plan.rooms + 1 for index in range(plan.connections)]
    with _faults_of(finding), closing(Crowd(WIRES[plan.wire], plan.port, rooms, plan.patience_seconds)) as crowd:
        act = _pace(crowd, plan)
        act(plan.warmup_seconds)
        if not plan.window:
            finding.faults += crowd.drain()
        crowd.latencies.clear()
        acks, deliveries = crowd.acks, crowd.deliveries
        before, own, began = cpu_seconds(plan.roots), time.process_time(), time.perf_counter()
        act(plan.seconds)
        seconds = time.perf_counter() - began
        finding.figures = {
            "messages_per_second": (crowd.acks - acks) / seconds,
            "deliveries_per_second": (crowd.deliveries - deliveries) / seconds,
        }
        finding.faults += crowd.drain()
        seconds, own = time.perf_counter() - began, time.process_time() - own
        finding.cpu_seconds = {part: after - before[part] for part, after in cpu_seconds(plan.roots).items()}
        finding.sent = crowd.sent
        _add_costs(finding, crowd.acks - acks, seconds, own)
        if crowd.latencies:
            ordered = sorted(crowd.latencies)
            finding.figures |= {f"ack_p{p}_ms": ordered[len(ordered) * p // 100] * 1000 for p in (50, 99)}
    return finding


def _pace(crowd: Crowd, plan: Plan) -> Callable[[float], None]:
    if plan.window:
        return partial(crowd.flood, plan.window)
    return partial(crowd.pace, plan.rate) if plan.rate else crowd.one_by_one


def _add_costs(finding: Finding, messages: int, seconds: float, own_seconds: float) -> None:
    cpu_seconds_of_all = sum(finding.cpu_seconds.values())
    finding.figures |= {"messages": messages, "seconds": seconds, "cores": cpu_seconds_of_all / seconds}
    if messages:
        finding.figures |= {
            f"cpu_ms_per_1000_{part}": each * 1e6 / messages for part, each in finding.cpu_seconds.items()
        }
        finding.figures["cpu_ms_per_1000"] = cpu_seconds_of_all * 1e6 / messages
        finding.figures["client_us_per_message"] = own_seconds * 1e6 / messages


def stay(plan: Plan) -> Finding:
    """Open so many connections that say nothing: what the server's processes grow by for each."""
    wire, finding = WIRES[plan.wire], Finding()
    with _faults_of(finding), ExitStack() as stack:
        for index in range(50):  # what is made once, at first use
            open_connection(wire, plan.port, index % plan.rooms + 1, member_name(index)).close()
        time.sleep(plan.warmup_seconds)
        before, began = private_bytes(plan.roots), time.perf_counter()
        connections = [
            stack.enter_context(open_connection(wire, plan.port, index % plan.rooms + 1, member_name(index)))
            for index in range(plan.connections)
        ]
        took = time.perf_counter() - began
        time.sleep(plan.seconds)
        finding.figures = {
            "kb_per_connection": (private_bytes(plan.roots) - before) / plan.connections / 1000,
            "connections_per_second": plan.connections / took,
        }
        gone = sum(map(_is_closed, connections))
        if gone:
            finding.faults.append(f"{gone} of {plan.connections} connections were closed")
    return finding


def _is_closed(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        return not connection.recv(1 << 16)
    except BlockingIOError:
        return False


def come_back(plan: Plan) -> Finding:
    """Fill a room, and let one client come that was away meanwhile: messages/s from its request to the last of them."""
    wire, finding = WIRES[plan.wire], Finding()
    room = plan.rooms
    with _faults_of(finding):
        with closing(Crowd(wire, plan.port, [room] * plan.connections, plan.patience_seconds)) as crowd:
            while crowd.sent < plan.missed:
                crowd.flood(plan.window, 0.1)
            finding.faults += crowd.drain()
            finding.sent = missed = crowd.sent
        with open_connection(wire, plan.port, room, member_name(1000), "?last=1") as newest:
            head = int(_SEQ.findall(newest.recv(1 << 16))[0])
        before, began = cpu_seconds(plan.roots), time.perf_counter()
        with open_connection(wire, plan.port, room, member_name(1001), f"?since={head - missed}") as connection:
            received, carry = 0, b""
            while received < missed:
                data = carry + connection.recv(1 << 17)
                if len(data) == len(carry):
                    raise ConnectionError(f"closed after {received} of {missed} messages")
                end = data.rfind(b"}") + 1  # of the last whole message
                received += data.count(MARK, 0, end)
                carry = data[end:]
            seconds = time.perf_counter() - began
        finding.cpu_seconds = {part: after - before[part] for part, after in cpu_seconds(plan.roots).items()}
        finding.figures = {"history_per_second": missed / seconds, "missed": missed}
        finding.figures["cpu_ms_per_1000"] = sum(finding.cpu_seconds.values()) * 1e6 / missed
        if received != missed:
            finding.faults.append(f"{received} messages came, {missed} were missed")
    return finding


@contextmanager
def _faults_of(finding: Finding) -> Iterator[None]:
    """What ends a run is a fault of it."""
    try:
        yield
    except (OSError, ValueError) as error:
        finding.faults.append(f"{type(error).__name__}: {error}")
