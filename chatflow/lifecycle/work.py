"""Work under way, periodic work, pauses between attempts, and how much is done in a turn of the reactor."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import attrs
from twisted.application.service import Service
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure


class Outstanding:
    """Work that nobody awaits now, but that must be done before something stops."""

    _log = Logger()

    def __init__(self) -> None:
        self._count = 0
        self._waiting: list[Deferred[None]] = []

    @property
    def count(self) -> int:
        """How many pieces of work are not done."""
        return self._count

    def add(self, name: str, work: Deferred[Any]) -> None:
        """Take over ``work``, whose result nobody else awaits. If it fails, that is logged with ``name``."""
        self._count += 1
        work.addBoth(self._done, name)

    def drain(self) -> Deferred[None]:
        """Fires, never fails, as soon as nothing is left, including what is added in the meantime."""
        if not self._count:
            return succeed(None)
        empty: Deferred[None] = Deferred()
        self._waiting.append(empty)
        return empty

    def _done(self, result: object, name: str) -> None:
        if isinstance(result, Failure):
            self._log.failure("{work} failed", result, work=name)
        self._count -= 1
        if not self._count:
            waiting, self._waiting = self._waiting, []
            for empty in waiting:
                empty.callback(None)


class PeriodicService(Service):
    """Does something every ``interval_seconds`` while it runs, never twice at a time.

    A run that takes longer than the interval makes the next one begin at the next multiple of it. A run that
    fails is logged, and the next one comes all the same.

    :param name: of the work, for the log.
    :param work: its result is awaited and ignored.
    :param at_once: whether the first run begins with the start, and not one interval later.
    """

    _log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        name: str,
        interval_seconds: float,
        work: Callable[[], Awaitable[object]],
        *,
        at_once: bool = False,
    ) -> None:
        self.setName(name)
        self._interval_seconds = interval_seconds
        self._work = work
        self._at_once = at_once
        self._loop = LoopingCall(lambda: Deferred.fromCoroutine(self._run()))
        self._loop.clock = clock
        self._ended: Deferred[Any] = succeed(None)

    def startService(self) -> None:
        super().startService()
        self._ended = self._loop.start(self._interval_seconds, now=self._at_once)

    def stopService(self) -> Deferred[Any]:
        """Begin no more runs. Fires, never fails, when the one under way is done."""
        super().stopService()
        if self._loop.running:
            self._loop.stop()
        return self._ended

    async def _run(self) -> None:
        try:
            await self._work()
        except Exception:
            self._log.failure("{work} failed", work=self.name)


@attrs.define
class Backoff:
    """How long to wait before each further attempt: random, within a bound that doubles up to a cap.

    "Full jitter" keeps many that failed together from coming back together:
    https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
    Twisted's ``backoffPolicy`` only adds jitter to a delay that all have in common.

    :ivar first_seconds: the bound of the first pause.
    :ivar cap_seconds: the bound never exceeds it.
    :ivar random: returns a number from 0 to 1.
    """

    first_seconds: float = 0.1
    cap_seconds: float = 10.0
    random: Callable[[], float] = random.random
    _bound_seconds: float = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.reset()

    def next_delay_seconds(self) -> float:
        """The pause before the next attempt."""
        bound_seconds = min(self._bound_seconds, self.cap_seconds)
        self._bound_seconds = 2 * bound_seconds
        return bound_seconds * self.random()

    def reset(self) -> None:
        """An attempt succeeded: begin anew."""
        self._bound_seconds = self.first_seconds


def in_a_turn(seconds: Callable[[], float], most: int, longest_seconds: float) -> Iterator[None]:
    """For work that comes in many small pieces: yields for each that belongs in this turn of the reactor.

    :param seconds: the time of a clock that is never set.
    :param most: pieces.
    :param longest_seconds: no further piece once so much time has gone by.
    """
    until = seconds() + longest_seconds
    for _ in range(most):
        yield
        if seconds() >= until:
            return
