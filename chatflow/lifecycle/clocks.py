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
    """The database's time of day, carried on by the clock of durations: a :data:`WallTime`.

    Until it is compared with the database for the first time, this machine's instead. So a clock that is set, here or
    there, moves no stamp before a comparison has said which of them is to be believed; and the instances of a cluster
    stamp by one clock.

    :param clock: the reactor, whose clock does not jump.
    :param wall: the machine's time of day, ``time.time``.
    :ivar is_wrong: the machine's clock differs from the database's, which goes on as it did before.
    :ivar off_seconds: by how much the machine's clock was ahead of the database's, by the last comparison.
    :ivar jumps: how often a comparison found that a clock had been set, here or there.
    """

    #: Clocks that are closer than this agree.
    MAX_APART_SECONDS = 300.0
    #: Stamps do not follow what may be the time that a question to the database takes.
    _TOLERANCE_SECONDS = 1.0
    #: A clock that is this far from where it was to be expected has been set.
    _JUMP_SECONDS = 10.0

    def __init__(self, clock: IReactorTime, wall: WallTime) -> None:
        self._seconds = clock.seconds
        self._wall = wall
        self._offset = wall() - clock.seconds()
        self._here, self._there = self._offset, self._offset
        self._steady_since = clock.seconds()
        self.is_wrong = False
        self.off_seconds = 0.0
        self.jumps = 0

    def __call__(self) -> float:
        return self._seconds() + self._offset

    def steady_seconds(self) -> float:
        """For how long, by the clock of durations, no clock has jumped and both have agreed."""
        return self._seconds() - self._steady_since

    def here_offset(self) -> float:
        """What is to be added to the clock of durations for this machine's time of day. May be called in any thread."""
        return self._wall() - self._seconds()

    def compare(self, here_offset: float, there_offset: float) -> None:
        """Judge both clocks.

        Of two that differ the one that has jumped is wrong; if neither has, or both have, it is this machine's. Two
        that agree are right.

        :param here_offset: of this machine, as :meth:`here_offset` gave it when the database was asked.
        :param there_offset: the same of the database.
        """
        self.off_seconds = here_offset - there_offset
        agree = abs(self.off_seconds) <= self.MAX_APART_SECONDS
        here_stayed = abs(here_offset - self._offset) <= self.MAX_APART_SECONDS
        there_stayed = abs(there_offset - self._offset) <= self.MAX_APART_SECONDS
        self.is_wrong = not agree and (there_stayed or not here_stayed)
        has_jumped = max(abs(here_offset - self._here), abs(there_offset - self._there)) > self._JUMP_SECONDS
        self._here, self._there = here_offset, there_offset
        self.jumps += has_jumped
        if has_jumped or not agree:
            self._steady_since = self._seconds()
        if (agree or there_stayed) and abs(there_offset - self._offset) > self._TOLERANCE_SECONDS:
            self._offset = there_offset
