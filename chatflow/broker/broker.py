"""What the wiring needs of a broker, whichever it is."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from attrs import frozen
from twisted.application.service import Service

from chatflow.broker.depth import Depths
from chatflow.contracts.deadletters import IDeadLetters
from chatflow.contracts.fanout import IFanout
from chatflow.contracts.membership import IPresenceTable
from chatflow.contracts.room_queue import IRoomQueue
from chatflow.readings import Reading


@frozen(kw_only=True)
class Broker:
    """One instance's room queue, fan-out, dead letters, and how deep its queues are.

    :ivar presence: where the members of other instances are known from.
    :ivar count_dead_letters: how many there are now; fails with Unavailable.
    :ivar parts: services by name, started before the consumer and stopped after it.
    :ivar listeners: services by name, started after the consumer and stopped before it.
    :ivar hears: whether news of other instances arrive here.
    :ivar missed: called when messages turned out to be stored that did not come here by themselves.
    :ivar patience_seconds: how long news that are due are likely to be on their way.
    :ivar hurry: called when the daemon begins to stop: nothing is to be gathered any more.
    :ivar give_up: called when it has waited for long: what is still pending is to be refused, where that is possible.
    :ivar readings: figures for Prometheus.
    """

    queue: IRoomQueue
    fanout: IFanout
    dead_letters: IDeadLetters
    depths: Depths
    presence: IPresenceTable
    count_dead_letters: Callable[[], Awaitable[int]]
    parts: Sequence[tuple[str, Service]] = ()
    listeners: Sequence[tuple[str, Service]] = ()
    hears: Callable[[], bool] = lambda: True
    missed: Callable[[], object] = lambda: None
    patience_seconds: Callable[[], float] = lambda: 0.0
    hurry: Callable[[], object] = lambda: None
    give_up: Callable[[], object] = lambda: None
    readings: Callable[[], Sequence[Reading]] = lambda: ()
