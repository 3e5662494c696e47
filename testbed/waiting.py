"""Waiting for what another process does: a condition and a deadline instead of a nap."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

# What is asked for may cost milliseconds of a process that is at work: the longer it takes, the less often it is asked.
_SHORTEST_PAUSE_SECONDS = 0.01
_LONGEST_PAUSE_SECONDS = 0.05
_PAUSE_SHARE = 0.05


def eventually(condition: Callable[[], T], what: str, seconds: float = 20.0) -> T:
    """Ask ``condition`` until it gives something true, and return that.

    :param what: says in the failure what was waited for.
    :raises AssertionError: it did not come true in time.
    """
    began = time.monotonic()
    while not (result := condition()):
        waited = time.monotonic() - began
        assert waited < seconds, f"waited {seconds:g} s in vain: {what}"
        time.sleep(min(_LONGEST_PAUSE_SECONDS, max(_SHORTEST_PAUSE_SECONDS, waited * _PAUSE_SHARE)))
    return result
