"""What every room queue promises (:class:`chatflow.contracts.room_queue.IRoomQueue`), as tests of any implementation.

Bind it with a subclass whose name begins with ``Test``. Nothing here asks how many envelopes a queue gives at a time
or when a publish fires, as long as it does: implementations differ in both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from zope.interface.verify import verifyObject

from chatflow.codec import envelopes as codec
from chatflow.codec.packing import MAX_BODY_BYTES
from chatflow.contracts.envelopes import MAX_CONTENT_BYTES, Envelope, content_bytes
from chatflow.contracts.room_queue import Delivery, IRoomQueue
from chatflow.errors import NotStored
from tests.support.chat import make_envelope, make_message
from tests.support.reactor import on_reactor

_MOST_AT_A_TIME = 10


class RoomQueueContract:
    """Give the fixture ``queue``, and the methods whose defaults do not fit."""

    @pytest.fixture
    def queue(self) -> Any:
        """A queue with rooms 1 and 2 and nothing in it; started, and stopped after the test."""
        raise NotImplementedError

    @pytest.fixture
    def queue_of_twenty_rooms(self) -> Any:
        """The same with rooms 1 to 20."""
        raise NotImplementedError

    def as_another_instance(self, queue: Any) -> Any:
        """The same rooms as another instance of the cluster has them; where there is only one, its queue."""
        return queue

    def shard_of(self, room: int) -> object:
        """Which shard a room's envelopes come from."""
        return room

    async def idle(self) -> None:
        """Return when everything that would be delivered by now has been; such as after an empty poll."""

    # Helpers

    async def receive(self, queue: Any, room: int) -> list[Delivery]:
        """The next deliveries of the room's shard; not none."""
        deliveries: Sequence[Delivery] = []
        while not deliveries:
            deliveries = await queue.receive(self.shard_of(room))
        return list(deliveries)

    async def receive_two_or_more(self, queue: Any, room: int) -> list[Delivery]:
        """A queue may give fewer than it has, though not for ever."""
        while len(deliveries := await self.receive(queue, room)) < 2:
            await queue.nack(deliveries)
        return deliveries

    async def receive_and_settle(self, queue: Any, room: int, last: Envelope) -> list[Envelope]:
        """Receive and settle until ``last`` has come; everything that came."""
        received: list[Envelope] = []
        while last not in received:
            deliveries = await self.receive(queue, room)
            received += envelopes(deliveries)
            await queue.ack(deliveries)
        return received

    async def receive_all(self, queue: Any, other: Any, sent: Sequence[Envelope]) -> list[Envelope]:
        """Receive and settle all of these, half of the shards at the one and half at the other; each comes once."""
        received: list[Envelope] = []

        async def work(instance: Any, shard: object) -> None:
            left = sum(self.shard_of(envelope.room) == shard for envelope in sent)
            while left:
                deliveries = await instance.receive(shard)
                received.extend(envelopes(deliveries))
                await instance.ack(deliveries)
                left -= len(deliveries)

        shards = {self.shard_of(envelope.room) for envelope in sent}
        workers = [work(other if index % 2 else queue, shard) for index, shard in enumerate(shards)]
        await gatherResults([Deferred.fromCoroutine(worker) for worker in workers])
        assert sorted(received, key=ids) == sorted(sent, key=ids)
        return received

    def begin_to_receive(self, queue: Any, room: int) -> Deferred[list[Delivery]]:
        """The next deliveries, when they come."""
        return Deferred.fromCoroutine(self.receive(queue, room))

    # Promises

    def test_it_is_a_room_queue(self, queue: Any) -> None:
        assert verifyObject(IRoomQueue, queue)
        assert {self.shard_of(1), self.shard_of(2)} <= set(queue.shards)
        assert queue.wait_seconds(1) >= 0

    @on_reactor
    async def test_an_envelope_arrives_as_it_was_published_and_the_publish_fires(self, queue: Any) -> None:
        message = make_message('😀 "\\\n\x01\u2028', client_ip="::1", client_message_id="own", message_type="LEAVE")
        envelope = make_envelope(2, messages=(message, make_message("x" * 500)))
        published = publish(queue, envelope)
        assert await self.receive_and_settle(queue, 2, envelope) == [envelope]
        await published

    @on_reactor
    async def test_so_does_one_of_the_largest_size(self, queue: Any) -> None:
        envelope = largest_envelope()
        assert MAX_BODY_BYTES / 2 < len(codec.encode(envelope)) <= MAX_BODY_BYTES
        published = publish(queue, envelope)
        assert await self.receive_and_settle(queue, 1, envelope) == [envelope]
        await published

    @on_reactor
    async def test_ten_of_the_largest_size_share_a_call(self, queue_of_twenty_rooms: Any) -> None:
        queue = queue_of_twenty_rooms
        sent = [largest_envelope(room) for room in range(1, 11)]
        published = publish(queue, *sent)
        await self.receive_all(queue, queue, sent)
        await published

    @on_reactor
    async def test_twenty_rooms_at_once_keep_their_order_each(self, queue_of_twenty_rooms: Any) -> None:
        queue, other = queue_of_twenty_rooms, self.as_another_instance(queue_of_twenty_rooms)
        sent = [make_envelope(room, f"{room}:{number}") for number in range(15) for room in range(1, 21)]
        published = publish(queue, *sent)
        received = await self.receive_all(queue, other, sent)
        for room in range(1, 21):
            assert texts([one for one in received if one.room == room]) == [f"{room}:{n}" for n in range(15)]
        await published

    @on_reactor
    async def test_a_room_is_received_in_the_order_of_its_publishing_at_most_ten_at_a_time(self, queue: Any) -> None:
        sent = [make_envelope(1, str(number)) for number in range(25)]
        published = publish(queue, *sent)
        received: list[Envelope] = []
        while len(received) < len(sent):
            deliveries = await self.receive(queue, 1)
            assert len(deliveries) <= _MOST_AT_A_TIME
            received += envelopes(deliveries)
            await queue.ack(deliveries)
        assert texts(received) == texts(sent)
        await published

    @on_reactor
    async def test_who_waits_is_given_what_is_published(self, queue: Any) -> None:
        waiting = self.begin_to_receive(queue, 1)
        await self.idle()
        envelope = make_envelope(1)
        published = publish(queue, envelope)
        deliveries = await waiting
        assert envelopes(deliveries) == [envelope]
        await queue.ack(deliveries)
        await published

    @on_reactor
    async def test_while_a_room_is_held_nobody_else_is_given_any_of_it(self, queue: Any) -> None:
        first, second = make_envelope(1, "first"), make_envelope(1, "second")
        publish(queue, first)
        held = await self.receive(queue, 1)
        publish(queue, second)
        other = self.as_another_instance(queue)
        waiting = self.begin_to_receive(other, 1)
        await self.idle()
        assert not waiting.called
        await queue.ack(held)
        deliveries = await waiting
        assert envelopes(deliveries) == [second]
        await other.ack(deliveries)

    @on_reactor
    async def test_so_it_is_while_only_some_of_what_is_held_is_settled(self, queue: Any) -> None:
        sent = [make_envelope(1, str(number)) for number in range(12)]
        publish(queue, *sent)
        held = await self.receive_two_or_more(queue, 1)
        await queue.ack(held[:1])
        other = self.as_another_instance(queue)
        waiting = self.begin_to_receive(other, 1)
        await self.idle()
        assert not waiting.called
        await queue.ack(held[1:])
        deliveries = await waiting
        assert envelopes(deliveries)[0] == sent[sent.index(held[-1].envelope) + 1]
        await other.ack(deliveries)

    @on_reactor
    async def test_a_room_that_is_held_holds_up_no_other(self, queue: Any) -> None:
        one, two = make_envelope(1), make_envelope(2)
        publish(queue, one)
        held = await self.receive(queue, 1)
        publish(queue, two)
        assert await self.receive_and_settle(queue, 2, two) == [two]
        await queue.ack(held)

    @on_reactor
    async def test_what_is_done_does_not_come_again(self, queue: Any) -> None:
        first, second = make_envelope(1, "first"), make_envelope(1, "second")
        published = publish(queue, first)
        await self.receive_and_settle(queue, 1, first)
        await published
        publish(queue, second)
        assert await self.receive_and_settle(queue, 1, second) == [second]

    @on_reactor
    async def test_what_is_given_back_comes_again_in_order_to_whoever_asks(self, queue: Any) -> None:
        sent = [make_envelope(1, str(number)) for number in range(3)]
        published = publish(queue, *sent[:2])
        await queue.nack(await self.receive(queue, 1))
        other = self.as_another_instance(queue)
        await other.nack(await self.receive(other, 1))
        last = publish(queue, sent[2])
        received = await self.receive_and_settle(queue, 1, sent[2])
        assert texts(received) == ["0", "1", "2"]
        await published
        await last

    @on_reactor
    async def test_it_comes_to_who_waits_already(self, queue: Any) -> None:
        envelope = make_envelope(1)
        publish(queue, envelope)
        held = await self.receive(queue, 1)
        other = self.as_another_instance(queue)
        waiting = self.begin_to_receive(other, 1)
        await queue.nack(held)
        deliveries = await waiting
        assert envelopes(deliveries) == [envelope]
        await other.ack(deliveries)

    @on_reactor
    async def test_of_what_is_held_some_may_be_done_and_the_rest_given_back(self, queue: Any) -> None:
        sent = [make_envelope(1, str(number)) for number in range(5)]
        publish(queue, *sent)
        held = await self.receive_two_or_more(queue, 1)
        await queue.ack(held[:1])
        await queue.nack(held[1:])
        assert texts(await self.receive_and_settle(queue, 1, sent[-1])) == ["1", "2", "3", "4"]

    @on_reactor
    async def test_settling_again_is_harmless(self, queue: Any) -> None:
        first, second, third = (make_envelope(1, text) for text in ("first", "second", "third"))
        publish(queue, first)
        done = await self.receive(queue, 1)
        await queue.ack(done)
        await queue.ack(done)
        await queue.ack([])
        publish(queue, second)
        held = await self.receive(queue, 1)
        assert envelopes(held) == [second]
        await queue.ack(done)
        # Nor did that let go of the room.
        publish(queue, third)
        waiting = self.begin_to_receive(self.as_another_instance(queue), 1)
        await self.idle()
        assert not waiting.called
        await queue.ack(held)
        assert envelopes(await waiting) == [third]

    @on_reactor
    async def test_one_that_is_refused_does_not_come_again_and_the_others_go_on(self, queue: Any) -> None:
        sent = [make_envelope(1, str(number)) for number in range(4)]
        published = [queue.publish(envelope).addErrback(as_value(NotStored)) for envelope in sent]
        held = await self.receive_two_or_more(queue, 1)
        await queue.ack(held[:1])
        await queue.reject(held[1], NotStored("the database refused it"))
        await queue.nack(held[2:])
        assert texts(await self.receive_and_settle(queue, 1, sent[-1])) == ["2", "3"]
        first, second, *others = await gatherResults(published)
        assert not any([first, *others])
        # A queue that keeps what it accepts has told the publisher before.
        assert second is None or isinstance(second, NotStored)

    @on_reactor
    async def test_publishing_twice_under_way_is_publishing_once(self, queue: Any) -> None:
        first, second = make_envelope(1, "first"), make_envelope(1, "second")
        published = publish(queue, first, first, second)
        assert await self.receive_and_settle(queue, 1, second) == [first, second]
        await published

    @on_reactor
    async def test_publishing_again_what_is_done_fires_and_disturbs_nothing(self, queue: Any) -> None:
        first, second = make_envelope(1, "first"), make_envelope(1, "second")
        publish(queue, first)
        await self.receive_and_settle(queue, 1, first)
        published = publish(queue, first, second)
        received = await self.receive_and_settle(queue, 1, second)
        await published
        # A room's head would recognise a redelivery.
        assert received in ([second], [first, second])

    @on_reactor
    async def test_a_receive_that_is_cancelled_loses_nothing(self, queue: Any) -> None:
        sent = [make_envelope(1, str(number)) for number in range(3)]
        for _ in range(2):
            receiving = queue.receive(self.shard_of(1))
            receiving.cancel()
            with pytest.raises(CancelledError):
                await receiving
        published = publish(queue, *sent)
        assert texts(await self.receive_and_settle(queue, 1, sent[2])) == ["0", "1", "2"]
        await published

    @on_reactor
    async def test_nor_does_one_that_is_cancelled_when_something_may_be_on_its_way(self, queue: Any) -> None:
        sent = [make_envelope(1, str(number)) for number in range(2)]
        receiving = queue.receive(self.shard_of(1))
        outcome = receiving.addErrback(as_value(CancelledError))
        published = publish(queue, *sent)
        receiving.cancel()
        if not isinstance(given := await outcome, CancelledError):
            await queue.nack(given)
        assert texts(await self.receive_and_settle(queue, 1, sent[1])) == ["0", "1"]
        await published


