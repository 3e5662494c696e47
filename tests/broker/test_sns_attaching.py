"""An instance notices that it does not hear, attaches anew, and leaves nothing behind when it stops."""

from __future__ import annotations

import json
from typing import Any
from unittest import mock

import pytest

from chatflow.broker.attachment import attach
from chatflow.broker.aws import Clients
from chatflow.broker.calls import BlockingCalls
from chatflow.broker.names import Names
from chatflow.broker.probing import ProbeTimes
from chatflow.broker.subscription import State
from chatflow.lifecycle import Backoff
from chatflow.lifecycle.blocking import at_once
from testbed.fault_proxy import FaultProxy
from tests.broker.topics import Peer, Topic, reaches
from tests.support.chat import make_stored
from tests.support.cloud import direct_client, shared_aws
from tests.support.reactor import LoggedFailures, on_reactor, until


class TestAttachingAgain:
    @on_reactor
    async def test_when_the_queue_is_gone_another_is_made_and_meanwhile_it_does_not_hear(
        self, topic: Topic, peers: tuple[Peer, Peer], proxy: FaultProxy
    ) -> None:
        one, two = peers
        gone = two.queue
        proxy.set_rules("PublishBatch:throttle=1")  # no probe
        direct_client("sqs").delete_queue(QueueUrl=topic.url(gone))
        await until(lambda: not two.fanout.is_subscribed, "it notices")
        await until(lambda: two.queue != gone and two.queue in topic.subscribed(), "another queue is subscribed")
        assert not two.fanout.is_subscribed
        proxy.set_rules()
        await two.is_live()
        await reaches(one, two)
        assert sorted(topic.queues()) == sorted(topic.subscribed()) == sorted([one.queue, two.queue])
        assert two.fanout.counters.attachments == 2

    @on_reactor
    async def test_who_was_taken_for_dead_leaves_its_queue_for_another(
        self, topic: Topic, peers: tuple[Peer, Peer]
    ) -> None:
        one, two = peers
        two.fanout.subscription_lost()
        assert not two.fanout.is_subscribed
        await two.is_live()
        await reaches(one, two)
        assert sorted(topic.queues()) == sorted(topic.subscribed()) == sorted([one.queue, two.queue])

    @on_reactor
    async def test_told_twice_it_makes_one_queue(self, topic: Topic) -> None:
        """A reaper deletes the entry and the queue: heartbeat and listener notice at about the same time."""
        peer = await topic.start_live()
        for _ in range(2):
            peer.fanout.subscription_lost()
        await peer.is_live()
        assert topic.queues() == topic.subscribed() == [peer.queue]
        assert len(peer.registered) == 2

    @on_reactor
    async def test_that_the_former_queue_is_gone_is_no_news(self, topic: Topic, proxy: FaultProxy) -> None:
        peer = await topic.start_live()
        receives = proxy.faults.calls["ReceiveMessage"]
        proxy.set_rules("ReceiveMessage:delay_ms=1000,times=1")
        await until(lambda: proxy.faults.calls["ReceiveMessage"] > receives, "a receive is under way")
        peer.fanout.subscription_lost()
        await peer.is_live()
        assert peer.fanout.counters.attachments == 2
        assert topic.queues() == [peer.queue]

    @on_reactor
    async def test_it_is_tried_until_it_succeeds(
        self, topic: Topic, proxy: FaultProxy, logged_failures: LoggedFailures
    ) -> None:
        peer = await topic.start_live()
        before = peer.queue
        sns = shared_aws().clients.sns_control
        with mock.patch.object(
            sns, "subscribe", side_effect=[RuntimeError("injected"), mock.DEFAULT], wraps=sns.subscribe
        ):
            peer.fanout.subscription_lost()
            await peer.is_live()
        assert peer.queue != before
        assert peer.registered == [before, peer.queue, peer.queue], "all tries are for one queue"
        assert topic.queues() == topic.subscribed() == [peer.queue]
        assert len(logged_failures.events) == 1
        logged_failures.events.clear()


