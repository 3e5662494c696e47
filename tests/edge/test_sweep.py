"""All connections are looked after by one timer: each has its turn, and who says nothing is pinged and then dropped."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from twisted.internet.task import Clock
from zope.interface import implementer

from chatflow.edge.connections import Connections, IConnection
from chatflow.edge.limits import EdgeLimits, LimitsInForce
from chatflow.edge.sweep import Sweep
from chatflow.rooms.rules import Party
from testbed.client import client_frame
from tests.edge.rig import EdgeRig, Peer, rigged

_PING, _PONG = 0x89, 0xA


@implementer(IConnection)
class Connection:
    """Says when it is visited."""

    def __init__(self, clock: Clock, *, is_live: bool = True, fails: bool = False) -> None:
        self.is_live = is_live
        self.opened_at = 0.0
        self.visited: list[float] = []
        self._clock = clock
        self._fails = fails

    def visit(self) -> None:
        self.visited.append(self._clock.seconds())
        if self._fails:
            raise RuntimeError("so")

    def party(self, spoken: bool) -> Party:
        return Party(1, (), None)

    def leave(self, code: int, reason: str) -> None: ...
    def say_goodbye(self, retry_after_ms: int) -> None: ...
    def set_back(self, room: int, first: int) -> None: ...
    def stop_reading(self) -> None: ...
    def ping_or_drop(self) -> None: ...
    def tell_head(self) -> None: ...
    def leave_if_stalled(self) -> None: ...


class TestTurns:
    @pytest.fixture
    def clock(self) -> Clock:
        return Clock()

    @pytest.fixture
    def connections(self, clock: Clock) -> Connections:
        return Connections(clock=clock, in_force=LimitsInForce(EdgeLimits(16384, 1000, 100, 10_000, 60)))

    def sweep(self, clock: Clock, connections: Connections, seconds: float) -> Callable[[], None]:
        """Starts one; returns what stops it."""

        def visit(one: IConnection) -> None:
            assert isinstance(one, Connection)
            one.visit()

        sweep = Sweep(clock=clock, connections=connections, interval_seconds=seconds, visit=visit)
        sweep.start()
        return sweep.stop

    def test_each_has_one_turn_in_an_interval_and_they_are_spread_over_it(
        self, clock: Clock, connections: Connections
    ) -> None:
        all_of_them = [Connection(clock) for _ in range(100)]
        for one in all_of_them:
            connections.add(one)
        stop = self.sweep(clock, connections, 20)
        clock.pump([0.5] * 40)
        assert [len(one.visited) for one in all_of_them] == [1] * 100
        moments = [one.visited[0] for one in all_of_them]
        assert all(moments.count(moment) == 5 for moment in moments), "at no moment more than its share"
        clock.pump([0.5] * 40)
        assert [len(one.visited) for one in all_of_them] == [2] * 100
        stop()
        assert not clock.getDelayedCalls()

    def test_a_visit_that_fails_keeps_nobody_from_the_next(self, clock: Clock, connections: Connections) -> None:
        all_of_them = [Connection(clock, fails=number % 2 == 0) for number in range(40)]
        for one in all_of_them:
            connections.add(one)
        stop = self.sweep(clock, connections, 20)
        clock.pump([0.5] * 80)
        assert {len(one.visited) for one in all_of_them} == {2}
        stop()

    def test_who_is_being_closed_is_not_visited(self, clock: Clock, connections: Connections) -> None:
        closing = Connection(clock, is_live=False)
        connections.add(closing)
        stop = self.sweep(clock, connections, 20)
        clock.pump([0.5] * 80)
        assert closing.visited == []
        stop()

    def test_an_interval_of_zero_turns_it_off(self, clock: Clock, connections: Connections) -> None:
        self.sweep(clock, connections, 0)()
        assert not clock.getDelayedCalls()


class TestPings:
    @pytest.fixture
    def rig(self) -> Iterator[EdgeRig]:
        with rigged() as rig:
            yield rig

    def pings(self, peer: Peer) -> int:
        """How many came since the last call."""
        count: int = peer.transport.value().count(bytes([_PING]))
        peer.transport.clear()
        return count

    def test_who_says_something_in_each_interval_is_never_pinged(self, rig: EdgeRig) -> None:
        peer = rig.peer(v2=False)
        for _ in range(5):
            peer.protocol.ping_or_drop()
            peer.protocol.dataReceived(client_frame(_PONG, b""))
        assert self.pings(peer) == 0

    def test_who_says_nothing_is_pinged_once_and_then_dropped(self, rig: EdgeRig) -> None:
        peer = rig.peer(v2=False)
        peer.protocol.ping_or_drop()  # it has just come
        peer.protocol.ping_or_drop()
        assert self.pings(peer) == 1
        assert rig.edge.counters.silent_clients_dropped == 0
        peer.protocol.ping_or_drop()
        assert (peer.protocol.is_live, peer.transport.aborted) == (False, True)
        assert rig.edge.counters.silent_clients_dropped == 1

    def test_who_answers_the_ping_is_left_alone_until_it_is_silent_again(self, rig: EdgeRig) -> None:
        peer = rig.peer(v2=False)
        for _ in range(3):
            peer.protocol.ping_or_drop()
            peer.protocol.ping_or_drop()
            assert self.pings(peer) == 1
            peer.protocol.dataReceived(client_frame(_PONG, b""))
        assert peer.protocol.is_live

    def test_who_is_not_read_cannot_be_heard(self, rig: EdgeRig) -> None:
        peer = rig.peer(v2=False)
        peer.protocol.stop_reading()
        for _ in range(5):
            peer.protocol.ping_or_drop()
        assert (peer.protocol.is_live, self.pings(peer)) == (True, 0)
