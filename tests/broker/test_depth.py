"""How deep queues are: asked seldom."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from attrs import define, field
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import Clock

from chatflow.broker.depth import EmbeddedDepths, SqsDepths, ask_depth
from chatflow.broker.embedded_queue import EmbeddedRoomQueue
from chatflow.broker.names import Names
from chatflow.contracts.room_queue import Depth
from chatflow.errors import Unavailable
from tests.support.chat import make_envelope
from tests.support.cloud import direct_client, make_objects, shared_aws
from tests.support.reactor import on_reactor


@define
class Sqs:
    """Answers when the test says so; ``asked``: how often for each queue."""

    asked: Counter[str] = field(factory=Counter)
    waiting: list[tuple[str, Deferred[dict[str, Any]]]] = field(factory=list)

    async def sqs(self, operation: str, **arguments: Any) -> dict[str, Any]:
        assert operation == "get_queue_attributes"
        url = arguments["QueueUrl"]
        self.asked[url] += 1
        answer: Deferred[dict[str, Any]] = Deferred()
        self.waiting.append((url, answer))
        return await answer

    async def sns(self, operation: str, **arguments: Any) -> dict[str, Any]:
        raise AssertionError(operation)

    def answer(self, messages: int) -> None:
        """To the one call that waits."""
        ((_, answer),) = self.waiting
        self.waiting.clear()
        answer.callback({"Attributes": {"ApproximateNumberOfMessages": str(messages)}})

    def fail(self) -> None:
        ((_, answer),) = self.waiting
        self.waiting.clear()
        answer.errback(Unavailable("AWS is away"))


@pytest.fixture
def sqs() -> Sqs:
    return Sqs()


@pytest.fixture
def clock() -> Clock:
    return Clock()


def make_depths(sqs: Sqs, clock: Clock, room_queues: int = 0) -> SqsDepths:
    names = Names("p", 3, room_queues)
    urls = {shard: f"url-{shard}" for shard in names.shards}
    return SqsDepths(clock=clock, calls=sqs, names=names, urls=lambda: urls, keep_seconds=10)


def ask(depths: SqsDepths, room: int) -> Deferred[Depth]:
    return Deferred.fromCoroutine(depths.of(room))


class TestSqsDepths:
    @on_reactor
    async def test_however_many_ask_there_is_one_call(self, sqs: Sqs, clock: Clock) -> None:
        depths = make_depths(sqs, clock)
        asked = [ask(depths, 1) for _ in range(50)]
        sqs.answer(7)
        assert await gatherResults(asked) == [Depth("url-1", 7)] * 50
        assert sqs.asked == {"url-1": 1}

    @on_reactor
    async def test_what_is_known_is_told_again_for_some_seconds_and_then_asked_anew(
        self, sqs: Sqs, clock: Clock
    ) -> None:
        depths = make_depths(sqs, clock)
        first = ask(depths, 1)
        sqs.answer(7)
        await first
        clock.advance(9.9)
        assert (await depths.of(1)).waiting == 7
        clock.advance(0.2)
        second = ask(depths, 1)
        sqs.answer(8)
        assert (await second).waiting == 8
        assert sqs.asked == {"url-1": 2}

    @on_reactor
    async def test_a_failure_is_told_and_makes_no_storm_either(self, sqs: Sqs, clock: Clock) -> None:
        depths = make_depths(sqs, clock)
        asked = [ask(depths, 1) for _ in range(5)]
        sqs.fail()
        for each in asked:
            with pytest.raises(Unavailable, match="AWS is away"):
                await each
        assert sqs.asked == {"url-1": 1}
        clock.advance(10)
        again = ask(depths, 1)
        sqs.answer(0)
        assert await again == Depth("url-1")

    @on_reactor
    async def test_calls_are_made_one_at_a_time(self, sqs: Sqs, clock: Clock) -> None:
        depths = make_depths(sqs, clock)
        asked = [ask(depths, room) for room in (1, 2, 3)]
        for messages in (1, 2, 3):
            assert len(sqs.waiting) == 1
            sqs.answer(messages)
        assert [one.waiting for one in await gatherResults(asked)] == [1, 2, 3]

    @on_reactor
    async def test_rooms_that_share_a_queue_share_the_answer(self, sqs: Sqs, clock: Clock) -> None:
        depths = make_depths(sqs, clock, room_queues=2)
        asked = [ask(depths, room) for room in (1, 3)]
        sqs.answer(4)
        assert await gatherResults(asked) == [Depth("url-1", 4)] * 2
        assert sqs.asked == {"url-1": 1}

    @on_reactor
    async def test_sqs_tells_what_waits_and_what_is_with_a_consumer(self) -> None:
        names = make_objects(rooms=1)
        client = direct_client("sqs")
        url = client.get_queue_url(QueueName=names.room_queue(1))["QueueUrl"]
        for number in range(5):
            client.send_message(QueueUrl=url, MessageBody="x", MessageGroupId="1", MessageDeduplicationId=str(number))
        client.receive_message(QueueUrl=url, MaxNumberOfMessages=2)
        assert await ask_depth(shared_aws(), url) == Depth(url, waiting=3, in_flight=2)


@on_reactor
async def test_of_the_embedded_queue_what_is_not_settled_waits() -> None:
    queue = EmbeddedRoomQueue(3)
    for _ in range(2):
        queue.publish(make_envelope(2))
    assert await EmbeddedDepths(queue).of(2) == Depth(waiting=2)
    assert await EmbeddedDepths(queue).of(1) == Depth()
