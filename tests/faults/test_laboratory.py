"""What may happen to a cluster, made to happen: the promises hold, and where one is broken the laboratory sees it.

The same in full size: ``python -m benchmarks faults``.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from benchmarks.faults.catalogue import FAULTS
from benchmarks.faults.laboratory import Laboratory
from benchmarks.faults.trial import Load, Step, Verdict, run_trial
from benchmarks.faults.walk import walk

_SEED = 11
_WALK_SECONDS = 8.0
# What waits for somebody dead is due sooner than by default, and the many clients are fewer.
_OPTIONS = ("--visibility-seconds", "2", "--long-poll-seconds", "1", "--reap-after-seconds", "5")


@pytest.fixture(scope="module")
def laboratory() -> Iterator[Laboratory]:
    """Whole again after each test."""
    with Laboratory(*_OPTIONS, instances=2, rooms=4, seed=_SEED, ping_seconds=2, crowd_share=0.05) as laboratory:
        yield laboratory.start()


@pytest.fixture
def planted(laboratory: Laboratory) -> Iterator[Laboratory]:
    """Its instances have no defect any more afterwards."""
    yield laboratory
    laboratory.plant("")


def tried(laboratory: Laboratory, *names: str, hold_seconds: float = 0.5, **load: float) -> Verdict:
    """What comes of some of the faults, those of them that this machine can have."""
    faults = [FAULTS[name] for name in names if not laboratory.lacks(FAULTS[name].needs)]
    steps = [Step(fault, hold_seconds, _SEED + number) for number, fault in enumerate(faults)]
    return run_trial(laboratory, steps, Load(**{"rate": 150, "connections": 16, "spare_seconds": 0.5, **load}))  # type: ignore[arg-type]


def check(verdict: Verdict) -> None:
    """Nothing is lost, doubled or disordered, and everybody is heard again."""
    assert verdict.problems == []
    assert verdict.acknowledged == verdict.tried > 0
    assert (verdict.lost, verdict.doubled, verdict.disordered) == (0, 0, 0)


def test_kills_at_any_point_break_no_promise(laboratory: Laboratory) -> None:
    kills = [name for name in FAULTS if name.startswith("kill-")]
    assert len(kills) == 4
    verdict = tried(laboratory, *kills, "queue-loses-answers")
    check(verdict)
    assert verdict.came_back, "clients of the dead"
    assert set(verdict.recovery_seconds) == {*kills, "queue-loses-answers"}
    assert verdict.figures["queue-loses-answers: calls that failed"] > 0


def test_a_short_walk_breaks_no_promise(laboratory: Laboratory) -> None:
    possible = [one for one in FAULTS.values() if not laboratory.lacks(one.needs) and one.name != "deploy"]
    steps = list(walk(possible, _SEED, _WALK_SECONDS, longest_seconds=1.5))
    check(run_trial(laboratory, steps, Load(rate=150, connections=16, spare_seconds=0.5)))


@pytest.mark.parametrize(
    ("defect", "fault", "figure"),
    [
        ("delete-before-commit", "kill-before-commit", "lost"),
        ("no-dedupe", "kill-after-fanout", "doubled"),
    ],
)
def test_a_planted_defect_is_found(planted: Laboratory, defect: str, fault: str, figure: str) -> None:
    planted.plant(defect)
    verdict = tried(planted, fault, hold_seconds=0, timeout_seconds=2)
    assert verdict.problems
    assert getattr(verdict, figure) > 0
