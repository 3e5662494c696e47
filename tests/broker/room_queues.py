"""Room queues on the emulator, for tests: instances that share rooms, and fixtures that make them."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.task import deferLater

from chatflow.broker.names import Names
from chatflow.broker.pacing import Pace
from chatflow.broker.sqs import SqsRoomQueue
from chatflow.contracts.envelopes import Envelope
from chatflow.contracts.room_queue import Delivery
from chatflow.errors import Unavailable
from testbed.fault_proxy import FaultProxy
from tests.broker.contract_room_queue import envelopes
from tests.support.cloud import direct_client, make_objects, shared_aws
from tests.support.reactor import reactor, until

MakeQueue = Callable[..., SqsRoomQueue]


class Parking:
    """Where bodies go that are no envelopes; ``fails`` when it cannot take them."""

    def __init__(self) -> None:
        self.parked: list[tuple[str, str]] = []
        self.fails = False

    async def keep(self, body: str, reason: str) -> None:
        if self.fails:
            raise Unavailable("no place for dead letters")
        self.parked.append((body, reason))


@pytest.fixture
def parking() -> Parking:
    return Parking()


@pytest_twisted.async_yield_fixture
async def make_queue(proxy: FaultProxy, parking: Parking) -> AsyncIterator[MakeQueue]:
    """Makes an instance's queue, started; all are stopped after the test."""
    queues: list[SqsRoomQueue] = []

    def make(names: Names, **options: Any) -> SqsRoomQueue:
        usual: dict[str, Any] = {
            "aws": shared_aws(),
            "pace": unhurried(),
            "set_aside": parking.keep,
            "long_poll_seconds": 0,
        }
        queue = SqsRoomQueue(clock=reactor, now=time.time, names=names, **usual | options)
        queue.start()
        queues.append(queue)
        return queue

    yield make
    proxy.set_rules()
    for queue in queues:
        queue.close()
        await queue.stop()


def unhurried() -> Pace:
    """A pace without a gap, whatever the round trips."""
    return Pace(clock=reactor, max_gap_seconds=0.0, calls_per_second=1e9)


async def an_empty_poll() -> None:
    """Return when some poll that was under way, or began since, has come back."""
    calls = shared_aws().counters.calls
    before = calls["receive_message", "ok"]
    await until(lambda: calls["receive_message", "ok"] > before, "a poll comes back")


async def a_moment() -> None:
    await deferLater(reactor, 0.05)


class Instances:
    """Two instances that share rooms, and the room queues as SQS has them."""

    def __init__(self, make_queue: MakeQueue, names: Names, **options: Any) -> None:
        self.names = names
        self.one = make_queue(names, **options)
        self.two = make_queue(names, **options)

    async def receive(self, queue: SqsRoomQueue, shard: int = 1) -> list[Delivery]:
        """The shard's next deliveries; not none."""
        while not (deliveries := await queue.receive(shard)):
            pass
        return list(deliveries)

    async def drain(self, queue: SqsRoomQueue, count: int, shard: int = 1) -> list[Envelope]:
        """Receive and settle until so many have come, and then nothing more; everything that came, in order."""
        received: list[Envelope] = []
        while len(received) < count:
            deliveries = await self.receive(queue, shard)
            received += envelopes(deliveries)
            await queue.ack(deliveries)
        assert self.left(shard) == 0
        return received

    def left(self, shard: int = 1) -> int:
        """How many envelopes SQS has of a shard, in flight or not."""
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        attributes = direct_client("sqs").get_queue_attributes(QueueUrl=self.one.urls()[shard], AttributeNames=names)
        return sum(int(number) for number in attributes["Attributes"].values())


MakeInstances = Callable[..., Instances]


@pytest.fixture
def make_instances(make_queue: MakeQueue) -> MakeInstances:
    def make(*, rooms: int = 1, room_queues: int = 0, **options: Any) -> Instances:
        return Instances(make_queue, make_objects(rooms=rooms, room_queues=room_queues), **options)

    return make


@pytest.fixture
def pair(make_instances: MakeInstances) -> Instances:
    """Two instances with one room."""
    return make_instances()
