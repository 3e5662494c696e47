"""The ways of one host are cut, in one direction or both, or slow and lossy; or its clients' are half-open."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from benchmarks.faults.fault import Fault, Scene, fault, standstill
from benchmarks.faults.hosts import PEERS
from benchmarks.faults.laboratory import READY_SECONDS
from testbed.client import RawClient
from testbed.waiting import eventually

_DIRECTIONS = {"": (True, True), "-out": (True, False), "-in": (False, True)}
_WORDS = {"": "both ways", "-out": "what the host sends is lost", "-in": "what it is sent is lost"}
_HALF_OPEN = 50

# What does not grow meanwhile.
_STOPS = {"database": "chatflow_messages_stored_total", "queue": "chatflow_messages_acknowledged_total"}


def _cut(peer: str, direction: str) -> Fault:
    def act(scene: Scene) -> Iterator[None]:
        remote = scene.laboratory.remote
        to_peer, from_peer = _DIRECTIONS[direction]
        remote.links.cut(peer, to_peer=to_peer, from_peer=from_peer)
        try:
            with standstill(scene, remote.counter, _STOPS[peer]):
                yield
        finally:
            remote.links.heal()
            eventually(remote.is_ready, "the host is ready again", READY_SECONDS)

    sees = "its clients wait; the others go on"
    what = f"one host is cut off from the {peer}, {_WORDS[direction]}"
    return fault(f"cut-{peer}{direction}", what, sees, hold_seconds=15)(act)


CUT = tuple(_cut(peer, direction) for peer in PEERS[:2] for direction in _DIRECTIONS)


@fault(
    "cut-off",
    "one host is cut off from database, queue and clients, so from all other hosts, both ways",
    "its clients wait, or come back elsewhere; the others go on",
    hold_seconds=15,
)
def cut_off(scene: Scene) -> Iterator[None]:
    remote = scene.laboratory.remote
    for peer in PEERS:
        remote.links.cut(peer)
    try:
        yield
    finally:
        remote.links.heal()
        eventually(remote.is_ready, "the host is ready again", READY_SECONDS)


@fault("latency", "one host's packets are 50 ms late and 2 % of them are lost", "its clients see it", hold_seconds=10)
def latency(scene: Scene) -> Iterator[None]:
    links = scene.laboratory.remote.links
    how = links.disturb(PEERS, 0.05, 0.02)
    scene.laboratory.note(f"latency and loss by {how}")
    try:
        yield
    finally:
        links.heal()


@fault(
    "half-open",
    f"connections of one host's clients stand still, and nobody is told; {_HALF_OPEN} of them are silent ones",
    "they are dropped, and come back",
    hold_seconds=45,
)
def half_open(scene: Scene) -> Iterator[None]:
    remote, name = scene.laboratory.remote, "chatflow_silent_clients_dropped_total"
    before = remote.counter(name)
    with contextlib.ExitStack() as exits:
        for number in range(_HALF_OPEN):
            exits.enter_context(RawClient(remote.port, f"/chat/{1 + number % scene.laboratory.rooms}"))
        remote.links.cut("clients")
        try:
            yield
        finally:
            remote.links.heal()
    eventually(remote.is_ready, "the host is ready again", READY_SECONDS)
    dropped = remote.counter(name) - before
    scene.figures["connections dropped as silent"] = dropped
    is_long_enough = scene.hold_seconds >= 3.2 * scene.laboratory.ping_seconds
    scene.expect(dropped >= _HALF_OPEN or not is_long_enough, f"only {dropped:g} are dropped")


FAULTS = (*CUT, cut_off, latency, half_open)
