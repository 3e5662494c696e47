"""A virtual client whose connection is cut at random, and who comes back, at the next of several URLs, to where it was.

It is what ``docs/protocol.rst`` asks of a client, "Coming back", over the load client's own fast connection: the proof
is still that every message came once and in order.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.python.failure import Failure
from zope.interface import implementer

from chatflow.load import wire
from chatflow.load.client import Connect, ended_in_handshake, refuse_opening
from chatflow.load.client_session import Session
from chatflow.load.connection import LoadConnection
from chatflow.load.interfaces import IConnectionOwner, ILoadClient
from chatflow.load.proof import NO_CLOSE_FRAME
from chatflow.load.scenario import Settings

# Between two tries to come back.
_SHORTEST_PAUSE_SECONDS = 0.02
_LONGEST_PAUSE_SECONDS = 0.5


@implementer(ILoadClient, IConnectionOwner)
class ReturningClient:
    """Makes a new connection when the one before has ended, and sends again what was not acknowledged.

    Every message has a clientMessageId. That the server, too, may end the connection is no fault by itself, as when an
    instance is stopped or killed; but it is counted. What it may not do is to close with another code than those of an
    end in order, or to refuse the return.

    :param every_seconds: after which a connection is cut, on average.
    :param reactor: IReactorTime.
    """

    def __init__(
        self, session: Session, settings: Settings, every_seconds: float, connect: Connect, reactor: Any
    ) -> None:
        self.session = session
        self.opened: Deferred[None] = Deferred()
        self.closed: Deferred[None] = Deferred()
        self._recorder = session.recorder
        self._reactor = reactor
        self._connect = connect
        self._every_seconds = every_seconds
        self._timeout_seconds = settings.timeout_seconds
        self._urls = settings.urls
        self._turn = settings.urls.index(session.client.url)
        self._name = f"{settings.run}.{session.client.number}"
        self._unacknowledged: dict[int, bytes] = {}
        self._timer: IDelayedCall | None = None  # until the next cut, or the next try to come back
        self._away_since: float | None = None
        self._leaving = False  # for good
        self._ending = ""  # how the server ends the connection, for the count; nothing if it is the client who does
        self._connection = self._new_connection()

    def connect(self) -> Deferred[Any]:
        return self._connect(self._connection)

    def send(self) -> None:
        if not self._connection.is_open or self._connection.closing:
            return
        number = self.session.ledger.next_number
        messages = self.session.take()
        if messages:
            named = [
                message[:-1] + f',"clientMessageId":"{self._name}.{at}"}}'.encode()
                for at, message in enumerate(messages, number)
            ]
            in_flight = self.session.ledger.in_flight
            self._unacknowledged = {at: message for at, message in self._unacknowledged.items() if at in in_flight}
            self._unacknowledged.update(enumerate(named, number))
            self._connection.write(named)

    def close(self) -> None:
        self._leaving = True
        self._stop_waiting()
        if self._connection.connected:
            self._connection.close()
        else:
            self.abort()

    def abort(self) -> None:
        self._leaving = True
        self._stop_waiting()
        self._connection.abort()
        if self._away_since is not None and not self._connection.connected:
            self._end()

    # what the connection tells

    def connection_opened(self) -> None:
        self._ending = NO_CLOSE_FRAME
        if self._away_since is None:
            self.session.enter()
            self.opened.callback(None)
        else:
            self._recorder.returned(self._reactor.seconds() - self._away_since)
            self._away_since = None
            self._send_again()
        self._cut_later()

    def connection_refused(self, error: wire.WireError) -> None:
        if self._away_since is None:
            refuse_opening(self.opened, error)
        elif not isinstance(error, wire.Unavailable):
            self.session.lose(str(error))

    def connection_broken(self, error: Exception) -> None:
        self.session.lose(str(error))

    def connection_closed(self, code: int, reason: str) -> None:
        self._ending = str(code)
        if code == wire.BANNED:
            self.session.lose(f"the server does not let it come back: {reason}")
        self._connection.transport.abortConnection()

    def connection_ended(self, reason: Failure) -> None:
        self._stop_waiting()
        if self._away_since is None and not self._connection.is_open:
            refuse_opening(self.opened, ended_in_handshake(reason))
            self._end()
        elif self._leaving or self.session.lost:
            self._end()
        else:
            if self._connection.is_open and self._ending:
                self._recorder.tally.losses[self._ending] += 1
            self._come_back()

    def message_refused(self, code: str) -> None:
        # Nobody says which message it was: all that have no answer are sent again.
        self._recorder.tally.refusals[code] += 1
        self._ending = ""
        self._connection.transport.abortConnection()

    # coming back

    def _new_connection(self) -> LoadConnection:
        address = wire.parse_url(self._urls[self._turn % len(self._urls)], self.session.client.room)
        # Behind what it has; before it has anything there is nothing to come back to.
        if self.session.arrivals.next:
            address = attrs.evolve(address, path=f"{address.path}?since={self.session.arrivals.next - 1}")
        return LoadConnection(address, self.session, self)

    def _cut_later(self) -> None:
        self._later(random.expovariate(1 / self._every_seconds), self._cut)

    def _cut(self) -> None:
        if not self.session.arrivals.next:
            self._cut_later()
            return
        self._ending = ""
        if random.random() < 0.5:
            self._connection.transport.abortConnection()
        else:
            self._connection.transport.loseConnection()

    def _come_back(self) -> None:
        if self._away_since is None:
            self._away_since = self._reactor.seconds()
        else:
            self._recorder.tally.returns_refused += 1
        if self._reactor.seconds() - self._away_since > self._timeout_seconds:
            self.session.lose("it could not come back")
            self._end()
        else:
            self._later(random.uniform(_SHORTEST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS), self._try)

    def _try(self) -> None:
        self._turn += 1
        self._connection = self._new_connection()
        self._connect(self._connection).addErrback(self._not_connected)

    def _not_connected(self, _: Failure) -> None:
        if self._leaving:
            self._end()
        else:
            self._come_back()

    def _send_again(self) -> None:
        """In the order of the first time."""
        again = [self._unacknowledged[number] for number in sorted(self.session.ledger.in_flight)]
        self._recorder.tally.resent += len(again)
        if again:
            self._connection.write(again)
        self.send()

    def _end(self) -> None:
        if not self.closed.called:
            self.closed.callback(None)

    def _later(self, seconds: float, call: Callable[[], object]) -> None:
        self._stop_waiting()
        self._timer = self._reactor.callLater(seconds, call)

    def _stop_waiting(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
