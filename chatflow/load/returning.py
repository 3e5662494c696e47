"""A connection that is cut at random and comes back, to the next of several URLs, to where it was.

It is what ``docs/protocol.rst`` asks of a client, "Coming back", within the load client's own fast connection: the
proof is still that every message came once and in order.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.python.failure import Failure

from chatflow.load import wire
from chatflow.load.client import LoadConnection
from chatflow.load.roomlog import TICK_US
from chatflow.load.scenario import Seat, Settings
from chatflow.load.verify import NO_CLOSE_FRAME

# Between two tries to come back.
_SHORTEST_PAUSE_SECONDS = 0.02
_LONGEST_PAUSE_SECONDS = 0.5


class ReturningConnection(LoadConnection):
    """Every message has a clientMessageId, and is sent again when its acknowledgement did not come.

    That the server, too, may end the connection is no fault by itself, as when an instance is stopped or killed; but it
    is counted. What it may not do is to close with another code than those of an end in order, or to refuse the return.

    :param connect: connects the protocol that it is given, to its ``address``; fires once that is done, or fails.
    """

    def __init__(
        self,
        seat: Seat,
        settings: Settings,
        *args: Any,
        reactor: Any,
        connect: Callable[[LoadConnection], Deferred[object]],
    ) -> None:
        super().__init__(seat, settings, *args)
        self._reactor = reactor
        self._connect = connect
        self._every_seconds = settings.reconnect
        self._patience_seconds = settings.timeout_seconds
        self._run = settings.run
        self._urls = settings.urls
        self._turn = settings.urls.index(seat.url)
        self._payloads: dict[int, bytes] = {}
        self._next: IDelayedCall | None = None  # cut, or next try
        self._away_since: float | None = None
        self._ending = ""  # how the server ends it, for the count; nothing if it is the client who does

    # opening and closing

    def connectionMade(self) -> None:
        self._key = wire.new_key()
        # Behind what it has; before it has anything there is nothing to come back to.
        if self.arrivals.next:
            self.address = attrs.evolve(self.address, path=f"{self.address.path}?since={self.arrivals.next - 1}")
        super().connectionMade()

    def _enter(self) -> None:
        self._ending = NO_CLOSE_FRAME
        if self._away_since is None:
            super()._enter()
        else:
            away_seconds = self._reactor.seconds() - self._away_since
            self._away_since = None
            self._counts.returns += 1
            self._counts.away_ticks[int(away_seconds * 1e6) // TICK_US] += 1
            self._send_again()
        self._later(random.expovariate(1 / self._every_seconds), self._cut)

    def close(self) -> None:
        self._stop_waiting()
        if self._away_since is not None and not self.connected:
            self._closing = True
            self._end()
        else:
            super().close()

    def abort(self) -> None:
        self._stop_waiting()
        super().abort()
        if self._away_since is not None and not self.connected:
            self._end()

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        self.connected = 0
        self._stop_waiting()
        if self._closing or self.lost or not self.opened.called:
            if not self.closed.called:
                super().connectionLost(reason)
            return
        if self._shaken and self._ending:
            self._counts.losses[self._ending] += 1
        self._come_back()

    def _dismissed(self, code: int, reason: str) -> None:
        self._ending = str(code)
        self.transport.abortConnection()

    def _fail(self, error: Exception) -> None:
        if self._away_since is None:
            super()._fail(error)
        else:
            if not isinstance(error, wire.Unavailable):
                self._lose(str(error))
            self.transport.abortConnection()

    def _refused(self, code: str) -> None:
        # Nobody says which message it was: all that have no answer are sent again.
        self._counts.refusals[code] += 1
        self._ending = ""
        self.transport.abortConnection()

    def _cut(self) -> None:
        if not self.arrivals.next:
            self._later(random.expovariate(1 / self._every_seconds), self._cut)
            return
        self._ending = ""
        if random.random() < 0.5:
            self.transport.abortConnection()
        else:
            self.transport.loseConnection()

    def _come_back(self) -> None:
        if self._away_since is None:
            self._away_since = self._reactor.seconds()
        else:
            self._counts.returns_refused += 1
        self._shaken = False
        self._rest = self._fragments = b""
        self._goodbye = None
        if self._reactor.seconds() - self._away_since > self._patience_seconds:
            self._lose("it could not come back")
            self._closing = True
            self._end()
        else:
            self._later(random.uniform(_SHORTEST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS), self._try)

    def _try(self) -> None:
        self._turn += 1
        self.address = wire.parse_url(self._urls[self._turn % len(self._urls)], self.seat.room)
        self._connect(self).addErrback(self._not_connected)

    def _not_connected(self, failure: Failure) -> None:
        if self._closing:
            self._end()
        else:
            self._come_back()

    def _end(self) -> None:
        if not self.closed.called:
            self.closed.callback(None)

    def _later(self, seconds: float, call: Callable[[], object]) -> None:
        self._stop_waiting()
        self._next = self._reactor.callLater(seconds, call)

    def _stop_waiting(self) -> None:
        if self._next is not None and self._next.active():
            self._next.cancel()

    # sending

    def send(self) -> None:
        if self._shaken:
            super().send()

    def _write(self, number: int, payloads: list[bytes]) -> None:
        named = [
            payload[:-1] + f',"clientMessageId":"{self._run}.{self._name}.{at}"}}'.encode()
            for at, payload in enumerate(payloads, number)
        ]
        in_flight = self.ledger.in_flight
        self._payloads = {at: payload for at, payload in self._payloads.items() if at in in_flight}
        self._payloads.update(enumerate(named, number))
        super()._write(number, named)

    def _send_again(self) -> None:
        """In the order of the first time."""
        again = [self._payloads[number] for number in sorted(self.ledger.in_flight)]
        self._counts.resent += len(again)
        if again:
            self.transport.write(wire.masked_frames(again))
        super().send()
