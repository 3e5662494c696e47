"""Back-pressure: who has too many messages unanswered is not read for a while."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IDelayedCall

from chatflow.edge.quota import Quota
from chatflow.edge.services import EdgeServices


class InFlight:
    """What was accepted from one connection and is not answered yet. At the limit nothing more is read; below half of
    it, unless the instance drains, it goes on.

    :param transport: of the connection.
    :param read_on: called when a rest is over.
    :param quota: is told what is accepted and answered.
    :ivar paused: whether the client is not read, so that its silence means nothing.
    """

    __slots__ = ("_limit", "_quota", "_read_on", "_resting", "_services", "_transport", "messages", "paused")

    def __init__(
        self, services: EdgeServices, transport: Any, quota: Quota | None = None, read_on: Callable[[], object] = int
    ) -> None:
        self._services = services
        self._transport = transport
        self._limit = services.limits.max_pending_per_connection
        self._quota = quota
        self._read_on = read_on
        self._resting: IDelayedCall | None = None
        self.messages = 0
        self.paused = False

    def accepted(self) -> None:
        """Count one more message that awaits its answer; pause reading at the limit."""
        self.messages += 1
        if self._quota is not None:
            self._quota.accepted()
        if self.messages >= self._limit:
            self.pause()

    def answered(self, count: int) -> None:
        """So many are acknowledged or refused."""
        self.messages -= count
        if self._quota is not None:
            self._quota.answered(count)
        if self.paused and self._resting is None and self.messages <= self._limit // 2:
            self._go_on()

    def rest(self, seconds: float) -> None:
        """Read no more for so long. A rest under way is not made longer."""
        if self._resting is None:
            self._resting = self._services.clock.callLater(seconds, self._rested)
            self.pause()

    def _rested(self) -> None:
        self._resting = None
        self._read_on()  # which may begin another one
        if self._resting is None and self.messages < self._limit:
            self._go_on()

    def _go_on(self) -> None:
        if not self._services.connections.draining:
            self.resume()

    def pause(self) -> None:
        """Read no more, until :meth:`resume`."""
        if not self.paused:
            self.paused = True
            self._services.counters.reads_paused += 1
            self._transport.pauseProducing()

    def resume(self) -> None:
        """Read again, if that was paused, and for whatever reason."""
        self.end_rest()
        if self.paused:
            self.paused = False
            self._transport.resumeProducing()

    def end_rest(self) -> None:
        """The connection is gone, or is to be read whatever it has sent."""
        if self._resting is not None:
            self._resting.cancel()
            self._resting = None
