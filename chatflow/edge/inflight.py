"""Back-pressure: who has too many messages unanswered is not read for a while."""

from __future__ import annotations

from typing import Any

from chatflow.edge.services import EdgeServices


class InFlight:
    """What was accepted from one connection and is not answered yet. At the limit nothing more is read; below half of
    it, unless the instance drains, it goes on.

    :param transport: of the connection.
    :ivar paused: whether the client is not read, so that its silence means nothing.
    """

    __slots__ = ("_limit", "_services", "_transport", "messages", "paused")

    def __init__(self, services: EdgeServices, transport: Any) -> None:
        self._services = services
        self._transport = transport
        self._limit = services.limits.max_pending_per_connection
        self.messages = 0
        self.paused = False

    def accepted(self) -> None:
        """Count one more message that awaits its answer; pause reading at the limit."""
        self.messages += 1
        if self.messages >= self._limit:
            self.pause()

    def answered(self, count: int) -> None:
        """So many are acknowledged or refused."""
        self.messages -= count
        if self.paused and self.messages <= self._limit // 2 and not self._services.connections.draining:
            self.resume()

    def pause(self) -> None:
        """Read no more, until :meth:`resume`."""
        if not self.paused:
            self.paused = True
            self._services.counters.reads_paused += 1
            self._transport.pauseProducing()

    def resume(self) -> None:
        """Read again, if that was paused."""
        if self.paused:
            self.paused = False
            self._transport.resumeProducing()
