"""The embedded room queue keeps the contract, and what is its own: published means committed."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from twisted.trial.unittest import SynchronousTestCase

from chatflow.broker.embedded_queue import EmbeddedRoomQueue, NoFanout
from chatflow.contracts.room_queue import Delivery
from chatflow.errors import NotStored, Unavailable
from tests.broker.contract_fanout import FanoutContract, Instance
from tests.broker.contract_room_queue import RoomQueueContract
from tests.support.chat import make_envelope


class TestContract(RoomQueueContract):
    """Everything happens at once, so there is nothing to wait for."""

    @pytest.fixture
    def queue(self) -> EmbeddedRoomQueue:
        return EmbeddedRoomQueue(2)

    @pytest.fixture
    def queue_of_twenty_rooms(self) -> EmbeddedRoomQueue:
        return EmbeddedRoomQueue(20)


class EmbeddedRoomQueueTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.queue = EmbeddedRoomQueue(3)

    def receive(self, room: int) -> list[Delivery]:
        deliveries: Sequence[Delivery] = self.successResultOf(self.queue.receive(room))
        return list(deliveries)

    def test_every_room_has_a_shard(self) -> None:
        self.assertEqual(list(self.queue.shards), [1, 2, 3])

    def test_a_publish_fires_when_its_envelope_is_done_and_not_before(self) -> None:
        first, second = make_envelope(1), make_envelope(1)
        published = [self.queue.publish(first), self.queue.publish(second)]
        held = self.receive(1)
        self.assertNoResult(published[0])
        self.queue.ack(held[:1])
        self.successResultOf(published[0])
        self.assertNoResult(published[1])

    def test_a_publish_fails_when_its_envelope_is_refused(self) -> None:
        published = self.queue.publish(make_envelope(1))
        reason = NotStored("refused")
        self.queue.reject(self.receive(1)[0], reason)
        self.assertIs(self.failureResultOf(published).value, reason)

    def test_publishing_twice_under_way_waits_for_the_same_commit(self) -> None:
        envelope = make_envelope(1)
        published = [self.queue.publish(envelope), self.queue.publish(envelope)]
        self.queue.ack(self.receive(1))
        for one in published:
            self.successResultOf(one)

    def test_a_shard_has_one_receiver(self) -> None:
        waiting = self.queue.receive(1)
        self.assertRaises(RuntimeError, self.queue.receive, 1)
        waiting.cancel()
        self.failureResultOf(waiting)
        self.queue.receive(1)

    def test_it_tells_what_is_not_settled(self) -> None:
        for room in (1, 1, 3):
            self.queue.publish(make_envelope(room))
        held = self.receive(1)
        self.assertEqual([self.queue.backlog(room) for room in (1, 2, 3)], [2, 0, 1])
        self.queue.ack(held)
        self.assertEqual([self.queue.backlog(room) for room in (1, 2, 3)], [0, 0, 1])

    def test_closing_refuses_what_is_not_settled_and_what_comes(self) -> None:
        held, waiting = self.queue.publish(make_envelope(1)), self.queue.publish(make_envelope(2))
        deliveries = self.receive(1)
        self.queue.close()
        self.failureResultOf(held, Unavailable)
        self.failureResultOf(waiting, Unavailable)
        self.failureResultOf(self.queue.publish(make_envelope(1)), Unavailable)
        self.queue.ack(deliveries)  # the consumer may still end its work
        self.assertEqual([self.queue.backlog(room) for room in (1, 2)], [0, 1])

    def test_who_publishes_or_receives_anew_when_told_is_served(self) -> None:
        order: list[str] = []

        def publish_next(_: object) -> None:
            order.append("published")
            self.queue.publish(make_envelope(1, "next"))

        self.queue.publish(make_envelope(1)).addCallback(publish_next)
        held = self.receive(1)
        receiving = self.queue.receive(1)
        self.assertNoResult(receiving)
        self.queue.ack(held)
        self.assertEqual(order, ["published"])
        (delivery,) = self.successResultOf(receiving)
        self.assertEqual(delivery.envelope.messages[0].text, "next")


class TestFanoutContract(FanoutContract):
    """There is nobody else to tell."""

    @pytest.fixture
    def instances(self) -> list[Instance]:
        return [Instance(NoFanout())]
