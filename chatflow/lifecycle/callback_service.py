"""A part of the daemon as a service: what to call at its start and at its stop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred


class CallbackService(Service):
    """Wraps a part that is no service itself.

    :param start: called in ``startService``; may block, since it runs before the reactor, and raises to end the start.
    :param stop: called in ``stopService``, which waits for its Deferred if it returns one.
    """

    def __init__(
        self,
        start: Callable[[], object] = lambda: None,
        stop: Callable[[], Deferred[Any] | None] = lambda: None,
    ) -> None:
        self._start = start
        self._stop = stop

    def startService(self) -> None:
        self._start()
        super().startService()

    def stopService(self) -> Deferred[Any] | None:
        super().stopService()
        return self._stop()
