"""The room queue on SQS FIFO loses, doubles and disorders nothing while calls fail."""

from __future__ import annotations

from random import Random
from typing import Any
from unittest import mock

import pytest

from chatflow.errors import Unavailable
from testbed.fault_proxy import FaultProxy
from tests.broker.contract_room_queue import envelopes, publish, texts
from tests.broker.room_queues import Instances, MakeInstances, MakeQueue
from tests.support.chat import make_envelope
from tests.support.cloud import direct_client, make_objects, shared_aws, start_aws
from tests.support.reactor import on_reactor, until


class TestPublishingWhenCallsFail:
    @pytest.mark.parametrize("fault", ["drop", "fail", "throttle", "reset", "partial"])
    @on_reactor
    async def test_it_is_tried_again_until_accepted_and_nothing_overtakes_it(
        self, pair: Instances, proxy: FaultProxy, fault: str
    ) -> None:
        proxy.set_rules(f"SendMessageBatch:{fault}=1,times=2")
        sent = [make_envelope(1, str(number)) for number in range(4)]
        published = publish(pair.one, *sent[:2])
        await until(lambda: proxy.injected("SendMessageBatch", fault) > 0, "a call fails")
        later = publish(pair.one, *sent[2:])
        await published
        await later
        assert await pair.drain(pair.two, 4) == sent
        assert pair.one.counters.publish_retries == 2

    @on_reactor
    async def test_a_lost_answer_is_not_a_second_envelope(self, pair: Instances, proxy: FaultProxy) -> None:
        """The first call was carried out; even if what it brought is received and deleted before the second."""
        proxy.set_rules("SendMessageBatch:drop=1,times=1", "SendMessageBatch:throttle=1")
        envelope, last = make_envelope(1, "once"), make_envelope(1, "last")
        published = pair.one.publish(envelope)
        deliveries = await pair.receive(pair.two)
        assert not published.called
        await pair.two.ack(deliveries)
        proxy.set_rules()
        await published
        await pair.one.publish(last)
        assert envelopes(deliveries) + await pair.drain(pair.two, 1) == [envelope, last]

    @on_reactor
    async def test_of_a_batch_only_what_failed_is_sent_again_and_rooms_keep_their_order(
        self, make_instances: MakeInstances, proxy: FaultProxy
    ) -> None:
        rooms = range(1, 8)
        pair = make_instances(rooms=7, room_queues=1)
        proxy.set_rules("SendMessageBatch:partial=1,times=2")
        sent = [make_envelope(room, f"{room}:{number}") for number in range(3) for room in rooms]
        await publish(pair.one, *sent)
        received = await pair.drain(pair.two, len(sent))
        for room in rooms:
            own = [envelope for envelope in received if envelope.room == room]
            assert texts(own) == [f"{room}:0", f"{room}:1", f"{room}:2"]
        assert proxy.injected("SendMessageBatch", "partial") == 2

    @on_reactor
    async def test_within_a_batch_a_room_is_not_overtaken_by_itself(
        self, make_instances: MakeInstances, proxy: FaultProxy
    ) -> None:
        pair = make_instances(rooms=1, room_queues=1)
        proxy.set_rules("SendMessageBatch:partial=1,times=1")
        sent = [make_envelope(1, str(number)) for number in range(5)]
        await publish(pair.one, *sent)
        assert texts(await pair.drain(pair.two, 5)) == ["0", "1", "2", "3", "4"]

    @on_reactor
    async def test_what_sqs_refuses_for_good_fails_at_once_and_alone(self, make_instances: MakeInstances) -> None:
        pair = make_instances(rooms=2, room_queues=1)
        limit = {"MaximumMessageSize": "1024"}
        direct_client("sqs").set_queue_attributes(QueueUrl=pair.one.urls()[1], Attributes=limit)
        small, large = make_envelope(1, "small"), make_envelope(2, *(f"{Random(n).random()}" for n in range(200)))
        accepted, refused = pair.one.publish(small), pair.one.publish(large)
        with pytest.raises(Unavailable, match="InvalidParameterValue"):
            await refused
        await accepted
        assert await pair.drain(pair.two, 1) == [small]
        assert pair.one.counters.publish_retries == 0

    @on_reactor
    async def test_after_the_time_for_it_a_publish_fails_and_the_next_one_is_tried(
        self, make_instances: MakeInstances, proxy: FaultProxy
    ) -> None:
        pair = make_instances(publish_seconds=0.2)
        proxy.set_rules("SendMessageBatch:throttle=1")
        with pytest.raises(Unavailable, match="ThrottlingException"):
            await pair.one.publish(make_envelope(1, "refused"))
        proxy.set_rules()
        envelope = make_envelope(1, "accepted")
        await pair.one.publish(envelope)
        assert await pair.drain(pair.two, 1) == [envelope]

    @on_reactor
    async def test_once_calls_have_stopped_it_fails(self, make_queue: MakeQueue, proxy: FaultProxy) -> None:
        aws = start_aws(polls=1, sends=1)
        queue = make_queue(make_objects(rooms=1), aws=aws)
        await aws.stop()
        for _ in range(2):
            with pytest.raises(Unavailable):
                await queue.publish(make_envelope(1))


