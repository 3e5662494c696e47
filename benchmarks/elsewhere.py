"""Other hosts, as far as one machine has them, and what those who are measured notice of them."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.synchronize import Event
from statistics import median
from typing import Any

import attrs
import psutil

from benchmarks.results import Result
from benchmarks.returning import LiveTraffic, p99

#: What others may notice: their p99, as a multiple.
NOTICED = 1.5

_BUSY_TURN_SECONDS = 0.01


@contextmanager
def process(work: Callable[..., None], *arguments: Any, gives_way: bool = True) -> Iterator[psutil.Process]:
    """Run ``work(begun, ended, *arguments)`` in a process of its own until the block ends, which begins once it has
    set ``begun``. The block is given the process.

    :param gives_way: whether it works only while a processor has nothing else to do (SCHED_IDLE, sched(7)): on a host
        of its own it would take nothing from the daemon's.
    """
    context = multiprocessing.get_context("spawn")
    begun, ended = context.Event(), context.Event()
    target = _give_way if gives_way else _run
    other = context.Process(target=target, args=(work, begun, ended, *arguments), daemon=True)
    other.start()
    try:
        assert begun.wait(120), "the others did not connect"
        yield psutil.Process(other.pid)
    finally:
        ended.set()
        other.join(10)
        other.kill()


def _run(work: Callable[..., None], *arguments: Any) -> None:
    work(*arguments)


def _give_way(work: Callable[..., None], *arguments: Any) -> None:
    os.nice(19)
    if hasattr(os, "SCHED_IDLE"):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    work(*arguments)


def busy(begun: Event, ended: Event, share: float) -> None:
    """Take this share of a processor and do nothing with it."""
    begun.set()
    for _ in turns(ended, _BUSY_TURN_SECONDS):
        enough = time.process_time() + share * _BUSY_TURN_SECONDS
        while time.process_time() < enough:
            pass


def turns(ended: Event, seconds: float) -> Iterator[float]:
    """Until it has ended, when the turn is due; what is too late is left out."""
    due = time.monotonic()
    while not ended.wait(max(0.0, due - time.monotonic())):
        yield due
        due = max(due + seconds, time.monotonic())


def after(seconds: float, look: Callable[[], object] = int) -> Callable[[], bool]:
    """Whether so much time has gone by. :param look: called about twice a second meanwhile."""
    ends = time.monotonic() + seconds
    next_look = time.monotonic()

    def done() -> bool:
        nonlocal next_look
        if time.monotonic() >= next_look:
            look()
            next_look = time.monotonic() + 0.5
        return time.monotonic() >= ends

    return done


@attrs.define
class Times:
    """What the live traffic noticed in one situation, in each of several spans of time.

    :ivar seconds: of each ``ack`` and ``delivery``.
    :ivar shares: of one processor that the daemon took.
    """

    seconds: list[dict[str, list[float]]] = attrs.Factory(list)
    shares: list[float] = attrs.Factory(list)

    def measure(
        self, daemon: psutil.Process, traffic: LiveTraffic, seconds: float, other: psutil.Process | None = None
    ) -> float:
        """Another span.

        :return: the share of a processor that ``other`` took meanwhile.
        """
        processes = [daemon] if other is None else [daemon, other]
        before, began = [_cpu_seconds(each) for each in processes], time.monotonic()
        self.seconds.append(traffic.run(after(seconds)))
        spent = [_cpu_seconds(each) - then for each, then in zip(processes, before, strict=True)]
        shares = [each / (time.monotonic() - began) for each in spent]
        self.shares.append(shares[0])
        return shares[-1] if other is not None else 0.0

    def p99s(self, kind: str) -> list[float]:
        """Of each span, in ms."""
        return [p99(span[kind]) for span in self.seconds]


def _cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def compare(result: Result, without: Times, beside: Times, what: str) -> None:
    """Tell what others notice: the middle one of what the spans say, of which as many pairs are compared.

    :param what: what there is beside them.
    """
    for kind in ("ack", "delivery"):
        alone, now = without.p99s(kind), beside.p99s(kind)
        times = [each / before for before, each in zip(alone, now, strict=True)]
        result.add(f"{kind} p99 without {what}", median(alone), "ms")
        result.add(f"{kind} p99 beside {what}", median(now), "ms")
        result.add(f"{kind} p99 beside {what}, times", median(times), "", ("<=", NOTICED))
    result.add(f"daemon's processor without {what}", median(without.shares) * 100, "%")
    result.add(f"daemon's processor beside {what}", median(beside.shares) * 100, "%")
