"""What processes take: processor time and memory, each with all that it has started."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import psutil

#: A name for each part of a server, and its first process. One that another part has started is named before that.
Roots = tuple[tuple[str, int], ...]


def cpu_seconds(roots: Roots) -> dict[str, float]:
    """Processor time of each part since its start, of the user and of the system, those that have ended included."""
    found = dict.fromkeys((name for name, _ in roots), 0.0)
    for name, process in _processes(roots):
        with suppress(psutil.NoSuchProcess):
            found[name] += sum(process.cpu_times()[:4])  # its own, and of children that have ended
    return found


def private_bytes(roots: Roots) -> int:
    """Memory that is nobody else's, all parts together."""
    return sum(process.memory_full_info().uss for _, process in _processes(roots))


def _processes(roots: Roots) -> Iterator[tuple[str, psutil.Process]]:
    """Children ahead of their parents: the time of one that ends meanwhile is found with its parent."""
    seen = set()
    for name, number in roots:
        first = psutil.Process(number)
        for process in [*reversed(first.children(recursive=True)), first]:
            if process.pid not in seen:
                seen.add(process.pid)
                yield name, process