class TestWhileOneRoomIsThrottled:
    """AWS limits each message group by itself."""

    @on_reactor
    async def test_the_others_of_its_queue_go_on_and_it_keeps_its_order(self, make_instances: MakeInstances) -> None:
        pair = make_instances(rooms=3, room_queues=1)
        client = shared_aws().clients.sqs_send
        send = client.send_message_batch
        throttled = True

        def send_but_room_one(**asked: Any) -> dict[str, Any]:
            refused = [entry for entry in asked["Entries"] if throttled and entry["MessageGroupId"] == "1"]
            accepted = [entry for entry in asked["Entries"] if entry not in refused]
            answer = send(**asked | {"Entries": accepted}) if accepted else {}
            fault = {"Code": "ThrottlingException", "Message": "injected", "SenderFault": True}
            return answer | {"Failed": [{"Id": entry["Id"], **fault} for entry in refused]}

        with mock.patch.object(client, "send_message_batch", side_effect=send_but_room_one):
            held_up = [make_envelope(1, str(number)) for number in range(3)]
            published = publish(pair.one, *held_up)
            for number in range(3):
                await publish(pair.one, make_envelope(2, str(number)), make_envelope(3, str(number)))
                assert not published.called
            throttled = False
            await published
        received = await pair.drain(pair.two, 9)
        for room in (1, 2, 3):
            assert texts([envelope for envelope in received if envelope.room == room]) == ["0", "1", "2"]


class TestReceivingWhenCallsFail:
    @pytest.mark.parametrize("fault", ["fail", "throttle", "reset"])
    @on_reactor
    async def test_a_receive_fails_as_unavailable_and_the_next_one_finds_everything(
        self, pair: Instances, proxy: FaultProxy, fault: str
    ) -> None:
        sent = [make_envelope(1, str(number)) for number in range(3)]
        await publish(pair.one, *sent)
        proxy.set_rules(f"ReceiveMessage:{fault}=1,times=1")
        with pytest.raises(Unavailable):
            await pair.one.receive(1)
        assert await pair.drain(pair.one, 3) == sent

    @on_reactor
    async def test_what_a_lost_answer_held_comes_again(self, make_instances: MakeInstances, proxy: FaultProxy) -> None:
        pair = make_instances(visibility_seconds=1)
        sent = [make_envelope(1, str(number)) for number in range(3)]
        await publish(pair.one, *sent)
        proxy.set_rules("ReceiveMessage:drop=1,times=1")
        with pytest.raises(Unavailable):
            await pair.one.receive(1)
        assert await pair.drain(pair.two, 3) == sent

    @on_reactor
    async def test_a_receive_whose_answer_was_lost_is_repeated_as_the_same_attempt(
        self, pair: Instances, proxy: FaultProxy, receives: list[dict[str, Any]]
    ) -> None:
        """So that SQS gives the same messages again instead of holding them back until they are visible."""
        for rule, expected in [("drop", Unavailable), ("fail", Unavailable), ("throttle", Unavailable)]:
            proxy.set_rules(f"ReceiveMessage:{rule}=1,times=1")
            with pytest.raises(expected):
                await pair.one.receive(1)
        proxy.set_rules()
        await pair.one.receive(1)
        await pair.one.receive(1)
        dropped, failed, throttled, received, next_one = (one["ReceiveRequestAttemptId"] for one in receives)
        assert dropped == failed == throttled, "the outcome of the one before was unknown"
        assert len({throttled, received, next_one}) == 3, "the outcome of the one before was known"


class TestSettlingWhenCallsFail:
    @pytest.mark.parametrize("fault", ["fail", "throttle", "reset", "partial", "drop"])
    @on_reactor
    async def test_what_is_done_is_deleted_though_the_first_call_fails(
        self, pair: Instances, proxy: FaultProxy, fault: str
    ) -> None:
        await publish(pair.one, *(make_envelope(1) for _ in range(5)))
        held = await pair.receive(pair.two)
        while len(held) < 5:
            held += await pair.receive(pair.two)
        proxy.set_rules(f"DeleteMessageBatch:{fault}=1,times=1")
        await pair.two.ack(held)
        assert proxy.injected("DeleteMessageBatch", fault) == 1
        assert pair.left() == 0

    @on_reactor
    async def test_what_cannot_be_deleted_is_given_up_and_comes_again(
        self, make_instances: MakeInstances, proxy: FaultProxy
    ) -> None:
        pair = make_instances(visibility_seconds=1)
        envelope = make_envelope(1)
        await pair.one.publish(envelope)
        proxy.set_rules("DeleteMessageBatch:fail=1")
        await pair.one.ack(await pair.receive(pair.one))
        assert pair.one.counters.lost_receipts == 1
        proxy.set_rules()
        assert await pair.drain(pair.two, 1) == [envelope]

    @on_reactor
    async def test_giving_back_never_fails(self, make_instances: MakeInstances, proxy: FaultProxy) -> None:
        pair = make_instances(visibility_seconds=1)
        envelope = make_envelope(1)
        await pair.one.publish(envelope)
        proxy.set_rules("ChangeMessageVisibilityBatch:fail=1")
        await pair.one.nack(await pair.receive(pair.one))
        assert await pair.drain(pair.two, 1) == [envelope]
