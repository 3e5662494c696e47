"""One timer that looks after every connection, a share of them at each beat."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from chatflow.edge.connections import Connections, IConnection

_SLICES = 20


class Sweep:
    """Visits every open connection at an interval. Runs on the reactor thread.

    One timer serves all: at each beat it visits those whose turn it is, so that 5,000 connections cost neither 5,000
    timers nor a burst. A visit that fails is logged, and the others are made.

    :param interval_seconds: how often each connection has its turn; 0 turns it off.
    """

    _log = Logger()

    def __init__(
        self,
        *,
        clock: IReactorTime,
        connections: Connections,
        interval_seconds: float,
        visit: Callable[[IConnection], object],
    ) -> None:
        self._connections = connections
        self._interval_seconds = interval_seconds
        self._visit = visit
        self._turns: list[list[IConnection]] = []
        self._loop = LoopingCall(self._beat)
        self._loop.clock = clock

    def start(self) -> None:
        """Start visiting connections."""
        if self._interval_seconds:
            self._loop.start(self._interval_seconds / _SLICES, now=False)

    def stop(self) -> None:
        """Visit no connection any more."""
        if self._loop.running:
            self._loop.stop()

    def _beat(self) -> None:
        if not self._turns:
            connections = list(self._connections)
            self._turns = [connections[turn::_SLICES] for turn in range(_SLICES)]
        for connection in self._turns.pop():
            try:
                if connection.is_live:
                    self._visit(connection)
            except Exception:
                self._log.failure("a visit failed")
