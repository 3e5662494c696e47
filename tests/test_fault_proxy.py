"""The fault proxy: what boto3 sees of each fault, and what the emulator behind it does."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any
from urllib.request import Request, urlopen

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, ConnectionClosedError

from testbed.emulator import fresh_prefix, shared_emulator
from testbed.fault_proxy import FaultProxy
from testbed.faults import Faults, Rule

_FIFO = {"FifoQueue": "true"}


@pytest.fixture
def proxy() -> Iterator[FaultProxy]:
    with FaultProxy(shared_emulator().url) as proxy:
        yield proxy


def client(service: str, url: str) -> Any:
    session = boto3.session.Session("test", "test", region_name="us-east-1")
    make: Any = session.client  # its annotations take no name that is not literal
    return make(service, endpoint_url=url, config=Config(retries={"total_max_attempts": 1}))


class Queue:
    """A queue reached through the proxy, and looked at past it."""

    def __init__(self, proxy: FaultProxy) -> None:
        self._direct = client("sqs", shared_emulator().url)
        self._sqs = client("sqs", proxy.url)
        self.name = f"{fresh_prefix()}.fifo"
        self._url = self._direct.create_queue(QueueName=self.name, Attributes=_FIFO)["QueueUrl"]

    def send(self, *bodies: str) -> dict[str, Any]:
        entries = [
            {"Id": f"id-{body}", "MessageBody": body, "MessageGroupId": body, "MessageDeduplicationId": body}
            for body in bodies
        ]
        answer: dict[str, Any] = self._sqs.send_message_batch(QueueUrl=self._url, Entries=entries)
        return answer

    def bodies(self) -> list[str]:
        messages = self._direct.receive_message(QueueUrl=self._url, MaxNumberOfMessages=10).get("Messages", [])
        return [message["Body"] for message in messages]


@pytest.fixture
def queue(proxy: FaultProxy) -> Queue:
    return Queue(proxy)


class TestOnTheWayToSqs:
    def test_without_rules_calls_pass_and_are_counted(self, proxy: FaultProxy, queue: Queue) -> None:
        queue.send("a")
        assert queue.bodies() == ["a"]
        assert proxy.faults.calls == {"SendMessageBatch": 1}
        assert not proxy.faults.injected

    def test_drop_carries_out_and_loses_the_answer(self, proxy: FaultProxy, queue: Queue) -> None:
        proxy.set_rules("SendMessageBatch:drop=1")
        with pytest.raises(ConnectionClosedError):
            queue.send("a")
        assert queue.bodies() == ["a"]
        assert proxy.injected("SendMessageBatch", "drop") == 1

    def test_reset_does_not_carry_out(self, proxy: FaultProxy, queue: Queue) -> None:
        proxy.set_rules("SendMessageBatch:reset=1")
        with pytest.raises(BotoCoreError, match=r"reset|closed"):
            queue.send("a")
        assert queue.bodies() == []

    def test_fail_is_a_server_error_and_does_not_carry_out(self, proxy: FaultProxy, queue: Queue) -> None:
        proxy.set_rules("SendMessageBatch:fail=1")
        with pytest.raises(ClientError) as raised:
            queue.send("a")
        assert raised.value.response["ResponseMetadata"]["HTTPStatusCode"] == 500
        assert raised.value.response["Error"]["Code"] == "InternalFailure"
        assert queue.bodies() == []

    def test_throttle_is_a_client_error_and_does_not_carry_out(self, proxy: FaultProxy, queue: Queue) -> None:
        proxy.set_rules("SendMessageBatch:throttle=1")
        with pytest.raises(ClientError) as raised:
            queue.send("a")
        assert raised.value.response["ResponseMetadata"]["HTTPStatusCode"] == 400
        assert raised.value.response["Error"]["Code"] == "ThrottlingException"
        assert queue.bodies() == []

    def test_partial_lists_every_second_entry_as_failed_and_carries_out_the_others(
        self, proxy: FaultProxy, queue: Queue
    ) -> None:
        proxy.set_rules("SendMessageBatch:partial=1")
        answer = queue.send("a", "b", "c")
        assert [entry["Id"] for entry in answer["Failed"]] == ["id-a", "id-c"]
        assert not any(entry["SenderFault"] for entry in answer["Failed"])
        assert [entry["Id"] for entry in answer["Successful"]] == ["id-b"]
        assert [entry["Id"] for entry in queue.send("d")["Failed"]] == ["id-d"]
        assert queue.bodies() == ["b"]

    def test_a_rule_applies_as_often_as_it_says_and_to_what_it_names(self, proxy: FaultProxy, queue: Queue) -> None:
        proxy.set_rules("Delete*:fail=1", "Send*:fail=1,times=1")
        with pytest.raises(ClientError):
            queue.send("a")
        queue.send("b")
        assert queue.bodies() == ["b"]


class TestOnTheWayToSns:
    @pytest.fixture
    def topic(self, proxy: FaultProxy) -> tuple[Any, str]:
        sns = client("sns", proxy.url)
        return sns, sns.create_topic(Name=f"{fresh_prefix()}.fifo", Attributes={"FifoTopic": "true"})["TopicArn"]

    @staticmethod
    def publish(topic: tuple[Any, str], *bodies: str) -> dict[str, Any]:
        sns, arn = topic
        entries = [
            {"Id": f"id-{body}", "Message": body, "MessageGroupId": "g", "MessageDeduplicationId": body}
            for body in bodies
        ]
        answer: dict[str, Any] = sns.publish_batch(TopicArn=arn, PublishBatchRequestEntries=entries)
        return answer

    def test_throttle_and_fail_look_as_sns_makes_them(self, proxy: FaultProxy, topic: tuple[Any, str]) -> None:
        for rule, code in [("PublishBatch:throttle=1", "Throttled"), ("PublishBatch:fail=1", "InternalError")]:
            proxy.set_rules(rule)
            with pytest.raises(ClientError) as raised:
                self.publish(topic, "a")
            assert raised.value.response["Error"]["Code"] == code

    def test_partial_lists_every_second_entry_as_failed(self, proxy: FaultProxy, topic: tuple[Any, str]) -> None:
        proxy.set_rules("PublishBatch:partial=1")
        answer = self.publish(topic, "a", "b", "c &")
        assert [entry["Id"] for entry in answer["Successful"]] == ["id-b"]
        assert [entry["Id"] for entry in answer["Failed"]] == ["id-a", "id-c &"]
        assert [entry["Id"] for entry in self.publish(topic, "d")["Failed"]] == ["id-d"]


class TestFaults:
    def test_a_rule_reads_back_as_it_was_written(self) -> None:
        for text in ["*:", "Send*:drop=0.05", "Receive*:delay_ms=500,fail=0.25,times=3"]:
            assert str(Rule.parse(text)) == text

    @pytest.mark.parametrize("text", ["", ":drop=1", "*:dorp=1", "*:drop=0.6,fail=0.6", "*:drop=-1", "*:drop=x"])
    def test_what_is_no_rule_is_refused_and_changes_nothing(self, text: str) -> None:
        faults = Faults()
        faults.set_rules(["*:drop=1"])
        with pytest.raises(ValueError):
            faults.set_rules([text])
        assert [str(rule) for rule in faults.rules] == ["*:drop=1"]

    def test_the_same_seed_gives_each_operation_the_same_fates_whatever_others_do(self) -> None:
        def fates(operations: str, seed: int) -> list[object]:
            faults = Faults()
            faults.set_rules(["*:drop=0.3,fail=0.3,delay_ms=100"], seed)
            return [fate for one in operations if (fate := faults.fate(one)) and one == "a"]

        assert fates("aaaaaa", 1) == fates("abbabaababba", 1)
        assert fates("aaaaaa", 1) != fates("aaaaaa", 2)

    def test_faults_come_as_often_as_their_probabilities_say(self) -> None:
        faults = Faults()
        faults.set_rules(["*:drop=0.3,fail=0.2"])
        for _ in range(2000):
            faults.fate("x")
        assert 0.25 < faults.injected["x", "drop"] / 2000 < 0.35
        assert 0.15 < faults.injected["x", "fail"] / 2000 < 0.25

    def test_delays_are_spread_up_to_their_bound(self) -> None:
        faults = Faults()
        faults.set_rules(["*:delay_ms=500"])
        delays = [faults.fate("x").delay_seconds for _ in range(200)]
        assert 0 <= min(delays) < 0.05
        assert 0.45 < max(delays) <= 0.5

    def test_a_rule_may_be_for_some_queues_and_may_begin_above_nothing(self) -> None:
        faults = Faults()
        faults.set_rules(["Receive*@news-*:least_answer_ms=40,answer_ms=50", "Receive*:least_delay_ms=10,delay_ms=20"])
        for _ in range(50):
            news = faults.fate("ReceiveMessage", "news-1.fifo")
            assert (news.delay_seconds, 0.04 <= news.answer_seconds <= 0.05) == (0, True)
            other = faults.fate("ReceiveMessage", "room-1.fifo")
            assert (0.01 <= other.delay_seconds <= 0.02, other.answer_seconds) == (True, 0)

    def test_an_answer_may_be_late_though_the_call_was_not(self, proxy: FaultProxy, queue: Queue) -> None:
        proxy.set_rules(f"SendMessageBatch@{queue.name}:least_answer_ms=60,answer_ms=61", "*:fail=1")
        began = time.monotonic()
        assert queue.send("a")["Successful"]
        assert time.monotonic() - began >= 0.06


class TestControl:
    def test_rules_are_set_and_counters_shown_over_http(self, proxy: FaultProxy, queue: Queue) -> None:
        rules = b"SendMessageBatch:fail=1,times=1\n*:delay_ms=1\n"
        urlopen(Request(f"{proxy.url}/_faults?seed=7", rules, method="PUT")).close()
        with pytest.raises(ClientError):
            queue.send("a")
        with urlopen(f"{proxy.url}/_faults") as answer:
            state = json.load(answer)
        assert state["rules"] == ["SendMessageBatch:fail=1,times=0", "*:delay_ms=1"]
        assert state["seed"] == 7
        assert state["calls"] == {"SendMessageBatch": 1}
        assert state["injected"] == {"SendMessageBatch fail": 1}
