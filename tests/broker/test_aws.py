"""Calls to AWS: made once each, in threads of their own, counted, timed, and their errors told in our terms."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib import metadata
from typing import Any
from unittest import mock

import pytest
from botocore.exceptions import EndpointConnectionError, NoCredentialsError
from twisted.internet.defer import Deferred

from chatflow.broker.aws import Aws, AwsError, Clients, as_aws_error, make_clients
from chatflow.errors import StartupError, Unavailable
from testbed.aws_wire import Call
from testbed.emulator import aws_environment, fresh_prefix, shared_emulator
from testbed.fault_proxy import FaultProxy
from tests.support.cloud import shared_aws, start_aws
from tests.support.reactor import on_reactor, reactor, until


def clients_with(environment: Mapping[str, str]) -> Clients:
    """Clients made with these variables and no files of AWS's."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    no_files = {"AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull}
    with mock.patch.dict(os.environ, {**kept, **no_files, **environment}, clear=True):
        return make_clients(polls=21, sends=5)


_KEYS = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}


class TestClients:
    @pytest.fixture(scope="class")
    @staticmethod
    def clients() -> Clients:
        return clients_with(aws_environment(shared_emulator().url))

    @pytest.mark.parametrize(
        ("environment", "region"),
        [
            ({"AWS_REGION": "eu-west-1"}, "eu-west-1"),
            ({"AWS_DEFAULT_REGION": "eu-west-2"}, "eu-west-2"),
            ({"AWS_REGION": "eu-west-1", "AWS_DEFAULT_REGION": "eu-west-2"}, "eu-west-1"),
        ],
    )
    def test_the_region_comes_from_either_variable(self, environment: dict[str, str], region: str) -> None:
        clients = clients_with(_KEYS | environment)
        assert {clients.sqs_poll.meta.region_name, clients.sns_control.meta.region_name} == {region}

    def test_without_a_region_the_start_fails_and_says_what_to_set(self) -> None:
        with pytest.raises(StartupError, match="AWS_REGION"):
            clients_with(_KEYS)

    def test_the_endpoint_is_the_one_of_the_environment_also_by_service(self) -> None:
        environment = _KEYS | {"AWS_REGION": "eu-west-1", "AWS_ENDPOINT_URL": "http://127.0.0.1:1"}
        clients = clients_with(environment | {"AWS_ENDPOINT_URL_SNS": "http://127.0.0.1:2"})
        assert clients.sqs_send.meta.endpoint_url == "http://127.0.0.1:1"
        assert clients.sns_send.meta.endpoint_url == "http://127.0.0.1:2"

    def test_receiving_outlasts_the_longest_poll_and_sending_fails_soon(self, clients: Clients) -> None:
        assert clients.sqs_poll.meta.config.read_timeout > 20
        for client in (clients.sqs_send, clients.sns_send):
            assert client.meta.config.read_timeout < 10

    def test_there_is_a_connection_for_every_thread(self, clients: Clients) -> None:
        assert clients.sqs_poll.meta.config.max_pool_connections == 21
        assert clients.sqs_send.meta.config.max_pool_connections == 5
        assert clients.sns_send.meta.config.max_pool_connections == 5

    def test_calls_are_made_by_a_name_that_is_put_together_once(self, clients: Clients) -> None:
        for client in (clients.sqs_poll, clients.sqs_send, clients.sns_send):
            assert client.meta.config.user_agent.startswith(f"ChatFlow/{metadata.version('chatflow')} ")

    def test_only_setting_up_tries_again_by_itself(self) -> None:
        with FaultProxy(shared_emulator().url) as proxy:
            clients = clients_with(aws_environment(proxy.url))
            for client in (clients.sqs_poll, clients.sqs_send):
                proxy.set_rules("ListQueues:fail=1,times=1")
                with pytest.raises(clients.sqs_control.exceptions.ClientError):
                    client.list_queues()
            proxy.set_rules("ListQueues:fail=1,times=1")
            clients.sqs_control.list_queues()


