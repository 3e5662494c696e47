"""The room queue on SQS FIFO keeps the contract on an emulator over HTTP, and what is its own."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.task import deferLater

from chatflow.broker.names import Names
from chatflow.broker.pacing import Pace
from chatflow.broker.sqs import SqsRoomQueue
from chatflow.errors import StartupError, Unavailable
from testbed.fault_proxy import FaultProxy
from tests.broker.contract_room_queue import RoomQueueContract, as_value, publish
from tests.broker.room_queues import Instances, MakeInstances, MakeQueue, Parking, a_moment, an_empty_poll
from tests.support.chat import make_envelope
from tests.support.cloud import direct_client, make_objects
from tests.support.reactor import on_reactor, reactor, until


class TestContract(RoomQueueContract):
    room_queues = 0

    @pytest.fixture
    def queue(self, make_queue: MakeQueue) -> SqsRoomQueue:
        self.make_queue = make_queue
        self.names = make_objects(rooms=2, room_queues=self.room_queues)
        return make_queue(self.names, long_poll_seconds=1)

    @pytest.fixture
    def queue_of_twenty_rooms(self, make_queue: MakeQueue) -> SqsRoomQueue:
        self.make_queue = make_queue
        self.names = make_objects(rooms=20, room_queues=self.room_queues)
        return make_queue(self.names, long_poll_seconds=1)

    def as_another_instance(self, queue: SqsRoomQueue) -> SqsRoomQueue:
        return self.make_queue(self.names, long_poll_seconds=1)

    def shard_of(self, room: int) -> object:
        return self.names.shard(room)

    async def idle(self) -> None:
        await an_empty_poll()


class TestContractOfRoomsThatShareAQueue(TestContract):
    room_queues = 1


class TestHolding:
    @on_reactor
    async def test_what_a_dead_consumer_held_comes_to_another_in_order(
        self, make_instances: MakeInstances, receives: list[dict[str, Any]]
    ) -> None:
        pair = make_instances(visibility_seconds=1)
        sent = [make_envelope(1, str(number)) for number in range(4)]
        await publish(pair.one, *sent[:2])
        await pair.receive(pair.one)  # and never settled
        await publish(pair.one, *sent[2:])
        assert await pair.drain(pair.two, 4) == sent
        assert pair.two.counters.redeliveries >= 1
        assert {one["VisibilityTimeout"] for one in receives} == {1}

    @on_reactor
    async def test_a_consumer_that_took_too_long_takes_nothing_from_who_holds_now(
        self, make_instances: MakeInstances
    ) -> None:
        pair = make_instances(visibility_seconds=1)
        envelope = make_envelope(1)
        await pair.one.publish(envelope)
        expired = await pair.receive(pair.one)
        held = await pair.receive(pair.two)
        await pair.one.ack(expired)
        assert pair.one.counters.lost_receipts == 1
        assert pair.left() == 1
        await pair.two.ack(held)
        assert pair.left() == 0

    @on_reactor
    async def test_a_room_stays_with_who_extends_it_beyond_the_visibility(self, make_instances: MakeInstances) -> None:
        pair = make_instances(visibility_seconds=2, long_poll_seconds=1)
        envelope = make_envelope(1)
        await pair.one.publish(envelope)
        held = await pair.receive(pair.one)
        for _ in range(3):
            poll = pair.two.receive(1)
            while not poll.called:
                await pair.one.extend_visibility()
                await a_moment()
            assert not await poll
        await pair.one.ack(held)
        assert pair.left() == 0
        assert pair.one.counters.lost_receipts == 0

    @on_reactor
    async def test_only_what_is_due_is_extended(self, pair: Instances, proxy: FaultProxy) -> None:
        await pair.one.publish(make_envelope(1))
        held = await pair.receive(pair.one)
        extensions = proxy.faults.calls["ChangeMessageVisibilityBatch"]
        await pair.one.extend_visibility()  # 30 s are left
        assert proxy.faults.calls["ChangeMessageVisibilityBatch"] == extensions
        await pair.one.ack(held)

    @pytest.mark.parametrize("settle", ["ack", "nack"])
    @on_reactor
    async def test_nothing_that_is_settled_is_extended(
        self, make_instances: MakeInstances, proxy: FaultProxy, settle: str
    ) -> None:
        pair = make_instances(visibility_seconds=1)
        await pair.one.publish(make_envelope(1))
        await getattr(pair.one, settle)(await pair.receive(pair.one))
        extensions = proxy.faults.calls["ChangeMessageVisibilityBatch"]
        for _ in range(10):
            await a_moment()
            await pair.one.extend_visibility()
        assert proxy.faults.calls["ChangeMessageVisibilityBatch"] == extensions

    @on_reactor
    async def test_a_poll_whose_receiver_is_gone_gives_back_what_it_is_given(
        self, make_instances: MakeInstances, proxy: FaultProxy
    ) -> None:
        pair = make_instances(long_poll_seconds=1, visibility_seconds=600)
        receiving = pair.one.receive(1)
        receiving.cancel()
        with pytest.raises(CancelledError):
            await receiving
        sent = [make_envelope(1, str(number)) for number in range(2)]
        await publish(pair.one, *sent)
        await until(lambda: proxy.faults.calls["ChangeMessageVisibilityBatch"], "it gives back")
        assert await pair.drain(pair.two, 2) == sent


class TestQueues:
    def test_a_missing_queue_ends_the_start_and_says_what_makes_it(self, make_queue: MakeQueue) -> None:
        with pytest.raises(StartupError, match=r"none-room-1\.fifo: run `chatflow-admin setup`"):
            make_queue(Names("none", 1))

    @on_reactor
    async def test_a_queue_that_was_deleted_makes_everything_unavailable(self, make_instances: MakeInstances) -> None:
        pair = make_instances(rooms=2, publish_seconds=0.2)
        await pair.one.publish(make_envelope(1))
        held = await pair.receive(pair.one)
        direct_client("sqs").delete_queue(QueueUrl=pair.one.urls()[1])
        with pytest.raises(Unavailable, match="NonExistentQueue"):
            await pair.one.receive(1)
        with pytest.raises(Unavailable, match="NonExistentQueue"):
            await pair.one.publish(make_envelope(1))
        await pair.one.ack(held)
        await pair.one.nack(held)
        other = make_envelope(2)
        await pair.one.publish(other)
        assert await pair.drain(pair.two, 1, shard=2) == [other]

    @on_reactor
    async def test_rooms_that_share_a_queue_share_calls(self, make_instances: MakeInstances, proxy: FaultProxy) -> None:
        pair = make_instances(rooms=20, room_queues=4)
        calls = proxy.faults.calls
        before = calls.copy()
        sent = [make_envelope(room) for room in range(1, 21)]
        await publish(pair.one, *sent)
        assert calls["SendMessageBatch"] - before["SendMessageBatch"] == 4
        received = [one for shard in pair.names.shards for one in await pair.drain(pair.two, 5, shard)]
        assert sorted(one.room for one in received) == list(range(1, 21))
        assert calls["DeleteMessageBatch"] - before["DeleteMessageBatch"] == 4


class TestPoison:
    def put(self, pair: Instances, body: str, key: str) -> None:
        direct_client("sqs").send_message(
            QueueUrl=pair.one.urls()[1], MessageBody=body, MessageGroupId="1", MessageDeduplicationId=key
        )

    @on_reactor
    async def test_a_body_that_is_no_envelope_is_parked_and_the_room_goes_on_in_order(
        self, pair: Instances, parking: Parking
    ) -> None:
        sent = [make_envelope(1, str(number)) for number in range(3)]
        self.put(pair, "poison at the head", "a")
        await publish(pair.one, *sent[:2])
        self.put(pair, "poison between", "b")
        await publish(pair.one, sent[2])
        assert await pair.drain(pair.two, 3) == sent
        assert [body for body, _ in parking.parked] == ["poison at the head", "poison between"]
        assert all("not an envelope" in reason for _, reason in parking.parked)
        assert pair.two.counters.poison == 2
        assert pair.left() == 0

    @on_reactor
    async def test_while_it_cannot_be_parked_the_room_waits_and_is_not_held(
        self, make_instances: MakeInstances, parking: Parking
    ) -> None:
        pair = make_instances(visibility_seconds=600)
        sent = [make_envelope(1, str(number)) for number in range(2)]
        await publish(pair.one, sent[0])
        self.put(pair, "poison", "a")
        await publish(pair.one, sent[1])
        parking.fails = True
        with pytest.raises(Unavailable):
            await pair.two.receive(1)
        parking.fails = False
        await pair.two.extend_visibility()
        assert await pair.drain(pair.one, 2) == sent
        assert [body for body, _ in parking.parked] == ["poison"]

    @on_reactor
    async def test_while_it_waits_for_a_place_everything_of_its_room_stays_held(
        self, make_instances: MakeInstances
    ) -> None:
        a_place: Deferred[None] = Deferred()
        parked: list[str] = []

        async def park(body: str, reason: str) -> None:
            parked.append(body)
            await a_place

        pair = make_instances(visibility_seconds=2, long_poll_seconds=1, set_aside=park)
        sent = make_envelope(1)
        self.put(pair, "poison", "a")
        await pair.one.publish(sent)
        receiving = pair.one.receive(1)
        await until(lambda: parked, "it is received")
        try:
            for _ in range(3):
                poll = pair.two.receive(1)
                while not poll.called and len(parked) == 1:
                    await pair.one.extend_visibility()
                    await a_moment()
                assert parked == ["poison"]
                assert not await poll
        finally:
            a_place.callback(None)
        await pair.one.ack(await receiving)
        assert pair.left() == 0
        assert pair.one.counters.lost_receipts == 0


class TestPacing:
    @on_reactor
    async def test_publishes_and_receives_of_a_queue_keep_the_gap_until_the_daemon_stops(
        self, make_queue: MakeQueue
    ) -> None:
        pace = Pace(clock=reactor, max_gap_seconds=1e6, calls_per_second=1e9)
        pace.gap_seconds = 1e6
        queue = make_queue(make_objects(rooms=2), pace=pace)
        assert queue.wait_seconds(1) == 0
        await queue.publish(make_envelope(1))
        assert queue.wait_seconds(1) > 9e5
        assert queue.wait_seconds(2) == 0
        queue.close()
        assert queue.wait_seconds(1) == 0

    @on_reactor
    async def test_a_room_is_held_back_for_the_gap_so_that_it_gathers(self, make_instances: MakeInstances) -> None:
        pace = Pace(clock=reactor, max_gap_seconds=1e6, calls_per_second=1e9)
        pair = make_instances(pace=pace)
        await pair.one.publish(make_envelope(1))
        held = await pair.receive(pair.one)
        pace.gap_seconds = 1e6
        done = pair.one.ack(held)
        assert not await pair.two.receive(1)
        assert not done.called
        done.addErrback(as_value(CancelledError))
        done.cancel()
        pair.one.close()
        await pair.one.ack(held)
        assert pair.left() == 0


@on_reactor
async def test_the_age_of_what_is_held_is_told(pair: Instances) -> None:
    assert pair.one.lag_seconds() == {1: 0}
    before = reactor.seconds()
    await pair.one.publish(make_envelope(1))
    published = reactor.seconds()
    held = await pair.receive(pair.one)
    await a_moment()
    now = reactor.seconds()
    assert now - published - 0.1 <= pair.one.lag_seconds()[1] <= reactor.seconds() - before + 0.1
    await pair.one.ack(held)
    assert pair.one.lag_seconds() == {1: 0}


@on_reactor
async def test_stop_waits_for_what_is_under_way(pair: Instances) -> None:
    publishing = pair.one.publish(make_envelope(1))
    receiving = pair.two.receive(1)
    await deferLater(reactor, 0)  # publishing begins in the next turn
    stopped = gatherResults([pair.one.stop(), pair.two.stop()])
    assert not stopped.called
    await stopped
    assert publishing.called
    assert receiving.called
