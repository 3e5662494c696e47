"""A connection that is cut at random and comes back, on whichever instance, to where it was.

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

# Between two tries to come back.
_SHORTEST_PAUSE_SECONDS = 0.02
_LONGEST_PAUSE_SECONDS = 0.5


class ReturningConnection(LoadConnection):
    """:ivar connect: connects this protocol anew; fires once it is connected, or fails.

    Every message has a clientMessageId, and is sent again when its acknowledgement did not come.
    """

    def __init__(self, *args: Any, reactor: Any, every_seconds: float, patience_seconds: float, run: str) -> None:
        super().__init__(*args)
        self._reactor = reactor
        self._every_seconds = every_seconds
        self._patience_seconds = patience_seconds
        self._run = run
        self._payloads: dict[int, bytes] = {}
        self._next: IDelayedCall | None = None  # cut, or next try
        self._away_since: float | None = None
        self._first_address = self._address
        self.connect: Callable[[ReturningConnection], Deferred[object]]

    # opening and closing

    def connectionMade(self) -> None:
        self._key = wire.new_key()
        # Behind what it has; before it has anything there is nothing to come back to.
        if self.arrivals.next:
            path = f"{self._first_address.path}?since={self.arrivals.next - 1}"
            self._address = attrs.evolve(self._first_address, path=path)
        super().connectionMade()

    def _enter(self) -> None:
        if self._away_since is None:
            super()._enter()
        else:
            self._away_since = None
            self._counts.returns += 1
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
        self._come_back()

    def _dismissed(self) -> None:
        self.transport.abortConnection()

    def _fail(self, cause: str) -> None:
        if self._away_since is None:
            super()._fail(cause)
        else:
            self.transport.abortConnection()  # an instance that stops answers 503

    def _refused(self, code: str) -> None:
        # Nobody says which message it was: all that have no answer are sent again.
        self._counts.refusals[code] += 1
        self.transport.abortConnection()

    def _cut(self) -> None:
        if not self.arrivals.next:
            self._later(random.expovariate(1 / self._every_seconds), self._cut)
        elif random.random() < 0.5:
            self.transport.abortConnection()
        else:
            self.transport.loseConnection()

    def _come_back(self) -> None:
        if self._away_since is None:
            self._away_since = self._reactor.seconds()
        self._shaken = False
        self._rest = self._fragments = b""
        self._goodbye = ""
        if self._reactor.seconds() - self._away_since > self._patience_seconds:
            self._lose("it could not come back")
            self._closing = True
            self._end()
        else:
            self._later(random.uniform(_SHORTEST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS), self._try)

    def _try(self) -> None:
        self.connect(self).addErrback(self._not_connected)

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
