"""The roll itself, on a fleet in memory: its order, what stops it, and that it goes on from wherever it was."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Any

import attrs
import pytest
from rich.console import Console

from scripts.deployment.errors import Stopped
from scripts.deployment.fleet import Fleet, Instance, State
from scripts.deployment.progress import Progress
from scripts.deployment.roll import Patience, Roll

_PATIENCE = Patience(ready=60, stop=30, lag=20, max_lag=5)
_OLD, _NEW = "1", "2"


class MemoryFleet:
    """Instances that take a second for everything, by a clock that moves when somebody sleeps.

    :ivar log: what was asked of it. :ivar least_serving: how many served when the fewest did.
    :ivar trouble: called before each look, to let something happen. :ivar due: until when each is busy.
    """

    settle_seconds = 1.0

    def __init__(self, count: int = 4) -> None:
        self.now = 0.0
        self.target = _NEW
        self.log: list[str] = []
        self.lag: float | None = 0.0
        self.trouble: Callable[[], object] = lambda: None
        self.never_ready: set[str] = set()
        self.ends_at_once: set[str] = set()
        self.due: dict[str, float] = {}
        self._instances = {
            f"node-{n}": Instance(f"node-{n}", _OLD, False, State.READY, True) for n in range(1, count + 1)
        }
        self.least_serving = count

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def change(self, name: str, **to: Any) -> None:
        self._instances[name] = attrs.evolve(self._instances[name], **to)

    def add(self, name: str) -> None:
        self._instances[name] = Instance(name, _OLD, False, State.READY, True)

    def instances(self) -> Sequence[Instance]:
        self.trouble()
        for name, one in self._instances.items():
            if self.due.get(name, 0.0) <= self.now:
                if one.state is State.STOPPING:
                    self.change(name, state=State.STOPPED)
                elif one.state is State.STARTING and name in self.ends_at_once:
                    self.change(name, state=State.STOPPED, note="ended with status 1: no such option")
                elif one.state is State.STARTING and name not in self.never_ready:
                    self.change(name, state=State.READY, note="")
        found = [attrs.evolve(one, current=one.release == self.target) for one in self._instances.values()]
        self.least_serving = min(self.least_serving, sum(one.serves for one in found))
        return found

    def take_out(self, instance: Instance) -> None:
        self._do("take out", instance, in_balancer=False)

    def stop(self, instance: Instance) -> None:
        assert not self._instances[instance.name].in_balancer, "its clients would be refused"
        self._do("stop", instance, state=State.STOPPING)

    def start(self, instance: Instance) -> None:
        note = "answers 503" if instance.name in self.never_ready else ""
        self._do("start", instance, state=State.STARTING, release=self.target, in_balancer=False, note=note)

    def put_back(self, instance: Instance) -> None:
        assert self._instances[instance.name].state is State.READY, "it would be sent clients that it refuses"
        self._do("put back", instance, in_balancer=True)

    def lag_seconds(self) -> float | None:
        self.trouble()
        return self.lag

    def _do(self, what: str, instance: Instance, **to: object) -> None:
        self.log.append(f"{what} {instance.name}")
        self.due[instance.name] = self.now + 1
        self.change(instance.name, **to)


def roll(fleet: MemoryFleet) -> tuple[int, str]:
    """How many were given the release, and what was said."""
    said = io.StringIO()
    typed: Fleet = fleet
    progress = Progress(Console(file=said, width=200), lambda: fleet.now)
    made = Roll(typed, _PATIENCE, progress, lambda: fleet.now, fleet.sleep, 0.5, "scripts/deploy roll")
    return made.run(), said.getvalue()


def all_of(*names: str) -> list[str]:
    return [f"{what} {name}" for name in names for what in ("take out", "stop", "start", "put back")]


_ALL = all_of("node-1", "node-2", "node-3", "node-4")


def test_one_instance_after_the_other_gets_the_release_while_the_others_serve() -> None:
    fleet = MemoryFleet()
    assert roll(fleet)[0] == 4
    assert fleet.log == _ALL
    assert fleet.least_serving == 3
    assert roll(fleet)[0] == 0, "and then there is nothing to do"
    assert fleet.log == _ALL


def test_each_step_is_told_with_its_instance_and_time() -> None:
    _, said = roll(MemoryFleet(2))
    assert [line.split("  ")[1].strip() for line in said.splitlines()].count("node-1") == 4
    assert "node-2       drained and stopped, was 1" in said
    assert said.count("lag is normal") == 3


class _Interrupted(Exception):
    pass


@pytest.mark.parametrize("at", range(1, len(_ALL) + 1))
def test_a_roll_that_is_interrupted_after_any_step_goes_on_from_there(at: int) -> None:
    fleet = MemoryFleet()

    def interrupt() -> None:
        if len(fleet.log) == at:
            raise _Interrupted

    fleet.trouble = interrupt
    with pytest.raises(_Interrupted):
        roll(fleet)
    fleet.trouble = lambda: None
    roll(fleet)
    assert fleet.log == _ALL
    assert fleet.least_serving == 3


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ("never_ready", "node-2 is not ready after 60 s: it answers 503"),
        ("ends_at_once", "node-2 does not become ready: it ended with status 1: no such option"),
    ],
)
def test_it_stops_at_the_instance_that_does_not_become_ready_and_leaves_the_others(how: str, why: str) -> None:
    fleet = MemoryFleet()
    getattr(fleet, how).add("node-2")
    with pytest.raises(Stopped) as stopped:
        roll(fleet)
    assert str(stopped.value) == why
    assert "node-2 is sent no clients; node-3, node-4 not touched" in stopped.value.remedy
    assert any("scripts/deploy roll --rollback" in line for line in stopped.value.remedy)
    assert fleet.log == all_of("node-1", "node-2")[:-1]
    assert fleet.least_serving == 3

    # It tries again when it is repeated, and fails again: once, not for ever.
    with pytest.raises(Stopped):
        roll(fleet)
    assert fleet.log.count("start node-2") == (1 if how == "never_ready" else 2)
    # And once the cause is mended it goes on from there.
    getattr(fleet, how).clear()
    roll(fleet)
    assert [line for line in fleet.log if "node-1" in line] == all_of("node-1")
    assert fleet.log[-8:] == all_of("node-3", "node-4")


def test_going_back_touches_only_those_that_have_the_new_release() -> None:
    fleet = MemoryFleet()
    fleet.ends_at_once.add("node-2")
    with pytest.raises(Stopped):
        roll(fleet)
    fleet.ends_at_once.clear()
    fleet.log.clear()
    fleet.target = _OLD
    assert roll(fleet)[0] == 2
    # First the one that is missing: until it serves, no other is taken out.
    assert fleet.log == ["start node-2", "put back node-2", *all_of("node-1")]
    assert {one.release for one in fleet.instances()} == {_OLD}


def test_an_instance_that_dies_meanwhile_is_brought_up_before_the_next_is_taken_out() -> None:
    fleet = MemoryFleet()

    def kill() -> None:
        if fleet.log == all_of("node-1")[:2]:
            fleet.change("node-4", state=State.STOPPED, note="was killed by SIGKILL")

    fleet.trouble = kill
    assert roll(fleet)[0] == 4
    assert fleet.log == [*all_of("node-1"), "start node-4", "put back node-4", *all_of("node-2", "node-3")]


def test_an_instance_that_is_killed_while_it_drains_is_started_all_the_same() -> None:
    fleet = MemoryFleet()

    def kill() -> None:
        if fleet.log and fleet.log[-1] == "stop node-3":
            fleet.change("node-3", state=State.STOPPED, note="was killed by SIGKILL")

    fleet.trouble = kill
    assert "was killed by SIGKILL" in roll(fleet)[1]
    assert fleet.log == _ALL


def test_one_that_is_not_ready_is_the_first_to_get_the_release() -> None:
    fleet = MemoryFleet()
    fleet.never_ready.add("node-3")
    fleet.change("node-3", state=State.STARTING)
    fleet.trouble = lambda: fleet.never_ready.clear() if "start node-3" in fleet.log else None
    roll(fleet)
    assert fleet.log == all_of("node-3", "node-1", "node-2", "node-4")


def test_a_place_that_starts_something_else_than_it_should_is_not_rolled_for_ever() -> None:
    fleet = MemoryFleet()

    def replace() -> None:
        if fleet.log == all_of("node-1"):
            fleet.add("node-5")

    fleet.trouble = replace
    with pytest.raises(Stopped, match="node-5 is new, and yet it runs 1"):
        roll(fleet)
    assert fleet.log == _ALL


def test_the_last_one_that_serves_is_not_taken_out() -> None:
    fleet = MemoryFleet(1)
    with pytest.raises(Stopped, match="node-1 is the only instance that serves"):
        roll(fleet)
    assert fleet.log == []


def test_nobody_is_taken_out_while_the_lag_is_high() -> None:
    fleet = MemoryFleet()
    fleet.lag = 80.0
    with pytest.raises(Stopped, match=r"waits for 80\.0 s, more than the 5 s of --max-lag-seconds"):
        roll(fleet)
    assert fleet.log == []
    assert fleet.now >= _PATIENCE.lag


def test_the_next_one_waits_until_the_lag_is_normal_again() -> None:
    fleet = MemoryFleet()
    looked: list[float] = []

    def lag() -> None:
        if fleet.log == all_of("node-1"):
            looked.append(fleet.now)
            fleet.lag = 9.0 if fleet.now < looked[0] + 10 else 1.0

    fleet.trouble = lag
    roll(fleet)
    assert fleet.log == _ALL
    assert looked[-1] >= looked[0] + 10


def test_a_lag_that_nobody_knows_does_not_stop_it() -> None:
    fleet = MemoryFleet()
    fleet.lag = None
    assert "lag is normal" in roll(fleet)[1]
    assert fleet.log == _ALL


def test_an_instance_that_never_drains_stops_the_roll() -> None:
    fleet = MemoryFleet()

    def hang() -> None:
        if fleet.log == all_of("node-1")[:2]:
            fleet.change("node-1", state=State.STOPPING)
            fleet.due["node-1"] = fleet.now + 1

    fleet.trouble = hang
    with pytest.raises(Stopped, match="node-1 has not ended, 30 s after it was told"):
        roll(fleet)
    assert fleet.log == all_of("node-1")[:2]
