"""Clients that do not read, that hardly read, and that come back all at once."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from benchmarks.faults.fault import Scene, fault
from benchmarks.faults.hosts import Host
from benchmarks.faults.instances import allow_many_files
from benchmarks.returning import Wish, come_back
from testbed.client import RawClient
from testbed.threads import beside, run_together

_SLOW = 200
_SMALL_BUFFER_BYTES = 4096
_TRICKLE_BYTES = 20
_TRICKLE_SECONDS = 0.1
_STORM = 2000
_MISSED = 20

_OTHERS = "they are closed with 1013 in the end; nobody else notices"


@fault("stalled-readers", f"{_SLOW} clients of one instance never read", _OTHERS, hold_seconds=30)
def stalled_readers(scene: Scene) -> Iterator[None]:
    with _slow_clients(scene):
        yield


@fault("trickling-readers", f"{_SLOW} clients of one instance read 200 bytes a second", _OTHERS, hold_seconds=30)
def trickling_readers(scene: Scene) -> Iterator[None]:
    with _slow_clients(scene) as clients:
        for client in clients:
            client.socket.setblocking(False)

        def trickle(over: threading.Event) -> None:
            while not over.wait(_TRICKLE_SECONDS):
                for client in clients:
                    with contextlib.suppress(OSError):
                        client.socket.recv(_TRICKLE_BYTES)

        with beside("trickle", trickle):
            yield


@contextlib.contextmanager
def _slow_clients(scene: Scene) -> Iterator[list[RawClient]]:
    allow_many_files()
    victim = scene.random.choice(scene.laboratory.victims)
    with contextlib.ExitStack() as exits:
        rooms = [1 + number % scene.laboratory.rooms for number in range(scene.laboratory.crowd(_SLOW))]
        clients = [RawClient(victim.port, f"/chat/{room}", receive_buffer_bytes=_SMALL_BUFFER_BYTES) for room in rooms]
        for client in clients:
            exits.enter_context(client)
        yield clients


@fault("storm", f"{_STORM:,} clients are cut at once, and come back at once", "each has what it missed", hold_seconds=0)
def storm(scene: Scene) -> Iterator[None]:
    allow_many_files()
    laboratory = scene.laboratory
    heads = dict(laboratory.sql("SELECT room_id, last_seq FROM rooms"))
    hosts = [laboratory.witness, *laboratory.victims]
    each = laboratory.crowd(_STORM) // len(hosts)

    def come(host: Host, missed: int) -> list[float]:
        wishes = []
        for number in range(each):
            room = 1 + number % laboratory.rooms
            head = heads.get(room, 0)
            wishes.append(Wish(room, max(0, head - missed), head))
        came = come_back(host.port, wishes)
        scene.problems.extend(came["faults"][:3])
        return list(came["seconds"])

    first = run_together([lambda host=host: come(host, 0) for host in hosts])  # type: ignore[misc]
    again = run_together([lambda host=host: come(host, _MISSED) for host in hosts])  # type: ignore[misc]
    scene.figures["clients that came back"] = sum(map(len, again))
    scene.figures["slowest of them, s"] = max(max(seconds, default=0.0) for seconds in again)
    scene.expect(sum(map(len, first)) == sum(map(len, again)) == each * len(hosts), "some clients did not come back")
    yield


FAULTS = (stalled_readers, trickling_readers, storm)
