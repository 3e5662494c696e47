"""This machine's clock beside the database's: compared again and again, since both may be set at any time."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from twisted.logger import Logger

from chatflow.errors import StartupError, Unavailable
from chatflow.lifecycle.clocks import StampClock, WallTime
from chatflow.persistence.database import Database
from chatflow.persistence.driver import Cursor
from chatflow.readings import Reading

#: How often :meth:`ClockWatch.compare` is to be called.
COMPARE_SECONDS = 5.0
#: An answer that took longer says too little.
_MAX_ROUND_TRIP_SECONDS = 2.0
#: By so much nothing but a hand moves a clock meanwhile.
_SET_SECONDS = 1.0

#: Since the start, before retention drops anything: a machine without a battery learns the time after it has started.
_STEADY_SECONDS = 3000.0
#: So old at least is something that was stored, or a daemon that starts again and again would never drop anything. At
#: most so old: what came before is no evidence of what day it is.
_STEADY_MOST_SECONDS = 21_600.0
#: Since a clock has jumped. Whoever sets a clock to next year has so long to set it back.
_STEADY_AFTER_JUMP_SECONDS = 86_400.0


class ClockWatch:
    """Lets no message be accepted while this machine's clock is wrong. Runs on the reactor thread.

    :param seconds: the clock of durations.
    :param stamps: is told every comparison.
    :param on_wrong: called with what to tell, each time the clock turns out to be wrong after it was right.
    :param on_right: called when it is right again.
    """

    _log = Logger()

    def __init__(
        self,
        *,
        seconds: Callable[[], float],
        database: Database,
        stamps: StampClock,
        on_wrong: Callable[[], object],
        on_right: Callable[[], object],
    ) -> None:
        self._seconds = seconds
        self._database = database
        self._stamps = stamps
        self._on_wrong = on_wrong
        self._on_right = on_right

    async def compare(self) -> bool:
        """Whether there was an answer to compare with. While there is none, what was found last counts."""
        try:
            reading = await self._database.run_once("compare clocks", read_in_thread, self._seconds, self._stamps)
        except Unavailable:
            return False
        if reading is None:
            return False
        there, here_offset, there_offset = reading
        stamps = self._stamps
        was_wrong, jumps = stamps.is_wrong, stamps.jumps
        stamps.compare(here_offset, there_offset)
        if stamps.jumps != jumps:
            self._log.warn(
                "a clock has been set: it is {here} here and {there} on the database server",
                here=as_text(there + stamps.off_seconds),
                there=as_text(there),
            )
        if stamps.is_wrong and not was_wrong:
            self._log.error(
                "the clock here is wrong by {off:.0f} s, says the database: no message is accepted until it is right",
                off=stamps.off_seconds,
            )
            self._on_wrong()
        elif was_wrong and not stamps.is_wrong:
            self._log.info("the clock here is right again: messages are accepted")
            self._on_right()
        return True

    async def is_steady(self, seconds: float) -> bool:
        """Whether no clock was set for so long. Compares them once more: one may have been set just now."""
        return await self.compare() and self._stamps.steady_seconds() >= seconds

    async def may_drop(self) -> bool:
        """Whether retention may believe that it is the day that the database says."""
        if not await self.compare():
            return False
        steady_seconds = self._stamps.steady_seconds()
        if self._stamps.jumps:
            return steady_seconds >= _STEADY_AFTER_JUMP_SECONDS
        return steady_seconds >= _STEADY_SECONDS or await self._was_steady_before()

    async def _was_steady_before(self) -> bool:
        """Whether it was the time of this day for long enough, by what was stored before this process began."""
        if abs(self._stamps.off_seconds) > StampClock.MAX_APART_SECONDS:
            return False
        try:
            return bool(await self._database.run_once("look for what is older", was_told_in_thread))
        except Unavailable:
            return False

    def readings(self) -> list[Reading]:
        """Figures for Prometheus."""
        stamps, counter, gauge = self._stamps, True, False
        return [
            Reading("chatflow_clock_off_seconds", "Here ahead of the database", lambda: stamps.off_seconds, gauge),
            Reading("chatflow_clock_wrong", "1 while nothing is accepted therefore", lambda: stamps.is_wrong, gauge),
            Reading("chatflow_clock_jumps", "Times a clock was set", lambda: stamps.jumps, counter),
        ]


def read_in_thread(
    cursor: Cursor, seconds: Callable[[], float], stamps: StampClock
) -> tuple[float, float, float] | None:
    """The database's time of day, and what is to be added to ``seconds`` for the time here and there.

    None if that took too long to be compared, or if the clock here was set meanwhile: one that is set here and there at
    once, as on one machine, differs from itself only between two looks.
    """
    before, began = stamps.here_offset(), seconds()
    there = _read(cursor)
    ended, after = seconds(), stamps.here_offset()
    if ended - began > _MAX_ROUND_TRIP_SECONDS or abs(after - before) > _SET_SECONDS:
        return None
    return there, after, there - (began + ended) / 2


_WAS_TOLD = """
SELECT EXISTS (SELECT FROM message_stats_minute WHERE minute BETWEEN now() - make_interval(secs => %s)
                                                                 AND now() - make_interval(secs => %s))
"""


def was_told_in_thread(cursor: Cursor) -> bool:
    """Whether something was stored fifty minutes to six hours ago, as the database's clock has it now."""
    cursor.execute(_WAS_TOLD, (_STEADY_MOST_SECONDS, _STEADY_SECONDS + 60))
    ((was_told,),) = cursor.fetchall()
    return bool(was_told)


def _read(cursor: Cursor) -> float:
    cursor.execute("SELECT extract(epoch FROM clock_timestamp())::float8")
    ((there,),) = cursor.fetchall()
    return float(there)


def require_agreement(cursor: Cursor, wall: WallTime) -> None:
    """Before the daemon starts.

    :raises StartupError: the clocks are too far apart.
    """
    there, here = _read(cursor), wall()
    if abs(here - there) > StampClock.MAX_APART_SECONDS:
        raise StartupError(
            f"the clocks differ by more than {StampClock.MAX_APART_SECONDS / 60:.0f} minutes: it is {as_text(here)} "
            f"here and {as_text(there)} on the database server, set them right"
        )


def as_text(seconds: float) -> str:
    """Seconds since 1970 as people write them."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
