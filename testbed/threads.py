"""Functions run at the same time."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def run_together(functions: Iterable[Callable[[], T]]) -> list[T]:
    """Run each in a thread of its own, wait for all, and give their results or raise the first error."""
    functions = list(functions)
    with ThreadPoolExecutor(max(1, len(functions))) as pool:
        return [future.result() for future in [pool.submit(function) for function in functions]]
