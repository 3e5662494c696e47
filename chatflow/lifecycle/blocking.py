"""Coroutines that never wait, run like functions: so one implementation serves the daemon and a command."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def at_once(work: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine all of whose calls block instead of waiting; no reactor is needed.

    :raises RuntimeError: it waits for something after all.
    """
    try:
        work.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    work.close()
    raise RuntimeError(f"{work!r} waits for what nobody brings about")