class TestDeafness:
    @pytest.fixture(autouse=True)
    def impatience(self, topic: Topic) -> None:
        topic.probe_times = ProbeTimes(repeat_seconds=0.2, lost_seconds=0.5, check_seconds=0.5)

    def unsubscribe(self, topic: Topic, peer: Peer) -> None:
        """Somebody removes its subscription; the queue stays."""
        arn = topic.arn()
        sns = direct_client("sns")
        for one in sns.list_subscriptions_by_topic(TopicArn=arn)["Subscriptions"]:
            if one["Endpoint"].endswith(peer.queue):
                sns.unsubscribe(SubscriptionArn=one["SubscriptionArn"])

    @on_reactor
    async def test_a_new_queue_through_which_no_probe_comes_is_left_for_another(self, topic: Topic) -> None:
        peer = topic.make()
        with mock.patch.object(shared_aws().clients.sns_control, "subscribe", lambda **_: {"SubscriptionArn": "none"}):
            peer.fanout.start()
        deaf = peer.queue
        await peer.is_live()
        assert peer.queue != deaf
        assert topic.queues() == topic.subscribed() == [peer.queue]

    @on_reactor
    async def test_but_not_because_no_probe_can_be_sent(self, topic: Topic, proxy: FaultProxy) -> None:
        proxy.set_rules("PublishBatch:throttle=1")
        peer = topic.start()
        await until(lambda: proxy.injected("PublishBatch", "throttle") >= 6, "more than half a second of probes")
        proxy.set_rules()
        await peer.is_live()
        assert peer.fanout.counters.attachments == 1

    @on_reactor
    async def test_who_missed_messages_twice_in_a_row_and_hears_no_echo_attaches_anew(
        self, topic: Topic, peers: tuple[Peer, Peer]
    ) -> None:
        one, two = peers
        self.unsubscribe(topic, two)
        two.fanout.gap_observed()
        two.fanout.gap_observed()
        await until(lambda: not two.fanout.is_subscribed, "it notices")
        await two.is_live()
        await reaches(one, two)
        assert two.fanout.counters.attachments == 2
        assert sorted(topic.queues()) == sorted(topic.subscribed()) == sorted([one.queue, two.queue])

    @on_reactor
    async def test_so_it_does_when_the_topic_was_made_anew(self, topic: Topic, peers: tuple[Peer, Peer]) -> None:
        one, two = peers
        arn = topic.arn()
        direct_client("sns").delete_topic(TopicArn=arn)
        direct_client("sns").create_topic(Name=topic.names.topic, Attributes={"FifoTopic": "true"})
        for peer in peers:
            peer.fanout.gap_observed()
            peer.fanout.gap_observed()
            await until(lambda peer=peer: not peer.fanout.is_subscribed, "it notices")  # type: ignore[misc]
            await peer.is_live()
        await reaches(one, two)

    @on_reactor
    async def test_missing_something_once_or_between_news_costs_nothing(
        self, peers: tuple[Peer, Peer], proxy: FaultProxy
    ) -> None:
        one, two = peers
        two.fanout.gap_observed()
        await reaches(one, two)
        calls = proxy.faults.calls["PublishBatch"]
        two.fanout.gap_observed()
        assert two.fanout.is_subscribed
        await two.fanout.detach()
        await two.fanout.stop()
        assert proxy.faults.calls["PublishBatch"] == calls

    @on_reactor
    async def test_who_hears_the_echo_stays_as_it_is(self, topic: Topic, peers: tuple[Peer, Peer]) -> None:
        _, two = peers
        for _ in range(3):
            two.fanout.gap_observed()
            two.fanout.gap_observed()
            assert two.fanout.state is State.CHECKING
            assert two.fanout.is_subscribed
            await until(lambda: two.fanout.state is State.LIVE, "the probe comes back")
        await two.fanout.detach()
        await two.fanout.stop()
        assert two.fanout.counters.attachments == 1

    @on_reactor
    async def test_while_sns_does_not_answer_nobody_is_taken_for_deaf(
        self, peers: tuple[Peer, Peer], proxy: FaultProxy
    ) -> None:
        _, two = peers
        proxy.set_rules("PublishBatch:fail=1")
        two.fanout.gap_observed()
        two.fanout.gap_observed()
        await until(lambda: proxy.injected("PublishBatch", "fail") == 2, "the probe fails")
        proxy.set_rules()
        await two.fanout.detach()
        await two.fanout.stop()
        assert two.fanout.counters.attachments == 1


