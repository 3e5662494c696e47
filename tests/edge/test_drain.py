"""Who is connected when an instance stops is closed in slices over seconds, with a hint when to come back."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from attrs import define
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from zope.interface import implementer

from chatflow.edge.close_codes import SERVICE_RESTART
from chatflow.edge.connections import Connections, IConnection
from chatflow.edge.limits import EdgeLimits, LimitsInForce
from chatflow.rooms.rules import Party


@implementer(IConnection)
@define(eq=False)
class Connection:
    """Goes as soon as it is closed, as a client that answers does."""

    clock: Clock
    gone: Callable[[IConnection], None]
    stays: bool = False
    is_live: bool = True
    opened_at: float = 0.0
    retry_after_ms: int | None = None
    closed_at: float | None = None
    code: int | None = None

    def say_goodbye(self, retry_after_ms: int) -> None:
        assert self.closed_at is None, "nothing follows a close frame"
        self.retry_after_ms = retry_after_ms

    def leave(self, code: int, reason: str) -> None:
        self.closed_at, self.code = self.clock.seconds(), code
        if not self.stays:
            self.gone(self)

    def party(self, spoken: bool) -> Party:
        return Party(1, (), None)

    def set_back(self, room: int, first: int) -> None: ...
    def stop_reading(self) -> None: ...
    def ping_or_drop(self) -> None: ...
    def tell_head(self) -> None: ...
    def leave_if_stalled(self) -> None: ...


class Drain:
    """Some connections that are closed from the time 0 on."""

    def __init__(self, count: int, close_seconds: float = 5.0) -> None:
        self.clock = Clock()
        limits = LimitsInForce(EdgeLimits(16384, 1000, 100, 100_000, 60))
        self.connections = Connections(clock=self.clock, in_force=limits, close_seconds=close_seconds)
        self.all = [Connection(self.clock, self.connections.remove) for _ in range(count)]
        for one in self.all:
            self.connections.add(one)

    def begin(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self.connections.close_all())

    def times(self) -> list[float]:
        """When each was closed, in order of their age."""
        return [one.closed_at for one in self.all if one.closed_at is not None]


@pytest.mark.parametrize(("count", "seconds"), [(1000, 1.0), (3000, 3.0), (20_000, 5.0)])
def test_many_are_closed_in_slices_over_seconds(count: int, seconds: float) -> None:
    drain = Drain(count)
    done = drain.begin()
    for slices in range(1, 21):
        assert len(drain.times()) == slices * count // 20
        assert not done.called
        drain.clock.advance(seconds / 20)
    assert done.called and not len(drain.connections)
    assert drain.times() == sorted(drain.times()), "the oldest first"


def test_each_is_told_to_come_back_elsewhere_at_a_time_of_its_own() -> None:
    drain = Drain(1000)
    drain.begin()
    drain.clock.pump([0.05] * 25)
    assert {one.code for one in drain.all} == {SERVICE_RESTART}
    hints = [one.retry_after_ms for one in drain.all if one.retry_after_ms is not None]
    assert len(hints) == 1000 and len(set(hints)) > 500
    assert min(hints) < 300 and max(hints) > 2800


def test_it_takes_no_longer_than_the_time_for_the_drain_allows() -> None:
    drain = Drain(20_000, close_seconds=2.0)
    drain.begin()
    drain.clock.pump([0.1] * 21)
    assert max(drain.times()) <= 2.0 and len(drain.times()) == 20_000


@pytest.mark.parametrize("count", [1, 7, 19, 21])
def test_a_few_are_closed_too_and_each_once(count: int) -> None:
    drain = Drain(count)
    drain.begin()
    drain.clock.pump([0.05] * 25)
    assert len(drain.times()) == count


def test_it_is_done_when_the_last_one_has_gone_and_at_once_without_any() -> None:
    assert Drain(0).begin().called
    drain = Drain(3)
    drain.all[1].stays = True
    done = drain.begin()
    drain.clock.pump([0.05] * 25)
    assert not done.called
    drain.connections.remove(drain.all[1])
    assert done.called
