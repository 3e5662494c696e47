"""The one client for all: it sends prebuilt frames and counts what comes back, without looking into it.

It is run in a process of its own, on plain sockets with epoll. What it costs by itself is part of what it finds. Every
message must have been acknowledged, and every member of a room must have been given each message of the room once:
otherwise the run has faults. Latencies are taken from when a message was due; a member's acknowledgements are taken to
come in the order of its messages.
"""

from __future__ import annotations

import gc
import resource
import select
import socket
import time
from collections import deque
from collections.abc import Callable

import attrs

from benchmarks.peers.usage import Roots, cpu_seconds, private_bytes
from benchmarks.peers.wires import MARK, WIRES, Wire

_RECEIVE_BYTES = 1 << 17
_OPEN_SECONDS = 60.0
#: Different messages of a room; then they come again.
_FRAMES = 128


@attrs.frozen
class Plan:
    """What to do. A plain value: it crosses processes.

    :ivar wire: which of :data:`~benchmarks.peers.wires.WIRES`.
    :ivar roots: the processes of the server; see :mod:`benchmarks.peers.usage`.
    :ivar window: how many messages of a member may be unacknowledged.
    :ivar rate: messages/s, all members in turn. If there is neither window nor rate, they send one message after the
        other, each when the one before has been acknowledged.
    :ivar seconds: how long it is measured, after ``warmup_seconds``.
    :ivar patience_seconds: what comes later than that counts as lost.
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


class _Member:
    """A connection to a room."""

    __slots__ = ("acks", "carry", "due", "frames", "marks", "next", "room", "sent", "socket")

    def __init__(self, connection: socket.socket, room: int, frames: list[bytes]) -> None:
        self.socket = connection
        self.room = room
        self.frames = frames
        self.next = self.sent = self.acks = self.marks = 0
        self.carry = b""
        self.due: deque[float] = deque()


class Crowd:
    """The members.

    :ivar latencies: seconds from when a message was due to its acknowledgement; not taken in a flood.
    """

    def __init__(self, plan: Plan) -> None:
        self._wire: Wire = WIRES[plan.wire]
        self._patience_seconds = plan.patience_seconds
        self._epoll = select.epoll()
        self._members: dict[int, _Member] = {}
        self.sent = self.acks = self.marks = self.received_bytes = 0
        self.latencies: list[float] = []
        if plan.window > _FRAMES:
            raise ValueError(f"a window of at most {_FRAMES} messages")
        frames = {
            room: [self._wire.message(room, number) for number in range(_FRAMES)] * 2
            for room in range(1, plan.rooms + 1)
        }
        for index in range(plan.connections):
            room = index % plan.rooms + 1
            connection = open_connection(self._wire, plan.port, room)
            connection.setblocking(False)
            self._members[connection.fileno()] = _Member(connection, room, frames[room])
            self._epoll.register(connection.fileno(), select.EPOLLIN)
        self._all = list(self._members.values())

    def close(self) -> None:
        for member in self._all:
            member.socket.close()
        self._epoll.close()

    @property
    def deliveries(self) -> int:
        """How many came, all members together."""
        return self.marks - self.acks * self._wire.echoes

    def flood(self, window: int, seconds: float) -> None:
        """Keep so many messages of every member unacknowledged."""
        for member in self._all:
            self._send(member, window - (member.sent - member.acks))
        poll, members, hear, send = self._epoll.poll, self._members, self._hear, self._send
        ends = time.perf_counter() + seconds
        while time.perf_counter() < ends:
            for number, _ in poll(0.05):
                member = members[number]
                acks = hear(member)
                if acks:
                    send(member, acks)

    def pace(self, rate: float, seconds: float) -> None:
        """Send at a fixed rate, in turn, whatever comes back."""
        began = time.perf_counter()
        for index in range(round(rate * seconds)):
            due = began + index / rate
            while (left := due - time.perf_counter()) > 0:
                self._listen(left)
            member = self._all[index % len(self._all)]
            member.due.append(due)
            self._send(member, 1)

    def one_by_one(self, seconds: float) -> None:
        """Send a message when the one before has been acknowledged."""
        ends = time.perf_counter() + seconds
        while True:
            for member in self._all:
                now = time.perf_counter()
                if now >= ends:
                    return
                member.due.append(now)
                self._send(member, 1)
                while member.due:
                    self._listen(1.0)
                    if time.perf_counter() - now > self._patience_seconds:
                        raise TimeoutError("a message was not acknowledged")

    def drain(self) -> list[str]:
        """Hear what is still to come: what did not come in time, or too often."""
        said = dict.fromkeys((member.room for member in self._all), 0)
        for member in self._all:
            said[member.room] += member.sent
        expected = sum(said[member.room] for member in self._all)
        ends = time.perf_counter() + self._patience_seconds
        while (self.acks < self.sent or self.deliveries < expected) and time.perf_counter() < ends:
            self._listen(0.2)
        self._listen(0.0)
        faults = []
        for index, member in enumerate(self._all):
            heard = member.marks - member.acks * self._wire.echoes
            if member.acks != member.sent:
                faults.append(f"member {index} sent {member.sent} messages, {member.acks} acknowledgements came")
            if heard != said[member.room]:
                faults.append(f"member {index} was given {heard} of {said[member.room]} messages of its room")
        return faults

    def _send(self, member: _Member, count: int) -> None:
        start = member.next
        block = b"".join(member.frames[start : start + count])
        sent = member.socket.send(block)
        if sent != len(block):
            raise BlockingIOError("the system takes no more: the server does not read what is sent")
        member.next = (start + count) % _FRAMES
        member.sent += count
        self.sent += count

    def _listen(self, seconds: float) -> None:
        # epoll rounds to milliseconds, select does not
        if not seconds or select.select([self._epoll], [], [], seconds)[0]:
            for number, _ in self._epoll.poll(0):
                self._hear(self._members[number])

    def _hear(self, member: _Member) -> int:
        """Count what has come; return how many acknowledgements."""
        try:
            data = member.socket.recv(_RECEIVE_BYTES)
        except BlockingIOError:
            return 0
        if not data:
            raise ConnectionError("the server closed a connection")
        ack, longest = self._wire.ack, _CARRY_BYTES
        acks, marks = data.count(ack), data.count(MARK)
        # what was cut in two
        carry, head = member.carry, data[:longest]
        acks += (carry[1 - len(ack) :] + head[: len(ack) - 1]).count(ack)
        marks += (carry[1 - len(MARK) :] + head[: len(MARK) - 1]).count(MARK)
        member.carry = data[-longest:] if len(data) >= longest else (carry + data)[-longest:]
        member.acks += acks
        member.marks += marks
        self.acks += acks
        self.marks += marks
        self.received_bytes += len(data)
        if acks and member.due:
            now = time.perf_counter()
            for _ in range(min(acks, len(member.due))):
                self.latencies.append(now - member.due.popleft())
        return acks


_CARRY_BYTES = max(len(MARK), *(len(wire.ack) for wire in WIRES.values()))


def open_connection(wire: Wire, port: int, room: int, query: str = "") -> socket.socket:
    """A socket that is in the room."""
    connection = socket.create_connection(("127.0.0.1", port), _OPEN_SECONDS)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.sendall(wire.handshake(port, room, query))
    received = b""
    # byte by byte: what comes behind it is counted elsewhere
    while not received.endswith(b"\r\n\r\n"):
        received += _receive(connection, 1)
    if b" 101 " not in received.split(b"\r\n")[0]:
        raise ConnectionError(f"no WebSocket: {received!r}")
    for payload, answer in wire.greetings:
        if payload:
            connection.sendall(wire.frame(payload.replace("{room}", str(room))))
        received = b""
        while answer not in received:
            received += _receive(connection, 4096)
    return connection


def _receive(connection: socket.socket, count: int) -> bytes:
    data = connection.recv(count)
    if not data:
        raise ConnectionError("the server closed a connection that was being opened")
    return data


def talk(plan: Plan) -> Finding:
    """Open the connections, warm up, measure, hear the rest."""
    crowd = Crowd(plan)
    finding = Finding()
    act: Callable[[float], None]
    if plan.window:
        act = lambda seconds: crowd.flood(plan.window, seconds)  # noqa: E731
    elif plan.rate:
        act = lambda seconds: crowd.pace(plan.rate, seconds)  # noqa: E731
    else:
        act = crowd.one_by_one
    try:
        act(plan.warmup_seconds)
        if not plan.window:
            finding.faults += crowd.drain()
        crowd.latencies.clear()
        acks, deliveries, received_bytes = crowd.acks, crowd.deliveries, crowd.received_bytes
        before, own, began = cpu_seconds(plan.roots), time.process_time(), time.perf_counter()
        act(plan.seconds)
        took = time.perf_counter() - began
        finding.figures = {
            "messages_per_second": (crowd.acks - acks) / took,
            "deliveries_per_second": (crowd.deliveries - deliveries) / took,
        }
        finding.faults += crowd.drain()
        all_took = time.perf_counter() - began
        own = time.process_time() - own
        after = cpu_seconds(plan.roots)
        messages, deliveries = crowd.acks - acks, crowd.deliveries - deliveries
        finding.sent = crowd.sent
        finding.cpu_seconds = {role: after[role] - before[role] for role in after}
        finding.figures |= {
            "messages": messages,
            "seconds": all_took,
            "bytes_per_delivery": (crowd.received_bytes - received_bytes) / deliveries if deliveries else 0.0,
            "cores": sum(finding.cpu_seconds.values()) / all_took,
            "client_us_per_message": own * 1e6 / messages if messages else 0.0,
            "client_cores": own / all_took,
        }
        if messages:
            finding.figures |= {
                f"cpu_ms_per_1000_{role}": seconds * 1e6 / messages for role, seconds in finding.cpu_seconds.items()
            }
            finding.figures["cpu_ms_per_1000"] = sum(finding.cpu_seconds.values()) * 1e6 / messages
        if crowd.latencies:
            ordered = sorted(crowd.latencies)
            finding.figures |= {f"ack_p{p}_ms": ordered[len(ordered) * p // 100] * 1000 for p in (50, 99)}
    except (OSError, ValueError) as error:
        finding.faults.append(f"{type(error).__name__}: {error}")
    finally:
        crowd.close()
    return finding


def stay(plan: Plan) -> Finding:
    """Open so many connections that say nothing: what the server's processes grow by for each."""
    wire, finding = WIRES[plan.wire], Finding()
    connections = []
    try:
        for index in range(50):  # what is made once, at first use
            open_connection(wire, plan.port, index % plan.rooms + 1).close()
        time.sleep(plan.warmup_seconds)
        before, began = private_bytes(plan.roots), time.perf_counter()
        connections = [open_connection(wire, plan.port, index % plan.rooms + 1) for index in range(plan.connections)]
        took = time.perf_counter() - began
        time.sleep(plan.seconds)
        finding.figures = {
            "kb_per_connection": (private_bytes(plan.roots) - before) / plan.connections / 1000,
            "connections_per_second": plan.connections / took,
        }
        gone = sum(_is_closed(connection) for connection in connections)
        if gone:
            finding.faults.append(f"{gone} of {plan.connections} connections were closed")
    except OSError as error:
        finding.faults.append(f"{type(error).__name__}: {error}")
    finally:
        for connection in connections:
            connection.close()
    return finding


def _is_closed(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        return not connection.recv(1 << 16)
    except BlockingIOError:
        return False


def take_all(work: Callable[[Plan], Finding], plan: Plan) -> Finding:
    """Do the work in a process that does nothing else, with as many files as it may open and no garbage collection."""
    gc.disable()
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return work(plan)
