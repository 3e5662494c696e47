"""What a consumer on SQS may still call its own: held until its visibility has passed or SQS says otherwise."""

from __future__ import annotations

from typing import Any
from unittest import mock

from chatflow.broker.sqs import SqsRoomQueue
from chatflow.contracts.room_queue import Delivery
from testbed.fault_proxy import FaultProxy
from tests.broker.room_queues import Instances, MakeInstances, a_moment
from tests.support.chat import make_envelope
from tests.support.cloud import shared_aws
from tests.support.reactor import on_reactor, reactor, until


async def hold_one(pair: Instances) -> list[Delivery]:
    """An envelope of room 1, received by the first."""
    await pair.one.publish(make_envelope(1))
    return await pair.receive(pair.one)


async def extend_often(queue: SqsRoomQueue, times: int) -> None:
    """As the daemon does, several times per visibility."""
    for _ in range(times):
        await a_moment()
        await queue.extend_visibility()


@on_reactor
async def test_what_is_received_is_held_until_its_visibility_has_passed(make_instances: MakeInstances) -> None:
    pair = make_instances(visibility_seconds=1)
    held = await hold_one(pair)
    assert pair.one.are_leased(held)
    await until(lambda: not pair.one.are_leased(held), "it is held no more")


@on_reactor
async def test_the_visibility_is_counted_from_the_question(make_instances: MakeInstances) -> None:
    """SQS counts from its answer: of the two, this is over first."""
    pair = make_instances(visibility_seconds=3, long_poll_seconds=2)
    receiving = pair.one.receive(1)
    asked_by = reactor.seconds()
    await a_moment()
    await pair.two.publish(make_envelope(1))
    (held,) = await receiving
    assert held.receipt.visible_at <= asked_by + 3


@on_reactor
async def test_of_several_one_that_is_not_held_is_enough(make_instances: MakeInstances) -> None:
    pair = make_instances(rooms=2, visibility_seconds=600)
    (held,) = await hold_one(pair)
    await pair.one.publish(make_envelope(2))
    (other,) = await pair.receive(pair.one, shard=2)
    assert pair.one.are_leased([held, other])
    await pair.one.nack([other])
    assert pair.one.are_leased([held])
    assert not pair.one.are_leased([held, other])


@on_reactor
async def test_an_extension_renews_it(make_instances: MakeInstances) -> None:
    pair = make_instances(visibility_seconds=2)
    held = await hold_one(pair)
    first_end = held[0].receipt.visible_at
    while reactor.seconds() <= first_end:
        await extend_often(pair.one, 1)
    assert pair.one.are_leased(held)
    await pair.one.ack(held)
    assert pair.left() == 0


@on_reactor
async def test_what_sqs_refuses_to_extend_is_held_no_more_and_never_extended_again(
    make_instances: MakeInstances, proxy: FaultProxy
) -> None:
    """Its receipt was given to somebody else meanwhile: this one has expired."""
    pair = make_instances(visibility_seconds=1)
    expired = await hold_one(pair)
    await pair.receive(pair.two)
    calls = proxy.faults.calls
    before = calls["ChangeMessageVisibilityBatch"]
    await pair.one.extend_visibility()
    assert calls["ChangeMessageVisibilityBatch"] == before + 1
    assert not pair.one.are_leased(expired)
    assert pair.one.counters.lost_receipts == 1
    await extend_often(pair.one, 10)
    assert calls["ChangeMessageVisibilityBatch"] == before + 1


@on_reactor
async def test_nothing_is_extended_while_it_makes_no_sense(make_instances: MakeInstances, proxy: FaultProxy) -> None:
    makes_sense = False
    pair = make_instances(visibility_seconds=2, may_extend=lambda: makes_sense)
    held = await hold_one(pair)
    calls = proxy.faults.calls
    before = calls["ChangeMessageVisibilityBatch"]
    await until(lambda: reactor.seconds() > held[0].receipt.due_at, "an extension is due")
    await pair.one.extend_visibility()
    assert calls["ChangeMessageVisibilityBatch"] == before
    makes_sense = True
    await pair.one.extend_visibility()
    assert calls["ChangeMessageVisibilityBatch"] == before + 1


@on_reactor
async def test_once_the_daemon_stops_a_poll_does_not_wait_for_long(
    make_instances: MakeInstances, receives: list[dict[str, Any]]
) -> None:
    pair = make_instances(long_poll_seconds=2)
    await pair.one.receive(1)
    pair.one.close()
    await pair.one.receive(1)
    assert [one["WaitTimeSeconds"] for one in receives] == [2, 1]


def throttled_once(operation: str) -> Any:
    """The first call says that its entry was throttled, which AWS calls the sender's fault."""
    client = shared_aws().clients.sqs_send
    failed = {"Id": "0", "Code": "ThrottlingException", "Message": "injected", "SenderFault": True}
    return mock.patch.object(
        client, operation, side_effect=[{"Failed": [failed]}, mock.DEFAULT], wraps=getattr(client, operation)
    )


@on_reactor
async def test_a_delete_that_was_throttled_is_tried_again(make_instances: MakeInstances) -> None:
    pair = make_instances(visibility_seconds=600)
    held = await hold_one(pair)
    with throttled_once("delete_message_batch") as calls:
        await pair.one.ack(held)
    assert calls.call_count == 2
    assert pair.one.counters.lost_receipts == 0
    assert pair.left() == 0


@on_reactor
async def test_an_extension_that_was_throttled_is_tried_again(make_instances: MakeInstances) -> None:
    pair = make_instances(visibility_seconds=3)
    held = await hold_one(pair)
    first_end = held[0].receipt.visible_at
    await until(lambda: reactor.seconds() > held[0].receipt.due_at, "an extension is due")
    with throttled_once("change_message_visibility_batch") as calls:
        await pair.one.extend_visibility()
        assert held[0].receipt.visible_at == first_end
        assert pair.one.are_leased(held)
        await pair.one.extend_visibility()
    assert calls.call_count == 2
    assert held[0].receipt.visible_at > first_end
    assert pair.one.counters.lost_receipts == 0
