"""``python -m benchmarks faults``: each scenario alone, or a walk over all of them."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from benchmarks.faults.catalogue import FAULTS
from benchmarks.faults.laboratory import Laboratory
from benchmarks.faults.trial import Load, Step, Verdict, run_trial
from benchmarks.faults.walk import legs, walk
from benchmarks.results import Result
from testbed.fault_points import PLANTS

_LEG_STEPS = 4


def add_to(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Register the benchmark; see :mod:`benchmarks.__main__`."""
    parser = add("faults", help="what may happen to a cluster, made to happen under load that proves what came of it")
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help="see --list; all of them without any")
    parser.add_argument("--list", action="store_true", help="only say which there are")
    parser.add_argument("--seed", type=int, default=1, help="the same seed does the same things in the same order")
    parser.add_argument("--walk", action="store_true", help="a random sequence of scenarios")
    parser.add_argument("--seconds", type=float, default=600, help="of a walk, as planned")
    parser.add_argument("--hold-seconds", type=float, help="how long each fault lasts, instead of its own time")
    parser.add_argument("--instances", type=int, default=4)
    parser.add_argument("--rate", type=float, default=200, help="messages/s, all connections together")
    parser.add_argument("--connections", type=int, default=48)
    parser.add_argument("--plant", default="", choices=("", *PLANTS), help="a defect that is to be found")
    parser.add_argument("--option", action="append", default=[], metavar="WORD", help="of the daemons, one word each")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> Result:
    result = Result("faults")
    if arguments.list:
        for fault in FAULTS.values():
            print(f"{fault.name:<24}{fault.what}")
        raise SystemExit(0)
    unknown = [name for name in arguments.scenarios if name not in FAULTS]
    if unknown:
        result.faults.append(f"no such scenario: {', '.join(unknown)}; --list says which there are")
        return result
    with Laboratory(*arguments.option, instances=arguments.instances, seed=arguments.seed) as laboratory:
        laboratory.start()
        laboratory.plant(arguments.plant)
        for legs_steps in _plan(arguments, laboratory, result):
            verdict = run_trial(laboratory, legs_steps, Load(arguments.rate, arguments.connections))
            _tell(result, legs_steps, verdict)
            if verdict.problems:
                again = shlex.join(_again(arguments))
                print(f"  FAILED with seed {arguments.seed}; the same again: {again}", flush=True)
                result.raw["again"] = again
                if arguments.walk:
                    break
        for note in laboratory.notes:
            print(f"  note: {note}")
        result.raw["notes"] = laboratory.notes
    return result


def _plan(arguments: argparse.Namespace, laboratory: Laboratory, result: Result) -> Sequence[Sequence[Step]]:
    wanted = [FAULTS[name] for name in arguments.scenarios or FAULTS]
    lacking = {one.name: laboratory.lacks(one.needs) for one in wanted}
    for name, why in lacking.items():
        if why:
            print(f"  {name} is left out: {why}", flush=True)
    result.raw["left_out"] = {name: why for name, why in lacking.items() if why}
    faults = [one for one in wanted if not lacking[one.name]]
    if not faults:
        result.faults.append("nothing is left to do")
        return []
    if arguments.walk:
        return list(legs(list(walk(faults, arguments.seed, arguments.seconds)), _LEG_STEPS))
    random = Random(arguments.seed)
    hold = arguments.hold_seconds
    return [[Step(one, one.hold_seconds if hold is None else hold, random.randrange(1 << 30))] for one in faults]


def _tell(result: Result, steps: Sequence[Step], verdict: Verdict) -> None:
    """Print it at once: a walk takes hours."""
    names = ", ".join(f"{step.fault.name} {step.hold_seconds:g} s" for step in steps)
    growth = max((most - first for first, most in verdict.memory_bytes.values()), default=0)
    figures: dict[str, Any] = {
        "messages tried": verdict.tried,
        "acknowledged": verdict.acknowledged,
        "lost": verdict.lost,
        "doubled": verdict.doubled,
        "disordered": verdict.disordered,
        "refused, and sent again": verdict.refused,
        "connections that came back": verdict.came_back,
        **{f"recovery from {name}, s": round(seconds, 2) for name, seconds in verdict.recovery_seconds.items()},
        "peak memory of an instance, MB": verdict.peak_bytes >> 20,
        "largest growth of one, MB": growth >> 20,
        **{what: round(value, 2) for what, value in verdict.figures.items()},
    }
    print(f"\n{names}")
    for what, value in figures.items():
        print(f"  {what:<60}{value:>12,}")
    for problem in verdict.problems:
        print(f"  PROBLEM: {problem}")
    print(end="", flush=True)
    result.raw.setdefault("trials", []).append({"steps": names, "figures": figures, "problems": verdict.problems})
    result.faults += [f"{names}: {problem}" for problem in verdict.problems]
    for name, seconds in verdict.recovery_seconds.items():
        result.add(f"recovery from {name}", seconds, "s")


def _again(arguments: argparse.Namespace) -> list[str]:
    """The command that does the same."""
    words = ["python", "-m", "benchmarks", "faults", *arguments.scenarios, "--seed", str(arguments.seed)]
    if arguments.walk:
        words += ["--walk", "--seconds", f"{arguments.seconds:g}"]
    if arguments.hold_seconds is not None:
        words += ["--hold-seconds", f"{arguments.hold_seconds:g}"]
    words += ["--instances", str(arguments.instances), "--rate", f"{arguments.rate:g}"]
    words += ["--connections", str(arguments.connections)]
    if arguments.plant:
        words += ["--plant", arguments.plant]
    return words + [f"--option={word}" for word in arguments.option]
