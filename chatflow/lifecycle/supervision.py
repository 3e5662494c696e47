"""What the service manager is told of this process, and the sign of life that only a working reactor gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.task import LoopingCall

from chatflow.lifecycle.manager import ServiceManager

#: A step of the start may take so long: the longest is a PostgreSQL that recovers from a crash, which has 300 s.
STEP_SECONDS = 330.0

_STATUS_SECONDS = 5.0
#: Beyond the services' own deadline, for the interpreter's end.
_EXIT_SECONDS = 10.0


class Supervision:
    """Tells a :class:`ServiceManager` about start, reload and end; feeds its watchdog and its status line.

    :param reactor: IReactorTime and IReactorCore. The watchdog is fed by its timers, so that a reactor which hangs is
        noticed, whatever other threads still do.
    :param describe: what is going on, in a line for the operator.
    """

    def __init__(self, reactor: Any, manager: ServiceManager, describe: Callable[[], str] = lambda: "running") -> None:
        self._manager = manager
        self._describe = describe
        self._reactor = reactor
        self._told = ""
        self._feeding = LoopingCall(manager.alive)
        self._describing = LoopingCall(self._tell)
        self._feeding.clock = self._describing.clock = reactor

    def starting(self, step: str) -> None:
        """A step of the start begins."""
        self._manager.starting(f"starting: {step}", STEP_SECONDS)

    def started(self) -> None:
        """Everything has started, and the reactor runs."""
        if not self._manager.is_there:
            return
        self._told = self._describe()
        self._manager.ready(self._told)
        if self._manager.watchdog_seconds:
            self._feeding.start(self._manager.watchdog_seconds / 2)
        self._describing.start(_STATUS_SECONDS, now=False)

    def reload(self, work: Callable[[], str]) -> None:
        """Do the ``work`` of a reload, which says in a few words what came of it."""
        self._manager.reloading()
        told = "the reload failed"
        try:
            told = work()
        finally:
            self._told = ""  # so that the line of this is replaced by the next one
            self._manager.ready(f"reloaded: {told}")

    def ending(self, deadline_seconds: float) -> None:
        """The end has begun."""
        if self._describing.running:
            self._describing.stop()
        self._manager.stopping("stopping: what was accepted is stored and answered", deadline_seconds + _EXIT_SECONDS)

    def stopping(self, step: str) -> None:
        """A step of the end begins."""
        self._manager.status(f"stopping: {step}")

    def _tell(self) -> None:
        text = self._describe()
        if text != self._told:
            self._told = text
            self._manager.status(text)