class TestCalls:
    @pytest.fixture(autouse=True)
    def make(self, proxy: FaultProxy) -> None:
        self.proxy = proxy
        self.aws = shared_aws()
        self.calls_before = self.aws.counters.calls.copy()
        self.queue = f"{fresh_prefix()}.fifo"

    async def make_queue(self) -> str:
        made = await self.aws.sqs("create_queue", QueueName=self.queue, Attributes={"FifoQueue": "true"})
        return str(made["QueueUrl"])

    def counted(self) -> dict[tuple[str, str], int]:
        """Calls of this test by operation and outcome."""
        return dict(self.aws.counters.calls - self.calls_before)

    async def failure(self, operation: str = "list_queues", **arguments: Any) -> AwsError:
        with pytest.raises(AwsError) as raised:
            await self.aws.sqs(operation, **arguments)
        return raised.value

    @on_reactor
    async def test_a_call_gives_what_boto3_gives(self) -> None:
        url = await self.make_queue()
        entry = {"Id": "1", "MessageBody": "hello", "MessageGroupId": "g", "MessageDeduplicationId": "d"}
        await self.aws.sqs("send_message_batch", QueueUrl=url, Entries=[entry])
        received = await self.aws.receive(QueueUrl=url, WaitTimeSeconds=1)
        assert [message["Body"] for message in received["Messages"]] == ["hello"]

    @on_reactor
    async def test_calls_are_counted_by_outcome_and_timed_when_they_succeed(self) -> None:
        observed: list[tuple[str, float]] = []
        failures: list[None] = []
        aws = start_aws(
            polls=1, sends=1, observe=lambda *call: observed.append(call), on_failure=lambda: failures.append(None)
        )
        await aws.sqs("list_queues")
        await aws.sns("list_topics")
        self.proxy.set_rules("ListQueues:throttle=1")
        with pytest.raises(AwsError):
            await aws.sqs("list_queues")
        await aws.stop()
        assert aws.counters.calls == {
            ("list_queues", "ok"): 1,
            ("list_topics", "ok"): 1,
            ("list_queues", "ThrottlingException"): 1,
        }
        assert aws.counters.total == 3
        assert [operation for operation, _ in observed] == ["list_queues", "list_topics"]
        assert len(failures) == 1
        assert dict(observed) == aws.counters.seconds
        assert all(seconds > 0 for _, seconds in observed)

    @on_reactor
    async def test_a_lost_answer_is_an_unknown_outcome_and_not_tried_again(self) -> None:
        self.proxy.set_rules("ListQueues:drop=1")
        error = await self.failure()
        assert not error.certain
        assert self.counted() == {("list_queues", "ConnectionClosedError"): 1}
        assert str(error).startswith("list_queues: ConnectionClosedError: ")

    @on_reactor
    async def test_a_server_error_is_an_unknown_outcome(self) -> None:
        self.proxy.set_rules("ListQueues:fail=1")
        error = await self.failure()
        assert (error.code, error.certain) == ("InternalFailure", False)

    @on_reactor
    async def test_throttling_is_certain_and_no_missing_queue(self) -> None:
        self.proxy.set_rules("ListQueues:throttle=1")
        error = await self.failure()
        assert (error.code, error.certain, error.is_missing) == ("ThrottlingException", True, False)

    @on_reactor
    async def test_a_missing_queue_is_told_apart(self) -> None:
        url = await self.make_queue()
        await self.aws.sqs("delete_queue", QueueUrl=url)
        cases: list[tuple[str, dict[str, Any]]] = [
            ("get_queue_url", {"QueueName": self.queue}),
            ("receive_message", {"QueueUrl": url}),
            ("delete_message_batch", {"QueueUrl": url, "Entries": [{"Id": "1", "ReceiptHandle": "x"}]}),
        ]
        for operation, arguments in cases:
            error = await self.failure(operation, **arguments)
            assert error.is_missing, operation
            assert error.certain, operation

    @on_reactor
    async def test_a_missing_topic_is_told_apart(self) -> None:
        with pytest.raises(AwsError) as raised:
            await self.aws.sns("get_topic_attributes", TopicArn="arn:aws:sns:us-east-1:000000000000:none.fifo")
        assert raised.value.is_missing

    @on_reactor
    async def test_long_polls_do_not_hold_up_sending(self) -> None:
        url = await self.make_queue()
        polls = [Deferred.fromCoroutine(self.aws.receive(QueueUrl=url, WaitTimeSeconds=1)) for _ in range(40)]
        await self.aws.sqs("list_queues")
        assert not any(poll.called for poll in polls)
        for poll in polls:
            assert not (await poll).get("Messages")

    @on_reactor
    async def test_an_answer_that_is_none_of_sns_is_a_failed_call(self) -> None:
        """As a load balancer between may give it."""
        with mock.patch.object(Call, "throttled", lambda call: (404, b"<html>not here")):
            self.proxy.set_rules("ListTopics:throttle=1")
            with pytest.raises(AwsError) as raised:
                await self.aws.sns("list_topics")
        assert not raised.value.certain


class TestStartAndStop:
    @on_reactor
    async def test_stop_waits_for_calls_under_way_and_takes_no_more(self, proxy: FaultProxy) -> None:
        aws = start_aws(polls=1, sends=1)
        attributes = {"FifoQueue": "true"}
        made = await aws.sqs("create_queue", QueueName=f"{fresh_prefix()}.fifo", Attributes=attributes)
        before = proxy.faults.calls["ReceiveMessage"]
        poll = Deferred.fromCoroutine(aws.receive(QueueUrl=made["QueueUrl"], WaitTimeSeconds=1))
        await until(lambda: proxy.faults.calls["ReceiveMessage"] > before, "the poll is under way")
        stopped = aws.stop()
        with pytest.raises(Unavailable):
            await aws.sqs("list_queues")
        assert not stopped.called
        await stopped
        assert poll.called
        await poll

    @on_reactor
    async def test_a_call_before_the_start_is_refused(self) -> None:
        with pytest.raises(Unavailable):
            await Aws(reactor=reactor, polls=1, sends=1).sqs("list_queues")


def test_what_failed_before_an_answer_came_bears_the_exceptions_name() -> None:
    error = as_aws_error("send_message", EndpointConnectionError(endpoint_url="http://127.0.0.1:1"))
    assert (error.code, error.certain) == ("EndpointConnectionError", False)
    assert as_aws_error("send_message", NoCredentialsError()).code == "NoCredentialsError"
