"""The fan-out on SNS keeps the contract on an emulator over HTTP; it counts what it loses, and gets over the rest."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any
from unittest import mock

import pytest
import pytest_twisted
from attrs import define, field
from twisted.internet.defer import Deferred

from chatflow.broker.names import Names
from chatflow.broker.pacing import Pace
from chatflow.broker.sns import SnsFanout, topic_arn_in_thread
from chatflow.errors import StartupError, Unavailable
from tests.broker.contract_fanout import FanoutContract, Instance
from tests.support.chat import make_stored
from tests.support.cloud import direct_client, make_objects, shared_aws, start_aws
from tests.support.emulator import fresh_prefix
from tests.support.fault_proxy import FaultProxy
from tests.support.reactor import LoggedFailures, on_reactor, reactor, until


@define(eq=False)
class Peer(Instance):
    """An instance, with the queues that it registered."""

    registered: list[str] = field(factory=list)

    @property
    def queue(self) -> str:
        """Its present fan-out queue."""
        return self.registered[-1]

    async def hears(self) -> None:
        await until(lambda: self.fanout.hears, "the probe comes back")


def steady_pace(gap_seconds: float) -> Pace:
    """A pace whose gap stays as it is: instances that poll briefly and often end soon."""
    pace = Pace(clock=reactor, max_gap_seconds=gap_seconds, calls_per_second=1e-9)
    pace.gap_seconds = gap_seconds
    return pace


class Topic:
    """The topic of a prefix, with its instances."""

    def __init__(self) -> None:
        self.names = make_objects(rooms=1)
        self.peers: list[Peer] = []

    def make(self, **options: Any) -> Peer:
        """An instance that is not started."""
        peer = Peer(None)

        def register_now(start: str, queue: str) -> None:
            assert start in queue
            assert queue not in self.queues(), "it was made before it was registered"
            peer.registered.append(queue)

        async def register(start: str, queue: str) -> None:
            register_now(start, queue)

        usual: dict[str, Any] = {
            "aws": shared_aws(),
            "names": self.names,
            "pace": steady_pace(gap_seconds=0.04),
            "server_id": f"server{len(self.peers)}",
            "register": register,
            "register_now": register_now,
            "long_poll_seconds": 0,
        }
        peer.fanout = SnsFanout(clock=reactor, deliver=peer.heard.extend, **usual | options)
        self.peers.append(peer)
        return peer

    def start(self, **options: Any) -> Peer:
        """An instance that is started, and may not hear yet."""
        peer = self.make(**options)
        peer.fanout.start()
        return peer

    async def start_and_hear(self, **options: Any) -> Peer:
        """An instance that hears."""
        peer = self.start(**options)
        await peer.hears()
        return peer

    async def start_pair(self) -> tuple[Peer, Peer]:
        """Two instances that hear each other, with nothing in their queues."""
        one, two = self.start(), self.start()
        await one.hears()
        await two.hears()
        await until(lambda: not any(self.count(peer.queue) for peer in (one, two)), "all probes are deleted")
        return one, two

    def queues(self) -> list[str]:
        """All fan-out queues that there are."""
        found = direct_client("sqs").list_queues(QueueNamePrefix=self.names.fanout_prefix)
        return [url.rsplit("/", 1)[-1] for url in found.get("QueueUrls", ())]

    def url(self, queue: str) -> str:
        """Where a queue is."""
        return str(direct_client("sqs").get_queue_url(QueueName=queue)["QueueUrl"])

    def count(self, queue: str) -> int:
        """How many messages a queue has, in flight or not."""
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        got = direct_client("sqs").get_queue_attributes(QueueUrl=self.url(queue), AttributeNames=names)
        return sum(int(number) for number in got["Attributes"].values())

    def subscribed(self) -> list[str]:
        """The queues that are subscribed, whether they exist or not."""
        arn = topic_arn_in_thread(shared_aws().clients, self.names)
        found = direct_client("sns").list_subscriptions_by_topic(TopicArn=arn)["Subscriptions"]
        return [one["Endpoint"].rsplit(":", 1)[-1] for one in found]

    async def stop(self) -> None:
        """Stop every instance."""
        for peer in self.peers:
            await peer.fanout.detach()
        for peer in self.peers:
            await peer.fanout.stop()


@pytest_twisted.async_yield_fixture
async def topic(proxy: FaultProxy) -> AsyncIterator[Topic]:
    """A topic of the test's own. Probes are repeated soon."""
    topic = Topic()
    with mock.patch("chatflow.broker.sns._PROBE_SECONDS", 0.2):
        yield topic
        proxy.set_rules()
        await topic.stop()


@pytest_twisted.async_fixture
async def pair(topic: Topic) -> tuple[Peer, Peer]:
    """Two instances that hear each other, with nothing in their queues."""
    return await topic.start_pair()


