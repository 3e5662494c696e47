"""How many connections a port takes before those that are open are heard again."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from typing import Any

from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Factory
from twisted.internet.tcp import Port
from twisted.internet.testing import MemoryReactorClock

from chatflow.edge.listeners import ACCEPT_SECONDS, ACCEPTS_PER_TURN, accept_few


class Refusing(Factory):
    """Takes nobody, and counts.

    :param seconds: how long that takes.
    """

    def __init__(self, reactor: Any, seconds: float) -> None:
        self.came = 0
        self._reactor = reactor
        self._seconds = seconds

    def buildProtocol(self, addr: IAddress | None) -> None:
        self.came += 1
        self._reactor.rightNow += self._seconds
        return


def _taken(clients: int, turns: int, refusal_seconds: float) -> list[int]:
    """How many are taken in each turn of those who have connected at once."""
    reactor: Any = MemoryReactorClock()
    factory = Refusing(reactor, refusal_seconds)
    port = Port(0, factory, interface="127.0.0.1", backlog=100, reactor=reactor)
    port.startListening()
    accept_few(port, reactor.seconds)
    taken = []
    with ExitStack() as stack:
        stack.callback(port.socket.close)
        for _ in range(clients):
            stack.enter_context(socket.create_connection(("127.0.0.1", port.getHost().port)))
        for _ in range(turns):
            before = factory.came
            port.doRead()
            taken.append(factory.came - before)
    return taken


def test_of_very_many_who_connect_at_once_a_few_are_taken_in_a_turn_and_all_in_the_end() -> None:
    assert _taken(3 * ACCEPTS_PER_TURN + 1, 5, 0.0) == [ACCEPTS_PER_TURN] * 3 + [1, 0]


def test_where_each_takes_long_a_turn_ends_sooner() -> None:
    assert _taken(7, 4, ACCEPT_SECONDS / 2.5) == [3, 3, 1, 0]
