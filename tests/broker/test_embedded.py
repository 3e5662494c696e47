"""The embedded room queue keeps the contract, and what is its own: published means committed."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from twisted.internet.defer import CancelledError

from chatflow.broker.embedded_queue import EmbeddedRoomQueue, NoFanout
from chatflow.contracts.room_queue import Delivery
from chatflow.errors import NotStored, Unavailable
from tests.broker.contract_fanout import FanoutContract, Instance
from tests.broker.contract_room_queue import RoomQueueContract
from tests.support.chat import make_envelope
from tests.support.deferreds import result_of


class TestContract(RoomQueueContract):
    """Everything happens at once, so there is nothing to wait for."""

    @pytest.fixture
    def queue(self) -> EmbeddedRoomQueue:
        return EmbeddedRoomQueue(2)

    @pytest.fixture
    def queue_of_twenty_rooms(self) -> EmbeddedRoomQueue:
        return EmbeddedRoomQueue(20)


class TestEmbeddedRoomQueue:
    @pytest.fixture(autouse=True)
    def make(self) -> None:
        self.queue = EmbeddedRoomQueue(3)

    def receive(self, room: int) -> list[Delivery]:
        deliveries: Sequence[Delivery] = result_of(self.queue.receive(room))
        return list(deliveries)

    def test_every_room_has_a_shard(self) -> None:
        assert list(self.queue.shards) == [1, 2, 3]

    def test_a_publish_fires_when_its_envelope_is_done_and_not_before(self) -> None:
        first, second = make_envelope(1), make_envelope(1)
        published = [self.queue.publish(first), self.queue.publish(second)]
        held = self.receive(1)
        assert not published[0].called
        self.queue.ack(held[:1])
        result_of(published[0])
        assert not published[1].called

    def test_a_publish_fails_when_its_envelope_is_refused(self) -> None:
        published = self.queue.publish(make_envelope(1))
        reason = NotStored("refused")
        self.queue.reject(self.receive(1)[0], reason)
        with pytest.raises(NotStored) as refused:
            result_of(published)
        assert refused.value is reason

    def test_publishing_twice_under_way_waits_for_the_same_commit(self) -> None:
        envelope = make_envelope(1)
        published = [self.queue.publish(envelope), self.queue.publish(envelope)]
        self.queue.ack(self.receive(1))
        for one in published:
            result_of(one)

    def test_a_shard_has_one_receiver(self) -> None:
        waiting = self.queue.receive(1)
        with pytest.raises(RuntimeError):
            self.queue.receive(1)
        waiting.cancel()
        with pytest.raises(CancelledError):
            result_of(waiting)
        self.queue.receive(1)

    def test_it_tells_what_is_not_settled(self) -> None:
        for room in (1, 1, 3):
            self.queue.publish(make_envelope(room))
        held = self.receive(1)
        assert [self.queue.backlog(room) for room in (1, 2, 3)] == [2, 0, 1]
        self.queue.ack(held)
        assert [self.queue.backlog(room) for room in (1, 2, 3)] == [0, 0, 1]

    def test_closing_refuses_what_is_not_settled_and_what_comes(self) -> None:
        held, waiting = self.queue.publish(make_envelope(1)), self.queue.publish(make_envelope(2))
        deliveries = self.receive(1)
        self.queue.close()
        with pytest.raises(Unavailable):
            result_of(held)
        with pytest.raises(Unavailable):
            result_of(waiting)
        with pytest.raises(Unavailable):
            result_of(self.queue.publish(make_envelope(1)))
        self.queue.ack(deliveries)  # the consumer may still end its work
        assert [self.queue.backlog(room) for room in (1, 2)] == [0, 1]

    def test_who_publishes_or_receives_anew_when_told_is_served(self) -> None:
        order: list[str] = []

        def publish_next(_: object) -> None:
            order.append("published")
            self.queue.publish(make_envelope(1, "next"))

        self.queue.publish(make_envelope(1)).addCallback(publish_next)
        held = self.receive(1)
        receiving = self.queue.receive(1)
        assert not receiving.called
        self.queue.ack(held)
        assert order == ["published"]
        (delivery,) = result_of(receiving)
        assert delivery.envelope.messages[0].text == "next"


class TestFanoutContract(FanoutContract):
    """There is nobody else to tell."""

    @pytest.fixture
    def instances(self) -> list[Instance]:
        return [Instance(NoFanout())]
