"""Waiting for what another process does: a condition and a deadline instead of a nap."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

_POLL_SECONDS = 0.01


def eventually(condition: Callable[[], T], what: str, seconds: float = 20.0) -> T:
    """Ask ``condition`` until it gives something true, and return that.

    :param what: says in the failure what was waited for.
    :raises AssertionError: it did not come true in time.
    """
    deadline = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < deadline, f"waited {seconds:g} s in vain: {what}"
        time.sleep(_POLL_SECONDS)
    return result
