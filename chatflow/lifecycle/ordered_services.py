"""Services that start in order and stop in reverse order, one by one."""

from __future__ import annotations

from collections.abc import Coroutine, Iterable
from typing import Any

from twisted.application.service import IService, MultiService, Service
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.logger import Logger
from twisted.python.failure import Failure

_ITERATE_SECONDS = 0.05
"""The longest nap while a failed start is undone before the reactor runs."""


class OrderedServices(MultiService):
    """Children that start one after the other, and stop one after the other in reverse order.

    (A plain MultiService begins to stop all of them at once.)

    Children do their start-up work within ``startService``: it may block, because twistd calls it before the
    reactor runs, and it raises when it fails. A child whose start fails cleans up after itself; it is not
    stopped.

    :param reactor: IReactorTime and IReactorCore; ``iterate`` is called only while a failed start is undone.
    :param deadline_seconds: for all stops together. A child that is late is left behind, and the next one
        stops.
    :param reserve_seconds: of the deadline, kept for each child that has yet to stop, so that one which hangs
        cannot use it up; at most half of the deadline is kept so.
    """

    _log = Logger()

    def __init__(self, reactor: Any, *, deadline_seconds: float, reserve_seconds: float = 1.0) -> None:
        super().__init__()
        self._reactor = reactor
        self._deadline_seconds = deadline_seconds
        self._reserve_seconds = reserve_seconds
        self._started: list[IService] = []

    def add(self, name: str, service: Service) -> None:
        """Add a child; ``name`` stands for it in the log."""
        service.setName(name)
        service.setServiceParent(self)

    def add_all(self, services: Iterable[tuple[str, Service]]) -> None:
        """Add children by name, in this order."""
        for name, service in services:
            self.add(name, service)

    def on_start(self, name: str) -> None:
        """A child is about to start. For subclasses."""

    def on_stop(self, name: str) -> None:
        """A child is about to stop. For subclasses."""

    def addService(self, service: IService) -> None:
        if self.running:
            raise RuntimeError("children are added before the start")
        super().addService(service)

    def startService(self) -> None:
        """Start the children in order; when one fails, stop those that had started and raise its error.

        By the time it raises, everything has stopped or was left behind; except when the reactor is running
        already, which goes on stopping them.
        """
        Service.startService(self)
        for child in self:
            self.on_start(_name(child))
            try:
                result = child.startService()
                if isinstance(result, (Deferred, Coroutine)):
                    raise TypeError("startService must have done its work when it returns, not later")
            except BaseException:
                self._log.error("{service} failed to start", service=_name(child))
                stopped = self.stopService()
                while not (stopped.called or self._reactor.running):
                    self._reactor.iterate(_ITERATE_SECONDS)
                raise
            self._started.append(child)

    def stopService(self) -> Deferred[None]:
        """Stop the children that were started, the last one first.

        Fires when each has stopped or is late, and so after ``deadline_seconds`` at the latest. Never fails.
        """
        Service.stopService(self)
        children, self._started = self._started, []
        return Deferred.fromCoroutine(self._stop_in_reverse(children))

    async def _stop_in_reverse(self, children: list[IService]) -> None:
        ends_at = self._reactor.seconds() + self._deadline_seconds
        reserve_seconds = min(self._reserve_seconds, self._deadline_seconds / 2 / max(1, len(children)))
        while children:
            child = children.pop()
            left_seconds = ends_at - self._reactor.seconds() - reserve_seconds * len(children)
            await self._stop(child, max(0, left_seconds))

    def _stop(self, child: IService, allowed_seconds: float) -> Deferred[None]:
        """Fires, never fails, once ``child`` has stopped or ``allowed_seconds`` are over."""
        name = _name(child)
        self.on_stop(name)
        finished: Deferred[None] = Deferred()

        def is_late() -> None:
            self._log.error(
                "{service} has not stopped within {seconds:.1f} s; going on without it",
                service=name,
                seconds=allowed_seconds,
            )
            finished.callback(None)

        def has_stopped(result: object) -> None:
            if isinstance(result, Failure):
                self._log.failure("{service} failed to stop", result, service=name)
            if late.active():
                late.cancel()
                finished.callback(None)

        late = self._reactor.callLater(allowed_seconds, is_late)
        maybeDeferred(child.stopService).addBoth(has_stopped)
        return finished


def _name(service: IService) -> str:
    return service.name or type(service).__name__
