"""Ends the connections of those whom an operator bans or disconnects.

A connection that is opened meanwhile meets the ban itself: when its handshake is judged, and once more when that is
done.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from chatflow.contracts.moderation import Sanction
from chatflow.edge.close_codes import BANNED, DISCONNECTED
from chatflow.edge.connections import Connections, IConnection
from chatflow.readings import Reading
from chatflow.rooms.rules import Rules, refusal

#: RFC 6455, 5.5: 125 bytes for the whole frame, of which the code is two.
_MAX_CLOSE_BYTES = 123

# So many connections are closed in one turn of the reactor, since each costs some 30 µs.
_SLICE = 200
_PAUSE_SECONDS = 0.02


def close_reason(text: str) -> str:
    """As much of a text as a close frame holds."""
    return text.encode()[:_MAX_CLOSE_BYTES].decode(errors="ignore")


class Enforcement:
    """Runs on the reactor thread.

    :ivar closed: connections, by the action that ended them.
    """

    _log = Logger()

    def __init__(self, *, clock: IReactorTime, connections: Connections) -> None:
        self._clock = clock
        self._connections = connections
        self.closed = {"ban": 0, "disconnect": 0}

    def carry_out(self, orders: Sequence[Sanction]) -> None:
        """End whom these concern: banned are those who are, or said to be, the user; disconnected also those who have
        spoken as the user, and of all only who was here when it was ordered.
        """
        now = self._clock.seconds()
        bans = Rules(order for order in orders if order.action == "ban")
        disconnections = Rules(order for order in orders if order.action == "disconnect")
        found: list[tuple[IConnection, int, str]] = []
        for connection in self._connections:
            if not connection.is_live:
                continue
            for ban in bans.concerning(connection.party(False)):
                found.append((connection, BANNED, str(refusal(ban))))
                break
            else:
                for order in disconnections.concerning(connection.party(True)):
                    if connection.opened_at is not None and connection.opened_at <= now - max(0.0, order.age_seconds):
                        reason = f": {order.reason}" if order.reason else ""
                        found.append((connection, DISCONNECTED, f"an operator ended this connection{reason}"))
                        break
        if found:
            Deferred.fromCoroutine(self._close(found)).addErrback(
                lambda failure: self._log.failure("closing connections by order failed", failure)
            )

    async def _close(self, found: Sequence[tuple[IConnection, int, str]]) -> None:
        for begin in range(0, len(found), _SLICE):
            if begin:
                await deferLater(self._clock, _PAUSE_SECONDS)
            for connection, code, reason in found[begin : begin + _SLICE]:
                if connection.is_live:
                    self.closed["ban" if code == BANNED else "disconnect"] += 1
                    connection.leave(code, close_reason(reason))

    def readings(self) -> Iterable[Reading]:
        """For Prometheus."""
        return [Reading("chatflow_sanctions_closed", "Connections ended", lambda: self.closed, label="action")]
