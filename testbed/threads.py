"""Functions run at the same time, or beside something else."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")


def run_together(functions: Iterable[Callable[[], T]]) -> list[T]:
    """Run each in a thread of its own, wait for all, and give their results or raise the first error."""
    functions = list(functions)
    with ThreadPoolExecutor(max(1, len(functions))) as pool:
        return [future.result() for future in [pool.submit(function) for function in functions]]


@contextmanager
def beside(name: str, work: Callable[[threading.Event], object]) -> Iterator[None]:
    """Run ``work`` in a thread within the block, whose end waits until it returns.

    :param work: is given what is set at the end of the block: it returns soon after that.
    """
    over = threading.Event()
    thread = threading.Thread(target=work, args=(over,), name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
