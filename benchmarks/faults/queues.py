"""SQS and SNS are away, forget everything, refuse calls, or lose answers."""

from __future__ import annotations

import threading
from collections.abc import Iterator

from benchmarks.faults.fault import Scene, fault
from benchmarks.faults.laboratory import READY_SECONDS
from testbed.waiting import eventually

_DRAIN_SECONDS = 60.0


@fault(
    "queue-killed",
    "the emulator is killed once it holds no message, and another one starts that knows nothing",
    "acknowledgements wait until it is back",
    survivors_go_on=False,
)
def queue_killed(scene: Scene) -> Iterator[None]:
    laboratory = scene.laboratory
    laboratory.faults.set_rules("SendMessageBatch:reset=1")
    try:
        eventually(lambda: _is_drained(scene), "the queues are empty", _DRAIN_SECONDS)
        laboratory.emulator.kill()
        yield
        laboratory.emulator.start_again()
        laboratory.set_up()
    finally:
        laboratory.faults.set_rules()
    eventually(lambda: all(host.is_ready() for host in laboratory.running), "all hear each other again", READY_SECONDS)


def _is_drained(scene: Scene) -> bool:
    """Whether everything that was acknowledged is stored, for half a second."""
    before = scene.laboratory.totals()["chatflow_messages_stored_total"]
    threading.Event().wait(0.5)
    return scene.laboratory.queued() == 0 and scene.laboratory.totals()["chatflow_messages_stored_total"] == before


@fault(
    "queue-away", "no call to SQS and SNS gets through", "acknowledgements wait until it is back", survivors_go_on=False
)
def queue_away(scene: Scene) -> Iterator[None]:
    yield from _with_rules(scene, "*:reset=1")


@fault("queue-throttles", "half of all calls to SQS and SNS are throttled", "acknowledgements take longer")
def queue_throttles(scene: Scene) -> Iterator[None]:
    yield from _with_rules(scene, "*:throttle=0.5")


@fault("queue-loses-answers", "a fifth of the calls to SQS and SNS are carried out and not answered", "it takes longer")
def queue_loses_answers(scene: Scene) -> Iterator[None]:
    yield from _with_rules(scene, "*:drop=0.2,delay_ms=50")


@fault("queue-in-part", "of batch calls, every second entry fails half of the time", "acknowledgements take longer")
def queue_in_part(scene: Scene) -> Iterator[None]:
    yield from _with_rules(scene, "*Batch:partial=0.5")


def _with_rules(scene: Scene, *rules: str) -> Iterator[None]:
    faults = scene.laboratory.faults
    faults.set_rules(*rules, seed=scene.random.randrange(1 << 30))
    try:
        yield
    finally:
        injected = sum(faults.faults.injected.values())
        faults.set_rules()
    scene.figures["calls that failed"] = injected
    scene.expect(injected > 0, "no call was made to fail")


FAULTS = (queue_killed, queue_away, queue_throttles, queue_loses_answers, queue_in_part)
