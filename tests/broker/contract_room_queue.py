"""What every room queue promises (:class:`chatflow.broker.interfaces.IRoomQueue`), as tests of any implementation.

Bind it with a subclass of this and of :class:`twisted.trial.unittest.TestCase`. Nothing here asks how many envelopes a
queue gives at a time, or when a publish fires as long as it does: implementations differ in both.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import CancelledError, Deferred, gatherResults
from zope.interface.verify import verifyObject

from chatflow.broker.interfaces import Delivery, IRoomQueue
from chatflow.errors import NotStored
from chatflow.rooms.envelope import Envelope
from tests.support.chat import make_envelope, make_message

if TYPE_CHECKING:
    from twisted.trial.unittest import TestCase

    Base = TestCase
else:
    Base = object

_MOST_AT_A_TIME = 10


class RoomQueueContract(Base):
    """Give ``make_queue``, and the others where the defaults do not fit."""

    timeout = 60.0

    def make_queue(self) -> Any:
        """A queue with rooms 1 and 2 and nothing in it; started, and stopped after the test."""
        raise NotImplementedError

    def as_another_instance(self, queue: Any) -> Any:
        """The same rooms as another instance of the cluster has them; where there is only one, its queue."""
        return queue

    def lane_of(self, room: int) -> object:
        """Which lane a room's envelopes come from."""
        return room

    async def idle(self) -> None:
        """Return when everything that would be delivered by now has been; such as after an empty poll."""

    def setUp(self) -> None:
        super().setUp()
        self.queue = self.make_queue()

    # Helpers

    async def receive(self, room: int, queue: Any = None) -> list[Delivery]:
        """The next deliveries of the room's lane; not none."""
        deliveries: Sequence[Delivery] = []
        while not deliveries:
            deliveries = await (queue or self.queue).receive(self.lane_of(room))
        return list(deliveries)

    async def receive_and_settle(self, room: int, last: Envelope) -> list[Envelope]:
        """Receive and settle until ``last`` has come; everything that came."""
        received: list[Envelope] = []
        while last not in received:
            deliveries = await self.receive(room)
            received += envelopes(deliveries)
            await self.queue.done(deliveries)
        return received

    def begin(self, work: Coroutine[Any, Any, list[Delivery]]) -> Deferred[list[Delivery]]:
        """Begin to receive; cancelled after the test if it did not succeed."""
        receiving: Deferred[list[Delivery]] = Deferred.fromCoroutine(work)

        def end() -> Deferred[Any]:
            receiving.addErrback(lambda failure: failure.trap(CancelledError))
            receiving.cancel()
            return receiving

        self.addCleanup(end)
        return receiving

    def publish(self, *sent: Envelope) -> Deferred[list[None]]:
        """Publish in this order; fires when all are durable."""
        return gatherResults([self.queue.publish(envelope) for envelope in sent], consumeErrors=True)

    # Promises

    def test_it_is_a_room_queue(self) -> None:
        self.assertTrue(verifyObject(IRoomQueue, self.queue))
        self.assertEqual({self.lane_of(1), self.lane_of(2)} - set(self.queue.lanes), set())
        self.assertGreaterEqual(self.queue.wait_seconds(1), 0)

    async def test_an_envelope_arrives_as_it_was_published_and_the_publish_fires(self) -> None:
        message = make_message('😀 "\\\n\x01\u2028', client_ip="::1", client_message_id="own", message_type="LEAVE")
        envelope = make_envelope(2, messages=(message, make_message("x" * 500)))
        published = self.publish(envelope)
        self.assertEqual(await self.receive_and_settle(2, envelope), [envelope])
        await published

    async def test_a_room_is_received_in_the_order_of_its_publishing_and_at_most_ten_at_a_time(self) -> None:
        sent = [make_envelope(1, str(number)) for number in range(25)]
        published = self.publish(*sent)
        received: list[Envelope] = []
        while len(received) < len(sent):
            deliveries = await self.receive(1)
            self.assertLessEqual(len(deliveries), _MOST_AT_A_TIME)
            received += envelopes(deliveries)
            await self.queue.done(deliveries)
        self.assertEqual(texts(received), texts(sent))
        await published

    async def test_while_a_room_is_held_nobody_else_is_given_any_of_it(self) -> None:
        first, second = make_envelope(1, "first"), make_envelope(1, "second")
        self.publish(first)
        held = await self.receive(1)
        self.publish(second)
        other = self.as_another_instance(self.queue)
        waiting = self.begin(self.receive(1, other))
        await self.idle()
        self.assertFalse(waiting.called)
        await self.queue.done(held)
        deliveries = await waiting
        self.assertEqual(envelopes(deliveries), [second])
        await other.done(deliveries)

    async def test_so_it_is_while_only_some_of_what_is_held_is_settled(self) -> None:
        sent = [make_envelope(1, str(number)) for number in range(12)]
        self.publish(*sent)
        held = await self.receive_two_or_more(1)
        await self.queue.done(held[:1])
        other = self.as_another_instance(self.queue)
        waiting = self.begin(self.receive(1, other))
        await self.idle()
        self.assertFalse(waiting.called)
        await self.queue.done(held[1:])
        deliveries = await waiting
        self.assertEqual(envelopes(deliveries)[0], sent[sent.index(held[-1].envelope) + 1])
        await other.done(deliveries)

    async def receive_two_or_more(self, room: int) -> list[Delivery]:
        """A queue may give fewer than it has, though not for ever."""
        deliveries = await self.receive(room)
        while len(deliveries) < 2:
            await self.queue.again(deliveries)
            deliveries = await self.receive(room)
        return deliveries

    async def test_a_room_that_is_held_holds_up_no_other(self) -> None:
        one, two = make_envelope(1), make_envelope(2)
        self.publish(one)
        held = await self.receive(1)
        self.publish(two)
        self.assertEqual(await self.receive_and_settle(2, two), [two])
        await self.queue.done(held)

    async def test_what_is_done_does_not_come_again(self) -> None:
        first, second = make_envelope(1, "first"), make_envelope(1, "second")
        published = self.publish(first)
        await self.receive_and_settle(1, first)
        await published
        self.publish(second)
        self.assertEqual(await self.receive_and_settle(1, second), [second])

    async def test_what_is_given_back_comes_again_in_order_to_whoever_asks(self) -> None:
        sent = [make_envelope(1, str(number)) for number in range(3)]
        published = self.publish(*sent[:2])
        await self.queue.again(await self.receive(1))
        other = self.as_another_instance(self.queue)
        await other.again(await self.receive(1, other))
        last = self.publish(sent[2])
        received = await self.receive_and_settle(1, sent[2])
        self.assertEqual(texts(received), ["0", "1", "2"])
        await published
        await last

    async def test_of_what_is_held_some_may_be_done_and_the_rest_given_back(self) -> None:
        sent = [make_envelope(1, str(number)) for number in range(5)]
        self.publish(*sent)
        held = await self.receive_two_or_more(1)
        await self.queue.done(held[:1])
        await self.queue.again(held[1:])
        self.assertEqual(texts(await self.receive_and_settle(1, sent[-1])), ["1", "2", "3", "4"])

    async def test_settling_again_is_harmless(self) -> None:
        first, second, third = (make_envelope(1, text) for text in ("first", "second", "third"))
        self.publish(first)
        done = await self.receive(1)
        await self.queue.done(done)
        await self.queue.done(done)
        await self.queue.done([])
        self.publish(second)
        held = await self.receive(1)
        self.assertEqual(envelopes(held), [second])
        await self.queue.done(done)
        # Nor did that let go of the room.
        self.publish(third)
        waiting = self.begin(self.receive(1, self.as_another_instance(self.queue)))
        await self.idle()
        self.assertFalse(waiting.called)
        await self.queue.done(held)
        self.assertEqual(envelopes(await waiting), [third])

    async def test_one_that_is_refused_does_not_come_again_and_the_others_go_on(self) -> None:
        sent = [make_envelope(1, str(number)) for number in range(4)]
        published = [self.queue.publish(envelope).addErrback(as_value(NotStored)) for envelope in sent]
        held = await self.receive_two_or_more(1)
        await self.queue.done(held[:1])
        await self.queue.refused(held[1], NotStored("the database refused it"))
        await self.queue.again(held[2:])
        self.assertEqual(texts(await self.receive_and_settle(1, sent[-1])), ["2", "3"])
        first, second, *others = await gatherResults(published)
        self.assertEqual([first, *others], [None] * 3)
        # A queue that keeps what it accepts has told the publisher before.
        self.assertTrue(second is None or isinstance(second, NotStored))

    async def test_publishing_twice_under_way_is_publishing_once(self) -> None:
        first, second = make_envelope(1, "first"), make_envelope(1, "second")
        published = self.publish(first, first, second)
        self.assertEqual(await self.receive_and_settle(1, second), [first, second])
        await published

    async def test_publishing_again_what_is_done_fires_and_disturbs_nothing(self) -> None:
        first, second = make_envelope(1, "first"), make_envelope(1, "second")
        self.publish(first)
        await self.receive_and_settle(1, first)
        published = self.publish(first, second)
        received = await self.receive_and_settle(1, second)
        await published
        # A room's head would recognise a redelivery.
        self.assertIn(received, ([second], [first, second]))

    async def test_a_receive_that_is_cancelled_loses_nothing(self) -> None:
        sent = [make_envelope(1, str(number)) for number in range(3)]
        for _ in range(2):
            receiving = self.queue.receive(self.lane_of(1))
            receiving.cancel()
            await self.assertFailure(receiving, CancelledError)
        published = self.publish(*sent)
        self.assertEqual(texts(await self.receive_and_settle(1, sent[2])), ["0", "1", "2"])
        await published

    async def test_nor_does_one_that_is_cancelled_when_something_may_be_on_its_way(self) -> None:
        sent = [make_envelope(1, str(number)) for number in range(2)]
        receiving = self.queue.receive(self.lane_of(1))
        outcome = receiving.addErrback(as_value(CancelledError))
        published = self.publish(*sent)
        receiving.cancel()
        if not isinstance(given := await outcome, CancelledError):
            await self.queue.again(given)
        self.assertEqual(texts(await self.receive_and_settle(1, sent[1])), ["0", "1"])
        await published


def envelopes(deliveries: Sequence[Delivery]) -> list[Envelope]:
    return [delivery.envelope for delivery in deliveries]


def texts(sent: Sequence[Envelope]) -> list[str]:
    return [message.text for envelope in sent for message in envelope.messages]


def as_value(kind: type[Exception]) -> Callable[[Any], BaseException]:
    """An errback: failures of the kind become results."""

    def trap(failure: Any) -> BaseException:
        failure.trap(kind)
        error: BaseException = failure.value
        return error

    return trap
