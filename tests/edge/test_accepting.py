"""How many connections a port takes before those that are open are heard again."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from typing import Any

from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Factory
from twisted.internet.tcp import Port
from twisted.internet.testing import MemoryReactorClock

from chatflow.edge.listeners import ACCEPTS_PER_TURN, accept_few


class Refusing(Factory):
    """Takes nobody, and counts."""

    came = 0

    def buildProtocol(self, addr: IAddress | None) -> None:
        self.came += 1
        return


def test_of_very_many_who_connect_at_once_a_few_are_taken_in_a_turn_and_all_in_the_end() -> None:
    reactor: Any = MemoryReactorClock()
    factory = Refusing()
    port = Port(0, factory, interface="127.0.0.1", backlog=100, reactor=reactor)
    port.startListening()
    accept_few(port)
    with ExitStack() as clients:
        clients.callback(port.socket.close)
        for _ in range(3 * ACCEPTS_PER_TURN + 1):
            clients.enter_context(socket.create_connection(("127.0.0.1", port.getHost().port)))
        turns = []
        for _ in range(5):
            before = factory.came
            port.doRead()
            turns.append(factory.came - before)
    assert turns == [ACCEPTS_PER_TURN] * 3 + [1, 0]