def publish(queue: Any, *sent: Envelope) -> Deferred[list[None]]:
    """Publish in this order; fires when all are durable."""
    return gatherResults([queue.publish(envelope) for envelope in sent], consumeErrors=True)


def envelopes(deliveries: Sequence[Delivery]) -> list[Envelope]:
    return [delivery.envelope for delivery in deliveries]


def ids(envelope: Envelope) -> str:
    return envelope.envelope_id


def largest_envelope(room: int = 1) -> Envelope:
    """As many messages as fit, of text that can hardly be compressed and counts a byte a character."""
    random = Random(room)
    characters = [chr(number) for number in range(0x20, 0x7F) if chr(number) not in '"\\']
    messages = []
    left = MAX_CONTENT_BYTES
    while (left := left - content_bytes(message := make_message("".join(random.choices(characters, k=500))))) > 0:
        messages.append(message)
    return make_envelope(room, messages=tuple(messages))


def texts(sent: Sequence[Envelope]) -> list[str]:
    return [message.text for envelope in sent for message in envelope.messages]


def as_value(kind: type[Exception]) -> Callable[[Any], BaseException]:
    """An errback: failures of the kind become results."""

    def trap(failure: Any) -> BaseException:
        failure.trap(kind)
        error: BaseException = failure.value
        return error

    return trap
