"""Members of rooms, all held by one process, on plain sockets with epoll.

They send prebuilt frames and count what comes back, without looking into it. Every message must be acknowledged, and
every member of a room must be given each message of the room once. Latencies are taken from when a message was due; a
member's acknowledgements are taken to come in the order of its messages.
"""

from __future__ import annotations

import os
import select
import socket
import time
from collections import deque
from collections.abc import Sequence

from benchmarks.peers.wires import MARK, WIRES, Wire

_RECEIVE_BYTES = 1 << 17
_OPEN_SECONDS = 60.0
#: Different messages of a member; then they come again.
FRAMES = 64


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

    :param rooms: the room of each.
    :param patience_seconds: what comes later than that counts as lost.
    :ivar latencies: seconds from when a message was due to its acknowledgement; not taken in a flood.
    """

    def __init__(self, wire: Wire, port: int, rooms: Sequence[int], patience_seconds: float) -> None:
        self._wire = wire
        self._patience_seconds = patience_seconds
        self._epoll = select.epoll()
        self._members: dict[int, _Member] = {}
        self.sent = self.acks = self.marks = 0
        self.latencies: list[float] = []
        for index, room in enumerate(rooms):
            name = member_name(index)
            connection = open_connection(wire, port, room, name)
            connection.setblocking(False)
            frames = [self._wire.message(room, name, number) for number in range(FRAMES)]
            self._members[connection.fileno()] = _Member(connection, room, frames * 2)
            self._epoll.register(connection.fileno(), select.EPOLLIN)
        self._all = list(self._members.values())

    def close(self) -> None:
        """Leave."""
        for member in self._all:
            member.socket.close()
        self._epoll.close()

    @property
    def deliveries(self) -> int:
        """How many came, all members together."""
        return self.marks - self.acks * self._wire.echoes

    def flood(self, window: int, seconds: float) -> None:
        """Keep so many messages of every member unacknowledged, at most :data:`FRAMES`."""
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
                self._listen(left if left < 0.002 else left - 0.001)
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
        member.next = (start + count) % FRAMES
        member.sent += count
        self.sent += count

    def _listen(self, seconds: float) -> None:
        """Wait at most so long for something to come, and count it."""
        if seconds < 0.002:  # epoll waits for whole milliseconds, select does not
            if not select.select([self._epoll], [], [], seconds)[0]:
                return
            seconds = 0.0
        for number, _ in self._epoll.poll(seconds):
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
        if acks and member.due:
            now = time.perf_counter()
            for _ in range(min(acks, len(member.due))):
                self.latencies.append(now - member.due.popleft())
        return acks


_CARRY_BYTES = max(len(MARK), *(len(wire.ack) for wire in WIRES.values()))


def member_name(index: int) -> str:
    """One that no other client of the server has."""
    return f"{os.getpid()}-{index}"


def open_connection(wire: Wire, port: int, room: int, member: str, query: str = "") -> socket.socket:
    """A socket that is in the room. :param query: of the handshake's path."""
    connection = socket.create_connection(("127.0.0.1", port), _OPEN_SECONDS)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.sendall(wire.handshake(port, room, query))
    received = b""
    while b"\r\n\r\n" not in received:
        # what comes behind it is left where it is, and counted elsewhere
        head, end, _ = (received + _receive(connection, 4096, socket.MSG_PEEK)).partition(b"\r\n\r\n")
        received += _receive(connection, len(head + end) - len(received))
    if b" 101 " not in received.split(b"\r\n")[0]:
        raise ConnectionError(f"no WebSocket: {received!r}")
    for payload, answer in wire.greetings:
        if payload:
            connection.sendall(wire.greeting(payload, room, member))
        received = b""
        while answer not in received:
            received += _receive(connection, 4096)
    return connection


def _receive(connection: socket.socket, count: int, flags: int = 0) -> bytes:
    data = connection.recv(count, flags)
    if not data:
        raise ConnectionError("the server closed a connection that was being opened")
    return data
