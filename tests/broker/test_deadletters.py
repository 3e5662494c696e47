"""Dead letters in SQS keep the contract, and are kept however the calls fail."""

from __future__ import annotations

import time
from typing import Any

import attrs
import pytest

from chatflow.broker.aws import Clients
from chatflow.broker.calls import BlockingCalls
from chatflow.broker.deadletters import SqsDeadLetterBox, SqsDeadLetters
from chatflow.broker.lookup import require_queue
from chatflow.broker.names import Names
from chatflow.codec import deadletters as letters
from chatflow.codec.deadletters import envelope_in, failed_again
from chatflow.errors import StartupError, Unavailable
from chatflow.lifecycle import Backoff
from chatflow.lifecycle.blocking import at_once
from testbed.emulator import fresh_prefix
from testbed.fault_proxy import FaultProxy
from tests.broker.contract_dead_letters import DeadLettersContract, keep_some
from tests.support.chat import make_envelope
from tests.support.cloud import direct_client, make_objects, shared_aws, start_aws
from tests.support.reactor import on_reactor, reactor


@pytest.fixture
def names() -> Names:
    return make_objects(rooms=1)


@pytest.fixture
def keeper(names: Names) -> SqsDeadLetters:
    return make_keeper(names)


@pytest.fixture
def box(names: Names) -> SqsDeadLetterBox:
    return make_box(names)


@pytest.fixture(autouse=True)
def one_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """The emulator has a single server, which knows every letter at once."""
    monkeypatch.setattr(SqsDeadLetterBox, "wait_seconds", 0)


def make_keeper(names: Names, aws: Any = None) -> SqsDeadLetters:
    keeper = SqsDeadLetters(
        clock=reactor,
        now=time.time,
        aws=aws or shared_aws(),
        names=names,
        backoff=lambda: Backoff(first_seconds=0.001, cap_seconds=0.01),
    )
    keeper.start()
    return keeper


def make_box(names: Names) -> SqsDeadLetterBox:
    return SqsDeadLetterBox(direct_calls(), url_of(names))


def direct_calls() -> BlockingCalls:
    """They go past the proxy."""
    sqs, sns = direct_client("sqs"), direct_client("sns")
    return BlockingCalls(Clients(sqs, sqs, sns, sqs, sns))


def url_of(names: Names) -> str:
    return at_once(require_queue(direct_calls(), names.dead_letters))


class TestContract(DeadLettersContract):
    @pytest.fixture
    def keeper(self, names: Names) -> SqsDeadLetters:
        return make_keeper(names)

    @pytest.fixture
    def box(self, names: Names) -> SqsDeadLetterBox:
        return make_box(names)


class TestKeeping:
    @pytest.mark.parametrize("fault", ["fail", "throttle", "reset", "drop"])
    @on_reactor
    async def test_it_is_tried_until_sqs_has_it_and_kept_once(
        self, keeper: SqsDeadLetters, box: SqsDeadLetterBox, proxy: FaultProxy, fault: str
    ) -> None:
        proxy.set_rules(f"SendMessage:{fault}=1,times=3")
        envelope = make_envelope()
        await keeper.keep(envelope, "refused")
        assert proxy.injected("SendMessage", fault) == 3
        (letter,) = box.read()
        assert envelope_in(letter) == envelope

    @on_reactor
    async def test_it_is_not_kept_before_sqs_has_it(
        self, keeper: SqsDeadLetters, box: SqsDeadLetterBox, proxy: FaultProxy
    ) -> None:
        proxy.set_rules("SendMessage:fail=1")
        keeping = keeper.keep(make_envelope(), "refused")
        while proxy.injected("SendMessage", "fail") < 5:
            await shared_aws().sqs("list_queues", QueueNamePrefix="none")
        assert not keeping.called
        assert box.read() == []
        proxy.set_rules()
        await keeping
        assert len(box.read()) == 1

    @on_reactor
    async def test_what_is_no_envelope_is_kept_as_it_is(self, keeper: SqsDeadLetters, box: SqsDeadLetterBox) -> None:
        await keeper.keep_body("no envelope", "bad base64")
        await keeper.keep_body("no envelope", "bad base64")
        (letter,) = box.read()
        assert (letter.payload, letter.reason) == ("no envelope", "bad base64")
        assert (letter.room, letter.envelope_id, letter.attempts) == (None, None, 1)

    @on_reactor
    async def test_even_the_largest_body_that_sqs_delivers(self, keeper: SqsDeadLetters, box: SqsDeadLetterBox) -> None:
        await keeper.keep_body('"' * 1_048_576, "no")
        assert set(box.read()[0].payload) == {'"'}

    @on_reactor
    async def test_when_the_calls_have_stopped_it_fails_and_the_envelope_is_somebody_elses(self, names: Names) -> None:
        aws = start_aws(polls=1, sends=1)
        keeper = make_keeper(names, aws)
        await aws.stop()
        with pytest.raises(Unavailable):
            await keeper.keep(make_envelope(), "refused")

    def test_without_its_queue_there_is_no_start(self) -> None:
        with pytest.raises(StartupError, match="chatflow-admin setup"):
            make_keeper(Names(fresh_prefix(), 1))

    def test_nor_when_aws_does_not_answer(self, names: Names, proxy: FaultProxy) -> None:
        proxy.set_rules("GetQueueUrl:fail=1")
        impatient = attrs.evolve(shared_aws().clients, sqs_control=shared_aws().clients.sqs_send)
        with pytest.raises(StartupError, match="cannot find queue"):
            at_once(require_queue(BlockingCalls(impatient), names.dead_letters))


