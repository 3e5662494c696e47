"""Every order of steps of :mod:`tests.model.order`, breadth first: the first fault found is one of the shortest.

python -m tests.model.exploring [--envelopes 3] [--crashes 1] [--losses 1] [--expiries 2] [--fault NAME]
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

from attrs import frozen

from tests.model.order import Fault, State, broken_promise, lacking, steps


@frozen
class Found:
    """What came of it.

    :ivar states: how many different ones were seen.
    :ivar broken: the promise that does not hold, or None.
    :ivar path: the steps that lead there.
    """

    states: int
    broken: str | None = None
    path: Sequence[str] = ()


def explore(begin: State, envelopes: int, fault: Fault | None = None) -> Found:
    """Go through everything that can happen from a state on, until a promise is broken or nothing new comes.

    A state in which only faults can happen, and what must happen in the end (that a dead holder's lease runs out), is
    asked for what it lacks: so it is seen that the cluster heals itself.
    """
    came_by: dict[State, tuple[State, str] | None] = {begin: None}
    layer = [begin]
    while layer:
        following = []
        for state in layer:
            goes_on = False
            for name, after in steps(state, envelopes, fault):
                goes_on = goes_on or _is_progress(state, after)
                if after in came_by:
                    continue
                came_by[after] = (state, name)
                broken = broken_promise(after)
                if broken:
                    return Found(len(came_by), broken, _path(came_by, after))
                following.append(after)
            if not goes_on:
                broken = lacking(state)
                if broken:
                    return Found(len(came_by), broken, _path(came_by, state))
        layer = following
    return Found(len(came_by))


def _is_progress(before: State, after: State) -> bool:
    """Whether a step is one that comes of itself sooner or later, and no fault."""
    if (after.crashes, after.losses) != (before.crashes, before.losses):
        return False
    if after.expiries < before.expiries:
        # Of a live holder it is a fault; of one that has forgotten it is the remedy.
        return not before.instances[before.holder].hand
    return after != before


def _path(came_by: dict[State, tuple[State, str] | None], state: State) -> list[str]:
    path = []
    while (step := came_by[state]) is not None:
        state, name = step
        path.append(name)
    return path[::-1]


def main(arguments: Sequence[str] | None = None) -> int:
    """Explore, and print what was found; 1 if a promise is broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.model.exploring", description=__doc__.splitlines()[0])
    for name, default in (("envelopes", 3), ("crashes", 1), ("losses", 1), ("expiries", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--fault", choices=[fault.name for fault in Fault], help="leave out one rule of the design")
    options = parser.parse_args(arguments)
    begin = State(crashes=options.crashes, losses=options.losses, expiries=options.expiries)
    began = time.perf_counter()
    found = explore(begin, options.envelopes, Fault[options.fault] if options.fault else None)
    print(f"{found.states:,} states in {time.perf_counter() - began:.1f} s")
    if found.broken is None:
        print("every promise holds in all of them")
        return 0
    print(f"broken: {found.broken}", *found.path, sep="\n  ")
    return 1


if __name__ == "__main__":
    sys.exit(main())