async def reaches(one: Peer, two: Peer) -> None:
    """What the one publishes, the other hears."""
    news = make_stored(1)
    await one.fanout.publish([news])
    await until(lambda: news in two.heard, "it is heard")


class TestContract(FanoutContract):
    @pytest_twisted.async_fixture
    async def instances(self, topic: Topic) -> list[Peer]:
        peers = [topic.start() for _ in range(3)]
        for peer in peers:
            await peer.hears()
        return peers


class TestStart:
    @on_reactor
    async def test_an_instance_is_not_heard_of_until_its_probe_came_back(self, topic: Topic, proxy: FaultProxy) -> None:
        proxy.set_rules("PublishBatch:throttle=1,times=4")
        peer = topic.start()
        await until(lambda: proxy.injected("PublishBatch", "throttle") == 4, "two probes are lost")
        assert not peer.fanout.hears
        await peer.hears()
        assert topic.queues() == topic.subscribed() == [peer.queue]
        assert peer.fanout.counters.attachments == 1

    @on_reactor
    async def test_nor_when_its_queue_is_not_subscribed(self, topic: Topic, proxy: FaultProxy) -> None:
        peer = topic.start()
        await peer.hears()
        deaf = topic.make()
        with mock.patch.object(shared_aws().clients.sns_control, "subscribe", lambda **_: {"SubscriptionArn": "none"}):
            deaf.fanout.start()
        probes = proxy.faults.calls["PublishBatch"]
        await until(lambda: proxy.faults.calls["PublishBatch"] > probes + 2, "some probes are sent")
        assert not deaf.fanout.hears

    @on_reactor
    async def test_the_queue_is_named_after_instance_and_start_and_takes_messages_of_the_topic_only(
        self, topic: Topic
    ) -> None:
        peer = topic.start(server_id="blue")
        assert peer.queue.startswith(f"{topic.names.prefix}-fanout-blue-")
        got = direct_client("sqs").get_queue_attributes(QueueUrl=topic.url(peer.queue), AttributeNames=["All"])
        attributes = got["Attributes"]
        assert attributes["DeduplicationScope"] == "messageGroup"
        assert attributes["FifoThroughputLimit"] == "perMessageGroupId"
        assert int(attributes["MessageRetentionPeriod"]) <= 600
        assert int(attributes["VisibilityTimeout"]) <= 5, "a lost answer holds up its rooms for so long"
        assert f"{topic.names.topic}" in attributes["Policy"]
        assert direct_client("sqs").list_queue_tags(QueueUrl=topic.url(peer.queue))["Tags"] == topic.names.tags

    def test_without_a_topic_the_start_fails_and_says_what_makes_it(self, topic: Topic) -> None:
        peer = topic.make(names=Names(fresh_prefix(), 1))
        with pytest.raises(StartupError, match="chatflow-admin setup"):
            peer.fanout.start()
        assert not peer.registered

    def test_when_it_cannot_be_registered_the_start_fails_and_makes_nothing(self, topic: Topic) -> None:
        def register_now(start: str, queue: str) -> None:
            raise Unavailable("no database")

        with pytest.raises(StartupError, match="no database"):
            topic.make(register_now=register_now).fanout.start()
        assert topic.queues() == []