class TestReading:
    @on_reactor
    async def test_a_command_that_died_while_it_replaced_a_letter_left_two_which_are_one(
        self, names: Names, keeper: SqsDeadLetters, box: SqsDeadLetterBox
    ) -> None:
        await keep_some(keeper, 2)
        letter, _ = box.read()
        replacement = failed_again(letter, "second", 4_000_000_000)
        send(names, letters.encode(replacement), letter.id)
        box.release()
        first, second = box.read()
        assert (first, second.attempts) == (replacement, 1)
        box.remove([first])
        box.release()
        assert [one.id for one in box.read()] == [second.id]

    @on_reactor
    async def test_refusals_so_far_apart_that_sqs_keeps_both_are_one_letter_with_both_their_stories(
        self, names: Names, keeper: SqsDeadLetters, box: SqsDeadLetterBox
    ) -> None:
        (envelope,) = await keep_some(keeper, 1)
        for seconds, reason in [(4_000_000_600, "third"), (4_000_000_000, "second")]:
            letter = letters.of_envelope(envelope, reason, seconds)
            send(names, letters.encode(letter), letter.id)
        (merged,) = box.read()
        assert (merged.attempts, merged.reason) == (3, "third")
        assert merged.first_failed_at < "2090"
        assert merged.last_failed_at == letters.of_envelope(envelope, "", 4_000_000_600).last_failed_at
        box.replace(merged, failed_again(merged, "fourth", 4_100_000_000))
        box.release()
        (replaced,) = box.read()
        assert (replaced.attempts, replaced.reason) == (4, "fourth")
        assert replaced.first_failed_at == merged.first_failed_at

    @on_reactor
    async def test_what_somebody_put_there_by_hand_is_a_letter(self, names: Names, box: SqsDeadLetterBox) -> None:
        send(names, "by hand", "x")
        (letter,) = box.read()
        assert (letter.payload, letter.room) == ("by hand", None)
        box.remove([letter])
        box.release()
        assert box.read() == []

    @on_reactor
    async def test_what_another_command_reads_is_not_read(
        self, names: Names, keeper: SqsDeadLetters, box: SqsDeadLetterBox
    ) -> None:
        await keep_some(keeper, 2)
        other = make_box(names)
        assert len(other.read()) == 2
        assert box.read() == []
        other.release()
        assert len(box.read()) == 2

    @on_reactor
    async def test_a_letter_that_was_held_for_too_long_is_not_said_to_be_removed(
        self, names: Names, keeper: SqsDeadLetters, box: SqsDeadLetterBox
    ) -> None:
        await keep_some(keeper, 1)
        letters = box.read()
        for receipt in box._receipts[letters[0].id]:
            url = url_of(names)
            direct_client("sqs").change_message_visibility(QueueUrl=url, ReceiptHandle=receipt, VisibilityTimeout=0)
        assert len(make_box(names).read()) == 1  # which gives it another receipt
        with pytest.raises(Unavailable):
            box.remove(letters)


def send(names: Names, body: str, group: str) -> None:
    """Put a message there past all of our code."""
    client = direct_client("sqs")
    client.send_message(
        QueueUrl=url_of(names),
        MessageBody=body,
        MessageGroupId=group,
        MessageDeduplicationId=body[-60:].encode().hex()[:100],
    )