class TestStop:
    @on_reactor
    async def test_subscription_and_queue_are_removed_and_nothing_is_heard_any_more(
        self, topic: Topic, peers: tuple[Peer, Peer]
    ) -> None:
        one, two = peers
        assert await two.fanout.detach()
        assert not two.fanout.is_subscribed
        assert topic.queues() == topic.subscribed() == [one.queue]
        await one.fanout.publish([make_stored(1)])
        await two.fanout.stop()
        assert two.heard == []

    @on_reactor
    async def test_what_is_flushed_last_is_still_published(self, peers: tuple[Peer, Peer]) -> None:
        one, two = peers
        detached = one.fanout.detach()
        await reaches(one, two)
        await detached

    @on_reactor
    async def test_when_it_cannot_be_removed_that_is_told(self, topic: Topic, proxy: FaultProxy) -> None:
        peer = await topic.start_live()
        with mock.patch.object(shared_aws().clients.sns_control, "unsubscribe", side_effect=RuntimeError("injected")):
            assert not await peer.fanout.detach()

    @on_reactor
    async def test_while_a_queue_is_being_made_it_cannot_be_told_whether_it_is_left_but_it_is_removed(
        self, topic: Topic
    ) -> None:
        detached: list[bool] = []

        async def register(start: str, queue: str) -> None:
            detached.append(await peer.fanout.detach())

        peer = await topic.start_live(register=register)
        peer.fanout.subscription_lost()
        await peer.fanout.stop()
        assert detached == [False]
        assert topic.queues() == topic.subscribed() == []
        assert not peer.fanout.is_subscribed

    @on_reactor
    async def test_no_further_try_is_waited_for(self, topic: Topic, logged_failures: LoggedFailures) -> None:
        """AWS is away: the pause between two tries ends with the detaching, and no try follows."""
        peer = await topic.start_live()
        sns = shared_aws().clients.sns_control
        with (
            mock.patch("chatflow.broker.attaching.Backoff", lambda **_: Backoff(600.0, 600.0, random=lambda: 1.0)),
            mock.patch.object(sns, "subscribe", side_effect=RuntimeError("injected")) as subscribe,
        ):
            peer.fanout.subscription_lost()
            await until(lambda: logged_failures.events, "a try fails")
            assert not await peer.fanout.detach()
            await peer.fanout.stop()
        assert subscribe.call_count == 1
        logged_failures.events.clear()

    @on_reactor
    async def test_detaching_what_never_attached_is_harmless(self, topic: Topic) -> None:
        peer = topic.make()
        assert await peer.fanout.detach()
        await peer.fanout.stop()


class China:
    """SQS and SNS of another partition, as far as attaching calls them; keeps what it is asked for."""

    def __init__(self) -> None:
        self.asked: dict[str, dict[str, Any]] = {}

    def get_queue_url(self, **_: Any) -> dict[str, Any]:
        return {"QueueUrl": "https://sqs.cn-north-1.amazonaws.com.cn/7/p-db-dlq.fifo"}

    def get_queue_attributes(self, **_: Any) -> dict[str, Any]:
        return {"Attributes": {"QueueArn": "arn:aws-cn:sqs:cn-north-1:7:p-db-dlq.fifo"}}

    def get_topic_attributes(self, **asked: Any) -> dict[str, Any]:
        self.asked["get_topic_attributes"] = asked
        return {"Attributes": {}}

    def create_queue(self, **asked: Any) -> dict[str, Any]:
        self.asked["create_queue"] = asked
        return {"QueueUrl": "url"}

    def subscribe(self, **asked: Any) -> dict[str, Any]:
        self.asked["subscribe"] = asked
        return {"SubscriptionArn": "arn"}


def test_in_every_partition_queue_policy_and_subscription_name_the_same_topic() -> None:
    china: Any = China()
    at_once(attach(BlockingCalls(Clients(china, china, china, china, china)), Names("p", 1), "p-fanout-a-1.fifo"))
    topic_arn, queue_arn = "arn:aws-cn:sns:cn-north-1:7:p-fanout.fifo", "arn:aws-cn:sqs:cn-north-1:7:p-fanout-a-1.fifo"
    assert china.asked["get_topic_attributes"] == {"TopicArn": topic_arn}
    (statement,) = json.loads(china.asked["create_queue"]["Attributes"]["Policy"])["Statement"]
    assert (statement["Resource"], statement["Condition"]) == (queue_arn, {"ArnEquals": {"aws:SourceArn": topic_arn}})
    assert china.asked["create_queue"]["tags"] == {"project": "chatflow", "prefix": "p"}
    assert (china.asked["subscribe"]["TopicArn"], china.asked["subscribe"]["Endpoint"]) == (topic_arn, queue_arn)