class TestPublishingWhenCallsFail:
    @pytest.mark.parametrize("fault", ["drop", "fail", "throttle", "reset", "partial"])
    @on_reactor
    async def test_a_call_that_fails_is_tried_once_more_and_heard_once(
        self, pair: tuple[Peer, Peer], proxy: FaultProxy, fault: str
    ) -> None:
        one, two = pair
        news = [make_stored(1, room) for room in range(1, 6)]
        proxy.set_rules(f"PublishBatch:{fault}=1,times=1")
        await one.fanout.publish(news)
        assert await two.has_heard(news) == news
        assert one.fanout.counters.publish_failures == 0

    @pytest.mark.parametrize("fault", ["fail", "throttle", "reset", "partial"])
    @on_reactor
    async def test_then_news_are_lost_and_counted_and_the_next_ones_are_heard(
        self, pair: tuple[Peer, Peer], proxy: FaultProxy, fault: str
    ) -> None:
        one, two = pair
        lost, heard = make_stored(1), make_stored(2)
        before = one.fanout.counters.published
        proxy.set_rules(f"PublishBatch:{fault}=1")
        await one.fanout.publish([lost])
        proxy.set_rules()
        await one.fanout.publish([heard])
        assert await two.has_heard([heard]) == [heard]
        assert one.fanout.counters.publish_failures == 1
        assert one.fanout.counters.published == before + 1

    @on_reactor
    async def test_publishing_fires_even_when_calls_have_stopped(self, topic: Topic) -> None:
        aws = start_aws(polls=1, sends=2)
        peer = await topic.start_and_hear(aws=aws)
        await peer.fanout.detach()
        await peer.fanout.stop()
        await aws.stop()
        await peer.fanout.publish([make_stored(1)])
        assert peer.fanout.counters.publish_failures == 1

    @on_reactor
    async def test_rooms_of_one_flush_share_calls_as_do_flushes_during_a_call(
        self, pair: tuple[Peer, Peer], proxy: FaultProxy
    ) -> None:
        one, two = pair
        calls = proxy.faults.calls
        before = calls["PublishBatch"]
        flushes = [[make_stored(flush, room) for room in range(1, 6)] for flush in range(1, 7)]
        published = [one.fanout.publish(flush) for flush in flushes]
        for done in published:
            await done
        # Five rooms: at most ten entries, and the messages of a room are one entry.
        assert calls["PublishBatch"] - before <= 2
        await two.has_heard([message for flush in flushes for message in flush])

    @on_reactor
    async def test_the_group_is_the_room_and_a_second_try_has_the_same_deduplication_id(
        self, topic: Topic, proxy: FaultProxy, publishes: list[dict[str, Any]]
    ) -> None:
        peer = await topic.start_and_hear()
        publishes.clear()
        proxy.set_rules("PublishBatch:drop=1,times=1")
        await peer.fanout.publish([make_stored(1, room) for room in (3, 1, 2)])
        first, second = (one["PublishBatchRequestEntries"] for one in publishes)
        assert first == second
        assert [entry["MessageGroupId"] for entry in first] == ["3", "1", "2"]
        assert len({entry["MessageDeduplicationId"] for entry in first}) == 3


class TestHearingWhenCallsFail:
    @pytest.mark.parametrize("fault", ["fail", "throttle", "reset"])
    @on_reactor
    async def test_listening_goes_on_after_receives_that_failed(
        self, pair: tuple[Peer, Peer], proxy: FaultProxy, fault: str
    ) -> None:
        one, two = pair
        proxy.set_rules(f"ReceiveMessage:{fault}=1,times=3")
        await until(lambda: proxy.injected("ReceiveMessage", fault) == 3, "three receives fail")
        await reaches(one, two)
        assert two.fanout.hears

    @pytest.mark.parametrize("fault", ["fail", "throttle", "reset", "partial", "drop"])
    @on_reactor
    async def test_a_delete_that_failed_does_not_hold_up_its_rooms(
        self, topic: Topic, proxy: FaultProxy, fault: str
    ) -> None:
        """While a message is not deleted, nothing of its group is given."""
        with mock.patch("chatflow.broker.sns._VISIBILITY_SECONDS", 600):
            one, two = await topic.start_pair()
        proxy.set_rules(f"DeleteMessageBatch:{fault}=1,times=1")
        for _ in range(2):
            await reaches(one, two)
        assert proxy.injected("DeleteMessageBatch", fault) == 1

    @on_reactor
    async def test_a_receive_whose_answer_was_lost_is_repeated_as_the_same_attempt(
        self, topic: Topic, proxy: FaultProxy, receives: list[dict[str, Any]]
    ) -> None:
        await topic.start_and_hear()
        proxy.set_rules("ReceiveMessage:drop=1,times=2")
        await until(lambda: proxy.injected("ReceiveMessage", "drop") == 2, "two answers are lost")
        await until(lambda: len(receives) > 9, "some more receives")
        attempts = [one["ReceiveRequestAttemptId"] for one in receives]
        # The same for the two, and for the one after them; another for each of the others.
        assert len(attempts) - len(set(attempts)) == 2

    @on_reactor
    async def test_what_a_lost_answer_held_comes_again(self, topic: Topic, proxy: FaultProxy) -> None:
        """Where the attempt is not recognised, as on the emulator, after the visibility."""
        with mock.patch("chatflow.broker.sns._VISIBILITY_SECONDS", 1):
            one, two = await topic.start_and_hear(), await topic.start_and_hear()
        proxy.set_rules("ReceiveMessage:drop=1,times=6")
        await reaches(one, two)

    @on_reactor
    async def test_what_is_no_news_is_passed_over(self, topic: Topic, pair: tuple[Peer, Peer]) -> None:
        one, two = pair
        direct_client("sqs").send_message(
            QueueUrl=topic.url(two.queue), MessageBody="poison", MessageGroupId="1", MessageDeduplicationId="poison"
        )
        await reaches(one, two)

    @on_reactor
    async def test_what_was_heard_is_counted_and_timed(self, pair: tuple[Peer, Peer]) -> None:
        one, two = pair
        began = reactor.seconds()
        news = [make_stored(1), make_stored(2), make_stored(1, room=2)]
        await one.fanout.publish(news)
        await two.has_heard(news)
        assert two.fanout.counters.received == 3
        assert 0 <= two.fanout.counters.latency_seconds <= reactor.seconds() - began + 1


