"""Clients that come back, in a process of their own, and live traffic that notices them."""

from __future__ import annotations

import re
import selectors
import socket
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import attrs

from testbed.client import RawClient, handshake

_RECEIVE_BYTES = 1 << 20
_TOO_LONG_SECONDS = 120.0
_SEQ = re.compile(rb'"seq":(\d+)[,}]')
_MARK = b'"seq":'
# Of a crowd, the received bytes of one in so many are kept, to look at the order of every message.
_LOOKED_AT = 50


@attrs.frozen
class Wish:
    """One client: what it asks for, and the room's head at that time. A plain value: it crosses processes."""

    room: int
    since: int
    head: int


@attrs.define
class _Returning:
    socket: socket.socket
    wish: Wish
    seen: int = 0
    carry: bytes = b""
    kept: list[bytes] | None = None


def come_back(port: int, wishes: Sequence[Wish]) -> dict[str, Any]:
    """All at the same moment, until each has what it missed: ``seconds`` of each, the fastest first, and ``faults``."""
    clients = []
    for index, wish in enumerate(wishes):
        connection = socket.create_connection(("127.0.0.1", port))
        connection.setblocking(False)
        clients.append(_Returning(connection, wish, kept=[] if index % _LOOKED_AT == 0 else None))
    began = time.perf_counter()
    for client in clients:
        client.socket.send(handshake(port, f"/chat/{client.wish.room}?since={client.wish.since}"))
    seconds: list[float] = []
    with selectors.DefaultSelector() as selector:
        for client in clients:
            selector.register(client.socket, selectors.EVENT_READ, client)
        while len(seconds) < len(clients) and time.perf_counter() - began < _TOO_LONG_SECONDS:
            for key, _ in selector.select(1.0):
                client = key.data
                data = client.socket.recv(_RECEIVE_BYTES)
                if not data or _receive(client, data) >= client.wish.head - client.wish.since:
                    selector.unregister(client.socket)
                    if data:
                        seconds.append(time.perf_counter() - began)
    for client in clients:
        client.socket.close()
    faults = [fault for client in clients if (fault := _fault(client))]
    return {"seconds": seconds, "faults": faults}


def _receive(client: _Returning, data: bytes) -> int:
    """How many messages came until now."""
    if client.kept is not None:
        client.kept.append(data)
    data = client.carry + data
    client.seen += data.count(_MARK)
    client.carry = data[-(len(_MARK) - 1) :]
    return client.seen


def _fault(client: _Returning) -> str:
    wish = client.wish
    missed = wish.head - wish.since
    if client.seen < missed:
        return f"room {wish.room} behind {wish.since}: {client.seen} of {missed} messages came"
    if client.kept is not None:
        found = [int(seq) for seq in _SEQ.findall(b"".join(client.kept))]
        if found != list(range(wish.since + 1, wish.since + 1 + len(found))):
            return f"room {wish.room} behind {wish.since}: not each message once and in order"
    return ""


class LiveTraffic:
    """A member in each room who talks at a fixed rate, in turn. Times are taken from when a message was due.

    :param rate: messages/s, all rooms together.
    :param padding: makes each message longer.
    """

    def __init__(self, port: int, rooms: Sequence[int], rate: float, padding: str = "") -> None:
        self._rate = rate
        self._padding = padding
        # Others may talk in the same rooms.
        self._name = f"live of {id(self):x}"
        self._live = re.compile(rf'"message":"{self._name} (\d+) '.encode())
        self._clients = [RawClient(port, f"/chat/{room}") for room in rooms]
        self._buffers = {client.socket: b"" for client in self._clients}
        self._due: list[float] = []

    def close(self) -> None:
        """Leave."""
        for client in self._clients:
            client.socket.close()

    def run(self, done: Callable[[], bool]) -> dict[str, list[float]]:
        """Talk until ``done``, and then hear everything: seconds of each ``ack`` and ``delivery``."""
        times: dict[str, list[float]] = {"ack": [], "delivery": []}
        first = len(self._due)
        began = time.perf_counter()
        with selectors.DefaultSelector() as selector:
            for client in self._clients:
                selector.register(client.socket, selectors.EVENT_READ)
            talking = True
            while talking or min(map(len, times.values())) < len(self._due) - first:
                now = time.perf_counter()
                assert now - began < _TOO_LONG_SECONDS, "live messages are missing"
                talking = talking and not done()
                next_due = began + (len(self._due) - first) / self._rate
                if talking and now >= next_due:
                    self._talk(next_due)
                    continue
                for key, _ in selector.select(min(0.1, max(0.0, next_due - now))):
                    assert isinstance(key.fileobj, socket.socket)
                    self._hear(key.fileobj, times)
        return times

    def _talk(self, due: float) -> None:
        index = len(self._due)
        self._due.append(due)
        self._clients[index % len(self._clients)].send_message(f"{self._name} {index} {self._padding}")

    def _hear(self, connection: socket.socket, times: dict[str, list[float]]) -> None:
        data = self._buffers[connection] + connection.recv(_RECEIVE_BYTES)
        now = time.perf_counter()
        while len(data) >= 4:
            head, length = (4, int.from_bytes(data[2:4], "big")) if data[1] == 126 else (2, data[1])
            if len(data) < head + length:
                break
            payload, data = data[head : head + length], data[head + length :]
            found = self._live.search(payload)
            if found:
                kind = "ack" if payload.startswith(b'{"status":"SUCCESS"') else "delivery"
                times[kind].append(now - self._due[int(found[1])])
        self._buffers[connection] = data


def p99(seconds: Sequence[float]) -> float:
    """In ms."""
    return statistics.quantiles(seconds, n=100)[98] * 1000 if len(seconds) > 1 else 0.0
