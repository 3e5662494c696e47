"""The time between the order to stop and the stop: who sends work here learns of it, and this process still does it."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger


class Grace:
    """One per process, used once.

    :param seconds: how long it lasts; with 0 there is none.
    :param on_begin: tells whoever asks that this process is about to stop.
    """

    _log = Logger()

    def __init__(self, clock: IReactorTime, seconds: float, on_begin: Callable[[], object]) -> None:
        self._clock = clock
        self._on_begin = on_begin
        self._waiting: Deferred[None] | None = None
        self.seconds = seconds

    async def wait(self) -> None:
        """Done when the time is over, or somebody has called :meth:`end`."""
        self._on_begin()
        if not self.seconds:
            return
        self._log.info("stopping in {seconds:g} s: not ready any more, but serving until then", seconds=self.seconds)
        self._waiting = deferLater(self._clock, self.seconds)
        try:
            await self._waiting
        except CancelledError:
            self._log.info("stopping at once")
        self._waiting = None

    def end(self) -> None:
        """Wait no longer. Harmless at any time."""
        if self._waiting is not None:
            self._waiting.cancel()
