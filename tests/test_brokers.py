"""Both brokers have everything that the wiring asks of one."""

from __future__ import annotations

import time

import pytest
from twisted.internet import reactor
from zope.interface.verify import verifyObject

from chatflow.brokers import make_broker
from chatflow.contracts.broker import IBroker
from chatflow.contracts.deadletters import IDeadLetters
from chatflow.contracts.fanout import IFanout
from chatflow.contracts.membership import IPresenceTable
from chatflow.contracts.room_queue import IDepths, IRoomQueue
from chatflow.lifecycle.clocks import StampClock
from chatflow.metrics import Metrics
from chatflow.persistence.clock_watch import ClockWatch
from chatflow.persistence.database import Database, SessionLimits
from chatflow.persistence.rhythm import Rhythm
from tests.test_config import config

_URL = "postgresql://chat@db.example/chat"


@pytest.mark.parametrize("kind", ["embedded", "sqs"])
def test_a_broker_has_every_part_and_each_keeps_its_contract(kind: str) -> None:
    def database(name: str, connections: int) -> Database:
        return Database(reactor=reactor, url=_URL, connections=connections, limits=SessionLimits(application_name=name))

    now = StampClock(reactor, time.time)
    commits = database("writer", 1)
    watch = ClockWatch(
        seconds=time.monotonic, database=commits, stamps=now, on_wrong=lambda: None, on_right=lambda: None
    )
    rhythm = Rhythm(clock=reactor, ceiling_seconds=0.0)
    settings = config(broker=kind, database=_URL)
    broker = make_broker(settings, reactor, now, watch, Metrics(), commits, rhythm, database, str)
    assert verifyObject(IBroker, broker)
    for contract, part in (
        (IRoomQueue, broker.room_queue),
        (IFanout, broker.fanout),
        (IDeadLetters, broker.dead_letters),
        (IPresenceTable, broker.presence),
        (IDepths, broker.depths),
    ):
        assert verifyObject(contract, part)
    assert bool(broker.subscription) == (kind == "sqs")