class TestAttachingAgain:
    @on_reactor
    async def test_when_the_queue_is_gone_another_is_made_and_meanwhile_it_does_not_hear(
        self, topic: Topic, pair: tuple[Peer, Peer], proxy: FaultProxy
    ) -> None:
        one, two = pair
        gone = two.queue
        proxy.set_rules("PublishBatch:throttle=1")  # no probe
        direct_client("sqs").delete_queue(QueueUrl=topic.url(gone))
        await until(lambda: not two.fanout.hears, "it notices")
        await until(lambda: two.queue != gone and two.queue in topic.subscribed(), "another queue is subscribed")
        assert not two.fanout.hears
        proxy.set_rules()
        await two.hears()
        await reaches(one, two)
        assert sorted(topic.queues()) == sorted(topic.subscribed()) == sorted([one.queue, two.queue])
        assert two.fanout.counters.attachments == 2

    @on_reactor
    async def test_who_was_taken_for_dead_leaves_its_queue_for_another(
        self, topic: Topic, pair: tuple[Peer, Peer]
    ) -> None:
        one, two = pair
        attached = Deferred.fromCoroutine(two.fanout.attach_again())
        assert not two.fanout.hears
        await attached
        await two.hears()
        await reaches(one, two)
        assert sorted(topic.queues()) == sorted(topic.subscribed()) == sorted([one.queue, two.queue])

    @on_reactor
    async def test_told_twice_it_makes_one_queue(self, topic: Topic) -> None:
        """A reaper deletes the entry and the queue: heartbeat and listener notice at about the same time."""
        peer = await topic.start_and_hear()
        both = [Deferred.fromCoroutine(peer.fanout.attach_again()) for _ in range(2)]
        for one in both:
            await one
        await peer.hears()
        assert topic.queues() == topic.subscribed() == [peer.queue]
        assert len(peer.registered) == 2

    @on_reactor
    async def test_that_the_former_queue_is_gone_is_no_news(self, topic: Topic, proxy: FaultProxy) -> None:
        peer = await topic.start_and_hear()
        receives = proxy.faults.calls["ReceiveMessage"]
        proxy.set_rules("ReceiveMessage:delay_ms=1000,times=1")
        await until(lambda: proxy.faults.calls["ReceiveMessage"] > receives, "a receive is under way")
        await peer.fanout.attach_again()
        await peer.hears()
        assert peer.fanout.counters.attachments == 2
        assert topic.queues() == [peer.queue]

    @on_reactor
    async def test_it_is_tried_until_it_succeeds(
        self, topic: Topic, proxy: FaultProxy, logged_failures: LoggedFailures
    ) -> None:
        peer = await topic.start_and_hear()
        before = peer.queue
        sns = shared_aws().clients.sns_control
        with mock.patch.object(
            sns, "subscribe", side_effect=[RuntimeError("injected"), mock.DEFAULT], wraps=sns.subscribe
        ):
            await peer.fanout.attach_again()
        await peer.hears()
        assert peer.queue != before
        assert topic.subscribed() == [peer.queue]
        assert len(logged_failures.events) == 1
        logged_failures.events.clear()


class TestStop:
    @on_reactor
    async def test_subscription_and_queue_are_removed_and_nothing_is_heard_any_more(
        self, topic: Topic, pair: tuple[Peer, Peer]
    ) -> None:
        one, two = pair
        assert await two.fanout.detach()
        assert not two.fanout.hears
        assert topic.queues() == topic.subscribed() == [one.queue]
        await one.fanout.publish([make_stored(1)])
        await two.fanout.stop()
        assert two.heard == []

    @on_reactor
    async def test_what_is_flushed_last_is_still_published(self, pair: tuple[Peer, Peer]) -> None:
        one, two = pair
        detached = one.fanout.detach()
        await reaches(one, two)
        await detached

    @on_reactor
    async def test_when_it_cannot_be_removed_that_is_told(self, topic: Topic, proxy: FaultProxy) -> None:
        peer = await topic.start_and_hear()
        with mock.patch.object(shared_aws().clients.sns_control, "unsubscribe", side_effect=RuntimeError("injected")):
            assert not await peer.fanout.detach()

    @on_reactor
    async def test_an_attachment_under_way_is_removed_too(self, topic: Topic) -> None:
        async def register(start: str, queue: str) -> None:
            await peer.fanout.detach()

        peer = await topic.start_and_hear(register=register)
        await peer.fanout.attach_again()
        await peer.fanout.stop()
        assert topic.queues() == topic.subscribed() == []
        assert not peer.fanout.hears

    @on_reactor
    async def test_detaching_what_never_attached_is_harmless(self, topic: Topic) -> None:
        peer = topic.make()
        assert await peer.fanout.detach()
        await peer.fanout.stop()
