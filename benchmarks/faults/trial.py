"""Faults, one after the other, under load that proves what came of them; and the verdict."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from random import Random
from typing import Any

import attrs
import psutil
from websockets.exceptions import WebSocketException

from benchmarks.faults.fault import Fault, Scene
from benchmarks.faults.laboratory import Laboratory
from testbed.client import ChatClient
from testbed.load_client import LoadClient
from testbed.recounting import recount
from testbed.threads import beside, run_together
from testbed.waiting import eventually

#: Beyond what an instance had before, with the limits that daemons have by default: 200 clients who read nothing
#: may have 4 MiB each.
MOST_MEMORY_BYTES = 900 << 20

_SETTLE_SECONDS = 60.0
_RECOVERY_SECONDS = 120.0
_MOST_SECONDS = 7200.0  # of load
_LOST_SECONDS = 35.0  # a message that was not seen by then is sent again
_SAMPLE_SECONDS = 0.25
_NEVER_SECONDS = 86_400  # the load client's way to come back only when it has to


@attrs.frozen
class Step:
    """:ivar hold_seconds: how long the fault lasts. :ivar seed: of what it draws."""

    fault: Fault
    hold_seconds: float
    seed: int


@attrs.frozen
class Load:
    """:ivar rate: messages/s.

    :ivar spare_seconds: before the first fault and after the last, each.
    :ivar timeout_seconds: how long to wait for a message that does not come.
    """

    rate: float = 200.0
    connections: int = 48
    spare_seconds: float = 2.0
    timeout_seconds: float = 60.0


@attrs.define
class Verdict:
    """What came of it.

    :ivar recovery_seconds: by name of the fault: until what was sent on the witness was seen there in every room, from
        when the fault began, or for one that stops all from when it was undone.
    :ivar memory_bytes: by instance, before and at most.
    :ivar problems: nothing, if every promise was kept.
    """

    tried: int = 0
    acknowledged: int = 0
    lost: int = 0
    doubled: int = 0
    disordered: int = 0
    refused: int = 0
    came_back: int = 0
    recovery_seconds: dict[str, float] = attrs.Factory(dict)
    memory_bytes: dict[str, tuple[int, int]] = attrs.Factory(dict)
    figures: dict[str, float] = attrs.Factory(dict)
    problems: list[str] = attrs.Factory(list)
    reports: list[dict[str, Any]] = attrs.Factory(list)

    def add(self, name: str, report: dict[str, Any], may_refuse: Iterable[str]) -> None:
        """What a load client has found."""
        allowed = tuple(f"main: refused as {code}: " for code in may_refuse)
        deliveries, acks, stored = report["deliveries"], report["acks"], report["stored"]
        self.reports.append(report)
        self.tried += report["sent"]
        self.acknowledged += report["acked"]
        self.lost += stored["missing"] + acks["never_broadcast"] + deliveries["missing"]
        self.doubled += stored["duplicated"] + deliveries["duplicated"]
        self.disordered += deliveries["out_of_order"] + deliveries["conflicting"] + stored["holes"]
        self.came_back += report["reconnects"]
        self.refused += sum(report["refusals"].values())
        self.problems += [f"{name}: {cause}" for cause in report["causes"] if not cause.startswith(allowed)]

    @property
    def peak_bytes(self) -> int:
        """Of the largest instance."""
        return max((most for _, most in self.memory_bytes.values()), default=0)


def run_trial(laboratory: Laboratory, steps: Sequence[Step], load: Load) -> Verdict:
    """Do all this to the laboratory, one after the other; it is whole again afterwards.

    Half of the load stays on the witness, without a clientMessageId, and loses no connection; the other half is on all
    instances and comes back where it has to.
    """
    verdict = Verdict()
    try:
        with _memory_watched(laboratory, verdict), _loaded(laboratory, steps, load) as clients:
            eventually(lambda: all(one.is_heard for one in clients.values()), "everybody hears", _SETTLE_SECONDS)
            threading.Event().wait(load.spare_seconds)
            for step in steps:
                _run_step(laboratory, step, verdict, clients.values())
            threading.Event().wait(load.spare_seconds)
            for client in clients.values():
                client.finish()
            may_refuse = {code for step in steps for code in step.fault.may_refuse}
            for name, client in clients.items():
                verdict.add(name, client.report(_SETTLE_SECONDS), may_refuse)
    except (AssertionError, RuntimeError, OSError, psutil.Error) as error:
        verdict.problems.append(f"{type(error).__name__}: {error}")
    _judge(laboratory, verdict)
    return verdict


def _run_step(laboratory: Laboratory, step: Step, verdict: Verdict, clients: Iterable[LoadClient]) -> None:
    scene = Scene(laboratory, Random(step.seed), step.hold_seconds)
    name = step.fault.name
    with ThreadPoolExecutor(1) as pool:
        with step.fault.begin(scene):
            began = time.monotonic()
            scene.expect(all(client.runs for client in clients), "the load has ended before it")
            if step.fault.survivors_go_on:
                recovering = pool.submit(_recovery, laboratory, began)
            threading.Event().wait(step.hold_seconds)
            healed = time.monotonic()
        if not step.fault.survivors_go_on:
            recovering = pool.submit(_recovery, laboratory, healed)
        verdict.recovery_seconds[name] = recovering.result()
    verdict.figures |= {f"{name}: {what}": value for what, value in scene.figures.items()}
    verdict.problems += [f"{name}: {problem}" for problem in scene.problems]


@contextlib.contextmanager
def _loaded(laboratory: Laboratory, steps: Sequence[Step], load: Load) -> Iterator[dict[str, LoadClient]]:
    stays = all(step.fault.spares_witness for step in steps)
    halves = 2 if stays else 1
    size = (
        *("--rate", load.rate / halves, "--messages", round(load.rate * _MOST_SECONDS / halves)),
        *("--connections", load.connections // halves, "--rooms", laboratory.rooms, "--even-rooms"),
        *("--warmup-messages", 0, "--timeout-seconds", load.timeout_seconds, "--seed", steps[0].seed % 1_000_000_000),
    )
    url = laboratory.database_url
    with contextlib.ExitStack() as exits:
        clients = {}
        if stays:
            witness = laboratory.urls_of([laboratory.witness])
            clients["who stays"] = exits.enter_context(LoadClient(*size, urls=witness, database_url=url, endless=True))
        leaving = LoadClient(*size, "--reconnect", _NEVER_SECONDS, urls=laboratory.urls, database_url=url, endless=True)
        clients["who comes back"] = exits.enter_context(leaving)
        yield clients


def _recovery(laboratory: Laboratory, since: float) -> float:
    """Seconds until what is sent on the witness is seen there, in every room."""
    deadline = since + _RECOVERY_SECONDS
    rooms = range(1, laboratory.rooms + 1)
    return max(run_together([lambda room=room: _through(laboratory, room, deadline) for room in rooms])) - since  # type: ignore[misc]


def _through(laboratory: Laboratory, room: int, deadline: float) -> float:
    """When a message was seen in its room."""
    url = laboratory.witness.chat_url(room)
    while time.monotonic() < deadline:
        text = f"through {room} {time.monotonic_ns()}"
        with contextlib.suppress(OSError, TimeoutError, WebSocketException), ChatClient(url) as client:
            client.send(text)
            while True:
                frame = json.loads(client.socket.recv(_LOST_SECONDS))
                if frame.get("message") == text and "roomId" in frame:
                    return time.monotonic()
        threading.Event().wait(0.1)
    raise AssertionError(f"room {room} has not recovered within {_RECOVERY_SECONDS:g} s")


@contextlib.contextmanager
def _memory_watched(laboratory: Laboratory, verdict: Verdict) -> Iterator[None]:
    """Within the block the memory of each instance is looked at."""

    def look(over: threading.Event) -> None:
        while True:
            for host in laboratory.running:
                name = laboratory.name_of(host)
                with contextlib.suppress(psutil.Error):
                    own = psutil.Process(host.process.pid).memory_info().rss
                    first, most = verdict.memory_bytes.get(name, (own, own))
                    verdict.memory_bytes[name] = first, max(most, own)
            if over.wait(_SAMPLE_SECONDS):
                return

    with beside("memory", look):
        yield


def _judge(laboratory: Laboratory, verdict: Verdict) -> None:
    """What load clients cannot see."""
    if not verdict.acknowledged:
        verdict.problems.append("no message was acknowledged")
    for name, (first, most) in verdict.memory_bytes.items():
        if most - first > MOST_MEMORY_BYTES:
            verdict.problems.append(f"{name} grew by {(most - first) >> 20} MB")
    try:
        verdict.problems += [f"recount: {name}: {rows[:3]}" for name, rows in recount(laboratory.database_url).items()]
        aside = laboratory.totals()["chatflow_envelopes_set_aside_total"]
    except Exception as error:  # PostgreSQL or an instance is not what it was: that is a verdict, too
        verdict.problems.append(f"{type(error).__name__}: {error}")
    else:
        if aside:
            verdict.problems.append(f"{aside:g} envelopes were set aside")
