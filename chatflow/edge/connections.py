"""The open connections of this instance: how many there may be, and how they end when it drains."""

from __future__ import annotations

from collections.abc import Iterator
from random import randint

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from zope.interface import Attribute, Interface

from chatflow.edge.close_codes import SERVICE_RESTART
from chatflow.edge.limits import LimitsInForce
from chatflow.rooms.rules import Party

# A drain closes connections in this many slices, so that clients do not come back all at once: no more of them in a
# second than the other instances can take, and no slower than the time for the drain allows.
_DRAIN_SLICES = 20
_CLOSED_PER_SECOND = 1000.0
_SHORTEST_SECONDS = 1.0

# And they come back spread over so long, so that the other instances are not overrun.
_MIN_RETRY_AFTER_MS = 100
_MAX_RETRY_AFTER_MS = 3000


class IConnection(Interface):
    """A connection, as whoever looks after all of them sees it."""

    is_live = Attribute("Whether its handshake is done and nobody has begun to close it.")
    opened_at = Attribute("When its handshake was done, in seconds of the clock; None before.")

    def party(spoken: bool) -> Party:
        """Who it is to an operator.

        :param spoken: whether also those count in whose name it has sent messages, not only who it said to be.
        """

    def leave(code: int, reason: str) -> None:
        """Send a close frame and take nothing more."""

    def say_goodbye(retry_after_ms: int) -> None:
        """Tell the client when to come back, if its dialect can. Call it before :meth:`leave`."""

    def set_back(room: int, first: int) -> None:
        """The room, if it is this one's, has other messages from the seq ``first`` on: begin anew there."""

    def stop_reading() -> None:
        """Leave what the client still sends in its socket: this instance will not answer it."""

    def ping_or_drop() -> None:
        """Ping it if nothing was heard of it since the last call; drop it if it was pinged then already."""

    def tell_head() -> None:
        """Tell it up to where it has everything, if its dialect can."""

    def leave_if_stalled() -> None:
        """Close it if something waits for the client, and for too long nothing of that was taken."""


class Connections:
    """Those whose handshake is done, oldest first. Runs on the reactor thread.

    :param in_force: with how many may be open at once.
    :param close_seconds: the longest time over which many are closed.
    :ivar ending: whether this instance is about to stop, but may still take some.
    :ivar draining: whether it takes no more of them.
    :ivar opened: how many there were since the start.
    """

    def __init__(self, *, clock: IReactorTime, in_force: LimitsInForce, close_seconds: float = 5.0) -> None:
        self._clock = clock
        self._in_force = in_force
        self._open: dict[IConnection, None] = {}
        self._empty: list[Deferred[None]] = []
        self._close_seconds = max(_SHORTEST_SECONDS, close_seconds)
        self.ending = self.draining = False
        self.opened = 0

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[IConnection]:
        """As they are now, whatever happens to them meanwhile."""
        return iter(tuple(self._open))

    @property
    def full(self) -> bool:
        """Whether there is no place for another one."""
        return len(self._open) >= self._in_force.limits.max_connections

    def add(self, connection: IConnection) -> None:
        """Count a connection whose handshake is done as open."""
        self._open[connection] = None
        self.opened += 1

    def remove(self, connection: IConnection) -> None:
        """It ended, whether or not it was ever open."""
        self._open.pop(connection, None)
        if not self._open:
            waiting, self._empty = self._empty, []
            for deferred in waiting:
                deferred.callback(None)

    def set_back(self, room: int, first: int) -> None:
        """A room has other messages from the seq ``first`` on: tell everyone who is in it."""
        for connection in self:
            connection.set_back(room, first)

    def begin_end(self) -> None:
        """Say to whoever asks that nobody should be sent here any more; who comes is served all the same."""
        self.ending = True

    def begin_drain(self) -> None:
        """Take no more connections, and leave what clients still send in their sockets."""
        self.ending = self.draining = True
        for connection in self:
            connection.stop_reading()

    async def send_away(self, reason: str) -> None:
        """Ask everyone who is here now to come back, elsewhere if there is a choice: close with 1012, in slices."""
        waiting = list(self)
        size = max(1, -(-len(waiting) // _DRAIN_SLICES))
        seconds = min(self._close_seconds, max(_SHORTEST_SECONDS, len(waiting) / _CLOSED_PER_SECOND))
        for begin in range(0, len(waiting), size):
            for connection in waiting[begin : begin + size]:
                connection.say_goodbye(randint(_MIN_RETRY_AFTER_MS, _MAX_RETRY_AFTER_MS))
                connection.leave(SERVICE_RESTART, reason)
            await deferLater(self._clock, seconds / _DRAIN_SLICES)

    async def close_all(self) -> None:
        """Close every connection; done when all are gone. Silent ones are dropped by Autobahn."""
        await self.send_away("the server restarts: reconnect and resume")
        if self._open:
            empty: Deferred[None] = Deferred()
            self._empty.append(empty)
            await empty
