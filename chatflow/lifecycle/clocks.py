"""Which clock is for what.

A duration, a deadline, an age: the reactor's, ``IReactorTime.seconds``. Twisted makes it the time of day
(``twisted.python.runtime.seconds`` is ``time.time``, as of 26.10), so that an operator or an NTP client who sets the
clock back an hour stops all timers for an hour, and one who sets it forward makes everything late.
:func:`make_monotonic` puts that right for the one reactor of a process. Its zero is arbitrary: not a time to show, to
store, or to compare with that of another process.

A stamp, which is stored or shown: a parameter ``now: WallTime``. What the wiring gives may jump, in both directions,
between any two calls: nothing may be decided by the difference of two of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

from twisted.internet.interfaces import IReactorTime

#: Seconds since 1970, of the time of day.
WallTime = Callable[[], float]


def _monotonic() -> Callable[[], float]:
    """On Linux, CLOCK_MONOTONIC stands still while the machine is suspended, and CLOCK_BOOTTIME does not
    (clock_gettime(2)). What SQS, SNS and PostgreSQL judge by a time limit goes on meanwhile: who wakes must see that
    its leases are over. A guest that its hypervisor pauses sees neither clock move: no clock inside can tell.
    """
    if not hasattr(time, "CLOCK_BOOTTIME"):
        return time.monotonic
    return partial(time.clock_gettime, time.CLOCK_BOOTTIME)


#: Seconds that never jump; for code without a reactor. Of no meaning in another process.
monotonic_seconds = _monotonic()


def make_monotonic(reactor: Any) -> Any:
    """Let ``reactor`` tell and keep time by :func:`monotonic_seconds`; for who owns the process, before all else.

    All of Twisted's reactors look ``self.seconds`` up for their timers (``twisted.internet.base.ReactorBase``), the
    one on asyncio too. Twisted's own users of it measure with it, except for the access log of ``twisted.web``, which
    ChatFlow does not write.

    :return: ``reactor``.
    :raises RuntimeError: it has timers, which were set by the other clock.
    """
    if reactor.seconds is not monotonic_seconds:
        if reactor.getDelayedCalls():
            raise RuntimeError("the reactor has timers already, which another clock has set")
        reactor.seconds = monotonic_seconds
    return reactor


class StampClock:
    """The time of day as it was when this was made, carried on by the clock of durations: a :data:`WallTime`.

    :param clock: the reactor, whose clock does not jump.
    :param wall: the machine's time of day, ``time.time``.
    """

    def __init__(self, clock: IReactorTime, wall: WallTime) -> None:
        self._seconds = clock.seconds
        self._offset = wall() - clock.seconds()

    def __call__(self) -> float:
        return self._seconds() + self._offset
