"""The fan-out on SNS keeps the contract on an emulator over HTTP; it counts what it loses, and gets over the rest."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Any
from unittest import mock

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from chatflow.broker.names import Names
from chatflow.contracts.messages import StoredMessage
from chatflow.errors import StartupError, Unavailable
from testbed.emulator import fresh_prefix
from testbed.fault_proxy import FaultProxy
from tests.broker.contract_fanout import FanoutContract
from tests.broker.topics import Peer, Topic, reaches
from tests.support.chat import make_message, make_stored
from tests.support.cloud import direct_client, shared_aws, start_aws
from tests.support.reactor import LoggedFailures, on_reactor, reactor, until


class TestContract(FanoutContract):
    @pytest_twisted.async_fixture
    async def instances(self, topic: Topic) -> list[Peer]:
        peers = [topic.start() for _ in range(3)]
        for peer in peers:
            await peer.is_live()
        return peers


class TestStart:
    @on_reactor
    async def test_an_instance_is_not_heard_of_until_its_probe_came_back(self, topic: Topic, proxy: FaultProxy) -> None:
        proxy.set_rules("PublishBatch:throttle=1,times=4")
        peer = topic.start()
        await until(lambda: proxy.injected("PublishBatch", "throttle") == 4, "two probes are lost")
        assert not peer.fanout.is_subscribed
        await peer.is_live()
        assert topic.queues() == topic.subscribed() == [peer.queue]
        assert peer.fanout.counters.attachments == 1

    @on_reactor
    async def test_nor_when_its_queue_is_not_subscribed(self, topic: Topic, proxy: FaultProxy) -> None:
        peer = topic.start()
        await peer.is_live()
        deaf = topic.make()
        with mock.patch.object(shared_aws().clients.sns_control, "subscribe", lambda **_: {"SubscriptionArn": "none"}):
            deaf.fanout.start()
        probes = proxy.faults.calls["PublishBatch"]
        await until(lambda: proxy.faults.calls["PublishBatch"] > probes + 2, "some probes are sent")
        assert not deaf.fanout.is_subscribed

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
        self, peers: tuple[Peer, Peer], proxy: FaultProxy, fault: str
    ) -> None:
        one, two = peers
        messages = [make_stored(1, room) for room in range(1, 6)]
        proxy.set_rules(f"PublishBatch:{fault}=1,times=1")
        await one.fanout.publish(messages)
        assert await two.has_heard(messages) == messages
        assert one.fanout.counters.publish_failures == 0

    @on_reactor
    async def test_then_news_are_lost_and_counted_and_the_next_ones_are_heard(
        self, peers: tuple[Peer, Peer], proxy: FaultProxy
    ) -> None:
        one, two = peers
        lost, heard = make_stored(1), make_stored(2)
        before = one.fanout.counters.published
        proxy.set_rules("PublishBatch:partial=1")
        await one.fanout.publish([lost])
        proxy.set_rules()
        await one.fanout.publish([heard])
        assert await two.has_heard([heard]) == [heard]
        assert one.fanout.counters.publish_failures == 1
        assert one.fanout.counters.published == before + 1

    @on_reactor
    async def test_what_cannot_be_encoded_is_lost_alone_and_nobody_waits_for_it(
        self, peers: tuple[Peer, Peer], logged_failures: LoggedFailures
    ) -> None:
        one, _ = peers
        await one.fanout.publish([StoredMessage(1, 1, "s1", make_message("\ud800"))])
        assert len(logged_failures.events) == 1
        logged_failures.events.clear()
        await reaches(*peers)

    @on_reactor
    async def test_no_call_carries_more_than_sns_takes(
        self, topic: Topic, peers: tuple[Peer, Peer], publishes: list[dict[str, Any]]
    ) -> None:
        """256 KiB, bodies and attributes together: the emulator would take more."""
        one, two = peers
        random = Random(1)
        text = "".join(map(chr, range(0x23, 0x5C)))
        messages = [
            StoredMessage(room, seq, "s1", make_message("".join(random.choices(text, k=500))))
            for room in range(1, 11)
            for seq in range(1, 131)
        ]
        publishes.clear()
        await one.fanout.publish(messages)
        sizes = [sum(map(entry_bytes, call["PublishBatchRequestEntries"])) for call in publishes]
        assert max(sizes) <= 262_144
        assert len(sizes) > 2
        assert max(sizes) > 200_000, "calls are full"
        assert await two.has_heard(messages) == messages

    @on_reactor
    async def test_publishing_fires_even_when_calls_have_stopped(self, topic: Topic) -> None:
        aws = start_aws(polls=1, sends=2)
        peer = await topic.start_live(aws=aws)
        await peer.fanout.detach()
        await peer.fanout.stop()
        await aws.stop()
        await peer.fanout.publish([make_stored(1)])
        assert peer.fanout.counters.publish_failures == 1

    @on_reactor
    async def test_rooms_of_one_flush_share_calls_as_do_flushes_during_a_call(
        self, peers: tuple[Peer, Peer], proxy: FaultProxy
    ) -> None:
        one, two = peers
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
        peer = await topic.start_live()
        publishes.clear()
        proxy.set_rules("PublishBatch:drop=1,times=1")
        await peer.fanout.publish([make_stored(1, room) for room in (3, 1, 2)])
        first, second = (one["PublishBatchRequestEntries"] for one in publishes)
        assert first == second
        assert [entry["MessageGroupId"] for entry in first] == ["3", "1", "2"]
        assert len({entry["MessageDeduplicationId"] for entry in first}) == 3


class TestWhileSnsDoesNotAnswer:
    @pytest.fixture
    def quiet_seconds(self) -> float:
        return 600.0

    @pytest.fixture(autouse=True)
    def patience(self, quiet_seconds: float) -> Iterator[None]:
        with mock.patch("chatflow.broker.publishing._QUIET_SECONDS", quiet_seconds):
            yield

    @pytest.mark.parametrize("fault", ["fail", "reset"])
    @on_reactor
    async def test_news_are_dropped_without_a_call_and_counted(
        self, peers: tuple[Peer, Peer], proxy: FaultProxy, fault: str
    ) -> None:
        """Storing waits for every publish: it shall not wait for calls that fail."""
        one, _ = peers
        calls = proxy.faults.calls
        proxy.set_rules(f"PublishBatch:{fault}=1")
        before = calls["PublishBatch"]
        await one.fanout.publish([make_stored(1, room) for room in range(1, 26)])
        assert calls["PublishBatch"] == before + 2, "one batch was tried twice, the other two not at all"
        assert one.fanout.counters.publish_failures == 25
        published = one.fanout.publish([make_stored(2), make_stored(3), make_stored(2, room=2)])
        assert published.called
        assert calls["PublishBatch"] == before + 2
        assert one.fanout.counters.publish_failures == 27, "of two rooms"

    @pytest.mark.parametrize("quiet_seconds", [0.0])
    @on_reactor
    async def test_after_a_while_one_call_tries_it_for_which_nobody_waits(
        self, peers: tuple[Peer, Peer], proxy: FaultProxy
    ) -> None:
        one, two = peers
        calls = proxy.faults.calls
        proxy.set_rules("PublishBatch:fail=1")
        await one.fanout.publish([make_stored(1)])
        await deferLater(reactor, 0)
        before = calls["PublishBatch"]
        assert one.fanout.publish([make_stored(2)]).called
        assert one.fanout.publish([make_stored(3)]).called
        await until(lambda: one.fanout.counters.publish_failures == 3, "the try fails")
        assert calls["PublishBatch"] == before + 1
        proxy.set_rules()
        heard = make_stored(4)
        assert one.fanout.publish([heard]).called
        await two.has_heard([heard])
        await reaches(*peers)
        assert one.fanout.counters.publish_failures == 3

    @on_reactor
    async def test_probes_are_sent_all_the_same_and_when_one_arrives_so_do_news(
        self, peers: tuple[Peer, Peer], proxy: FaultProxy
    ) -> None:
        one, _ = peers
        proxy.set_rules("PublishBatch:fail=1")
        await one.fanout.publish([make_stored(1)])
        one.fanout.subscription_lost()
        proxy.set_rules()
        await one.is_live()
        await reaches(*peers)


class TestWhileSnsThrottles:
    @on_reactor
    async def test_news_are_tried_again_until_they_are_heard_and_storing_does_not_wait(
        self, peers: tuple[Peer, Peer], proxy: FaultProxy
    ) -> None:
        one, two = peers
        proxy.set_rules("PublishBatch:throttle=1,times=4")
        first = [make_stored(1, room) for room in range(1, 26)]
        await one.fanout.publish(first)  # though it is not out yet
        later = [make_stored(2, room) for room in range(1, 26)]
        assert one.fanout.publish(later).called
        heard = await two.has_heard([*first, *later])
        assert [message.seq for message in heard if message.room == 7] == [1, 2]
        assert proxy.injected("PublishBatch", "throttle") == 4
        assert one.fanout.counters.publish_failures == 0
        assert one.fanout.counters.throttled == 4


class TestHearingWhenCallsFail:
    @pytest.mark.parametrize("fault", ["fail", "throttle", "reset"])
    @on_reactor
    async def test_listening_goes_on_after_receives_that_failed(
        self, peers: tuple[Peer, Peer], proxy: FaultProxy, fault: str
    ) -> None:
        one, two = peers
        proxy.set_rules(f"ReceiveMessage:{fault}=1,times=3")
        await until(lambda: proxy.injected("ReceiveMessage", fault) == 3, "three receives fail")
        await reaches(one, two)
        assert two.fanout.is_subscribed

    @pytest.mark.parametrize("fault", ["fail", "throttle", "reset", "partial", "drop"])
    @on_reactor
    async def test_a_delete_that_failed_does_not_hold_up_its_rooms(
        self, topic: Topic, proxy: FaultProxy, fault: str
    ) -> None:
        """While a message is not deleted, nothing of its group is given."""
        with mock.patch("chatflow.broker.attachment._VISIBILITY_SECONDS", 600):
            one, two = await topic.start_pair()
        proxy.set_rules(f"DeleteMessageBatch:{fault}=1,times=1")
        for _ in range(2):
            await reaches(one, two)
        assert proxy.injected("DeleteMessageBatch", fault) == 1

    @on_reactor
    async def test_a_receive_whose_answer_was_lost_is_repeated_as_the_same_attempt(
        self, topic: Topic, proxy: FaultProxy, receives: list[dict[str, Any]]
    ) -> None:
        await topic.start_live()
        proxy.set_rules("ReceiveMessage:drop=1,times=2")
        await until(lambda: proxy.injected("ReceiveMessage", "drop") == 2, "two answers are lost")
        await until(lambda: len(receives) > 9, "some more receives")
        attempts = [one["ReceiveRequestAttemptId"] for one in receives]
        # The same for the two, and for the one after them; another for each of the others.
        assert len(attempts) - len(set(attempts)) == 2

    @on_reactor
    async def test_what_a_lost_answer_held_comes_again(self, topic: Topic, proxy: FaultProxy) -> None:
        """Where the attempt is not recognised, as on the emulator, after the visibility."""
        with mock.patch("chatflow.broker.attachment._VISIBILITY_SECONDS", 1):
            one, two = await topic.start_live(), await topic.start_live()
        proxy.set_rules("ReceiveMessage:drop=1,times=6")
        await reaches(one, two)

    @on_reactor
    async def test_what_is_no_news_is_passed_over(self, topic: Topic, peers: tuple[Peer, Peer]) -> None:
        one, two = peers
        direct_client("sqs").send_message(
            QueueUrl=topic.url(two.queue), MessageBody="poison", MessageGroupId="1", MessageDeduplicationId="poison"
        )
        await reaches(one, two)

    @on_reactor
    async def test_what_was_heard_is_counted_and_timed(self, peers: tuple[Peer, Peer]) -> None:
        one, two = peers
        began = reactor.seconds()
        messages = [make_stored(1), make_stored(2), make_stored(1, room=2)]
        await one.fanout.publish(messages)
        await two.has_heard(messages)
        assert two.fanout.counters.received == 3
        assert all(0 <= seconds <= reactor.seconds() - began + 1 for seconds in two.latencies)
        assert two.latencies


class TestBacklog:
    @on_reactor
    async def test_while_more_waits_nobody_waits_for_the_deletes_of_what_was_heard(
        self, topic: Topic, proxy: FaultProxy
    ) -> None:
        aws = start_aws(polls=1, sends=4)
        deletes: list[Deferred[None]] = []
        carry_out = aws.sqs

        async def sqs(operation: str, **arguments: Any) -> dict[str, Any]:
            if operation == "delete_message_batch" and deletes:
                deletes.append(Deferred())
                await deletes[-1]
            return await carry_out(operation, **arguments)

        aws.sqs = sqs  # type: ignore[method-assign]
        one, two = await topic.start_live(), await topic.start_live(aws=aws)
        await until(lambda: topic.count(two.queue) == 0, "its probe is deleted")
        proxy.set_rules("ReceiveMessage:fail=1")
        before = proxy.injected("ReceiveMessage", "fail")
        await until(lambda: proxy.injected("ReceiveMessage", "fail") > before + 3, "nobody hears anything for now")
        messages = [make_stored(1, room) for room in range(1, 31)]
        await one.fanout.publish(messages)
        assert topic.count(two.queue) == len(messages)
        deletes.append(Deferred())  # from now on they are held
        proxy.set_rules()
        await two.has_heard(messages)
        assert len(deletes) - 1 == 3
        for held in deletes:
            held.callback(None)
        deletes.clear()
        await until(lambda: topic.count(two.queue) == 0, "all of it is deleted in the end")
        await two.fanout.detach()
        await two.fanout.stop()
        await aws.stop()

    @on_reactor
    async def test_the_longer_news_take_the_longer_they_are_waited_for_within_bounds(
        self, peers: tuple[Peer, Peer], proxy: FaultProxy
    ) -> None:
        one, two = peers
        assert two.fanout.gap_timeout_seconds() == 0.5
        proxy.set_rules("ReceiveMessage:fail=1")
        messages = [make_stored(1, room) for room in range(1, 31)]
        await one.fanout.publish(messages)
        await deferLater(reactor, 1.0)
        proxy.set_rules()
        await two.has_heard(messages)
        assert 1.0 < two.fanout.gap_timeout_seconds() <= min(4.0, 2 * max(two.latencies))


def entry_bytes(entry: dict[str, Any]) -> int:
    """What SNS counts of an entry: body and attributes, with their names and types."""
    attributes = sum(
        len(name) + len(value["DataType"]) + len(value["StringValue"])
        for name, value in entry["MessageAttributes"].items()
    )
    return len(entry["Message"]) + attributes


@on_reactor
async def test_two_that_were_given_the_same_id_hear_each_other(topic: Topic) -> None:
    one, two = topic.start(server_id="same"), topic.start(server_id="same")
    await one.is_live()
    await two.is_live()
    await reaches(one, two)
    await reaches(two, one)
    assert len(one.heard) == len(two.heard) == 1, "and not themselves"
