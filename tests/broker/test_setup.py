"""The objects of a prefix are made with their attributes, made again without harm, and removed without a trace."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from chatflow.broker.aws import AwsError, Clients
from chatflow.broker.calls import BlockingCalls
from chatflow.broker.names import Names
from chatflow.broker.setup import Found, find, set_up, tear_down
from chatflow.lifecycle.blocking import at_once
from testbed.emulator import fresh_prefix
from testbed.fault_proxy import FaultProxy
from tests.support.cloud import direct_client, shared_aws

HIGH_THROUGHPUT = {
    "FifoQueue": "true",
    "ContentBasedDeduplication": "false",
    "DeduplicationScope": "messageGroup",
    "FifoThroughputLimit": "perMessageGroupId",
    "VisibilityTimeout": "30",
    "ReceiveMessageWaitTimeSeconds": "20",
}


@pytest.fixture
def clients() -> Clients:
    return shared_aws().clients


@pytest.fixture
def names() -> Names:
    return Names(fresh_prefix(), 3)


def set_up_lines(clients: Clients, names: Names) -> list[str]:
    lines: list[str] = []
    at_once(set_up(BlockingCalls(clients), names, lines.append))
    return lines


def tear_down_lines(clients: Clients, found: Found) -> list[str]:
    lines: list[str] = []
    at_once(tear_down(BlockingCalls(clients), found, lines.append))
    return lines


def found_by(clients: Clients, names: Names) -> Found:
    return at_once(find(BlockingCalls(clients), names))


def impatient(clients: Clients) -> Clients:
    """With a client for SNS that tries once."""
    return attrs.evolve(clients, sns_control=clients.sns_send)


def url(name: str) -> str:
    return str(direct_client("sqs").get_queue_url(QueueName=name)["QueueUrl"])


def attributes(name: str) -> dict[str, str]:
    answer = direct_client("sqs").get_queue_attributes(QueueUrl=url(name), AttributeNames=["All"])
    return dict(answer["Attributes"])


def tags(name: str) -> dict[str, str]:
    return dict(direct_client("sqs").list_queue_tags(QueueUrl=url(name)).get("Tags", {}))


def queues(names: Names) -> set[str]:
    answer = direct_client("sqs").list_queues(QueueNamePrefix=names.prefix + "-")
    return {each.rsplit("/", 1)[-1] for each in answer.get("QueueUrls", ())}


def topic_arn(names: Names) -> str:
    return names.topic_arn(attributes(names.dead_letters)["QueueArn"])


def attach(names: Names, server_id: str, tags: dict[str, str]) -> str:
    """A fan-out queue, made and subscribed; its name."""
    name = names.fanout_queue(server_id, "1")
    direct_client("sqs").create_queue(QueueName=name, Attributes={"FifoQueue": "true"}, tags=tags)
    arn = f"arn:aws:sqs:us-east-1:000000000000:{name}"
    direct_client("sns").subscribe(TopicArn=topic_arn(names), Protocol="sqs", Endpoint=arn)
    return name


class TestSetUp:
    def test_it_makes_queues_and_topic_and_says_so(self, clients: Clients, names: Names) -> None:
        p = names.prefix
        made = [f"queue {p}-db-dlq.fifo", *(f"queue {p}-room-{room}.fifo" for room in (1, 2, 3))]
        assert set_up_lines(clients, names) == [f"made {what}" for what in [*made, f"topic {p}-fanout.fifo"]]
        assert queues(names) == {f"{p}-db-dlq.fifo", *(f"{p}-room-{room}.fifo" for room in (1, 2, 3))}

    def test_a_room_queue_is_fifo_with_high_throughput_and_lets_nothing_overtake(
        self, clients: Clients, names: Names
    ) -> None:
        set_up_lines(clients, names)
        found = attributes(names.room_queue(1))
        assert HIGH_THROUGHPUT.items() <= found.items()
        assert found["MessageRetentionPeriod"] == str(14 * 24 * 60 * 60)
        assert "RedrivePolicy" not in found

    def test_dead_letters_are_kept_for_as_long_as_sqs_can(self, clients: Clients, names: Names) -> None:
        set_up_lines(clients, names)
        found = attributes(names.dead_letters)
        assert HIGH_THROUGHPUT.items() <= found.items()
        assert found["MessageRetentionPeriod"] == str(14 * 24 * 60 * 60)

    def test_the_topic_is_fifo_and_limits_each_room_by_itself(self, clients: Clients, names: Names) -> None:
        set_up_lines(clients, names)
        found = direct_client("sns").get_topic_attributes(TopicArn=topic_arn(names))["Attributes"]
        assert found["FifoTopic"] == "true"
        assert found["ContentBasedDeduplication"] == "false"
        assert found["FifoThroughputScope"] == "MessageGroup"

    def test_everything_has_our_tags(self, clients: Clients, names: Names) -> None:
        set_up_lines(clients, names)
        wanted = {"project": "chatflow", "prefix": names.prefix}
        assert tags(names.room_queue(2)) == tags(names.dead_letters) == wanted
        answer = direct_client("sns").list_tags_for_resource(ResourceArn=topic_arn(names))
        assert {tag["Key"]: tag["Value"] for tag in answer["Tags"]} == wanted

    def test_a_second_time_it_changes_nothing_and_says_that_all_exists(self, clients: Clients, names: Names) -> None:
        made = set_up_lines(clients, names)
        before = attributes(names.room_queue(1))
        direct_client("sqs").send_message(
            QueueUrl=url(names.room_queue(1)), MessageBody="x", MessageGroupId="1", MessageDeduplicationId="1"
        )
        assert set_up_lines(clients, names) == [line.removeprefix("made ") + " exists" for line in made]
        after = attributes(names.room_queue(1))
        assert after.pop("ApproximateNumberOfMessages") == "1"
        assert after.items() <= before.items()

    def test_with_more_rooms_it_makes_those_that_are_new(self, clients: Clients, names: Names) -> None:
        set_up_lines(clients, names)
        more = Names(names.prefix, 4)
        assert [line for line in set_up_lines(clients, more) if "exists" not in line] == [
            f"made queue {names.prefix}-room-4.fifo"
        ]

    def test_shared_room_queues_are_other_queues(self, clients: Clients, names: Names) -> None:
        shared = Names(names.prefix, 3, 2)
        set_up_lines(clients, shared)
        p = names.prefix
        assert queues(names) == {f"{p}-db-dlq.fifo", f"{p}-rooms-1of2.fifo", f"{p}-rooms-2of2.fifo"}

    def test_what_somebody_changed_is_corrected_and_said(self, clients: Clients, names: Names) -> None:
        set_up_lines(clients, names)
        sqs, sns = direct_client("sqs"), direct_client("sns")
        dead_letters_arn = attributes(names.dead_letters)["QueueArn"]
        redrive = f'{{"deadLetterTargetArn": "{dead_letters_arn}", "maxReceiveCount": 3}}'
        changed = {"VisibilityTimeout": "5", "RedrivePolicy": redrive, "MessageRetentionPeriod": "345600"}
        sqs.set_queue_attributes(QueueUrl=url(names.room_queue(1)), Attributes=changed)
        sqs.untag_queue(QueueUrl=url(names.room_queue(2)), TagKeys=["prefix"])
        sns.set_topic_attributes(TopicArn=topic_arn(names), AttributeName="FifoThroughputScope", AttributeValue="Topic")
        p = names.prefix
        assert set_up_lines(clients, names) == [
            f"queue {p}-db-dlq.fifo exists",
            f"changed queue {p}-room-1.fifo: VisibilityTimeout is 30 now, "
            "MessageRetentionPeriod is 1209600 now, RedrivePolicy is none now",
            f"changed queue {p}-room-2.fifo: tags is project=chatflow, prefix={p} now",
            f"queue {p}-room-3.fifo exists",
            f"changed topic {p}-fanout.fifo: FifoThroughputScope is MessageGroup now",
        ]
        assert HIGH_THROUGHPUT.items() <= attributes(names.room_queue(1)).items()
        assert "RedrivePolicy" not in attributes(names.room_queue(1))
        assert all(line.endswith("exists") for line in set_up_lines(clients, names))

    def test_messages_in_queues_of_other_settings_are_told_with_what_receives_them(
        self, clients: Clients, names: Names
    ) -> None:
        set_up_lines(clients, names)
        for room in (1, 2, 3):
            direct_client("sqs").send_message(
                QueueUrl=url(names.room_queue(room)), MessageBody="x", MessageGroupId="1", MessageDeduplicationId="1"
            )
        assert all("holds" not in line for line in set_up_lines(clients, names))
        lines = set_up_lines(clients, Names(names.prefix, 2))
        told = "holds messages that no instance with these settings receives: 1. Run one with"
        assert [line for line in lines if "holds" in line] == [
            f"queue {names.prefix}-room-3.fifo {told} --room-queues 0 --rooms 3 until it is empty"
        ]
        lines = set_up_lines(clients, Names(names.prefix, 3, 2))
        assert [line for line in lines if "holds" in line] == [
            f"queue {names.prefix}-room-{room}.fifo {told} --room-queues 0 until it is empty" for room in (1, 2, 3)
        ]

    def test_what_was_made_before_a_failure_stays_and_the_rest_is_made_the_next_time(
        self, clients: Clients, names: Names, proxy: FaultProxy
    ) -> None:
        proxy.set_rules("CreateTopic:fail=1")
        with pytest.raises(AwsError, match="create_topic"):
            set_up_lines(impatient(clients), names)
        assert len(queues(names)) == 4
        proxy.set_rules()
        assert set_up_lines(clients, names)[-1] == f"made topic {names.prefix}-fanout.fifo"


class TestTearDown:
    def test_it_removes_everything_with_what_instances_left(self, clients: Clients, names: Names) -> None:
        set_up_lines(clients, names)
        arn = topic_arn(names)
        attach(names, "dead", names.tags)
        lines = tear_down_lines(clients, found_by(clients, names))
        assert queues(names) == set()
        with pytest.raises(direct_client("sns").exceptions.NotFoundException):
            direct_client("sns").get_topic_attributes(TopicArn=arn)
        p = names.prefix
        assert lines[0] == f"removed topic {p}-fanout.fifo (subscriptions: 1)"
        removed = ("db-dlq", "fanout-dead-1", "room-1", "room-2", "room-3")
        assert lines[1:] == [f"removed queue {p}-{name}.fifo" for name in removed]

    def test_then_there_is_nothing(self, clients: Clients, names: Names) -> None:
        set_up_lines(clients, names)
        tear_down_lines(clients, found_by(clients, names))
        assert found_by(clients, names) == Found({}, {}, None, 0, [])

    def test_to_look_removes_nothing_and_says_what_a_queue_holds(self, clients: Clients, names: Names) -> None:
        set_up_lines(clients, names)
        attach(names, "dead", names.tags)
        for number in range(2):
            direct_client("sqs").send_message(
                QueueUrl=url(names.room_queue(2)),
                MessageBody="x",
                MessageGroupId="2",
                MessageDeduplicationId=str(number),
            )
        p = names.prefix
        assert found_by(clients, names).lines() == [
            f"would remove topic {p}-fanout.fifo (subscriptions: 1)",
            f"would remove queue {p}-db-dlq.fifo",
            f"would remove queue {p}-fanout-dead-1.fifo",
            f"would remove queue {p}-room-1.fifo",
            f"would remove queue {p}-room-2.fifo (messages: 2)",
            f"would remove queue {p}-room-3.fifo",
        ]
        assert len(queues(names)) == 5

    def test_it_leaves_alone_what_is_of_other_settings_or_not_ours(self, clients: Clients, names: Names) -> None:
        p = names.prefix
        set_up_lines(clients, Names(p, 3, 2))
        set_up_lines(clients, Names(p, 4))
        foreign = attach(names, "x", {"project": "another"})
        unrelated = f"{p}-orders.fifo"
        direct_client("sqs").create_queue(QueueName=unrelated, Attributes={"FifoQueue": "true"})
        found = found_by(clients, names)
        others = [foreign, f"{p}-room-4.fifo", f"{p}-rooms-1of2.fifo", f"{p}-rooms-2of2.fifo"]
        assert found.others == others
        assert len(found.lines_about_others()) == 4
        tear_down_lines(clients, found)
        assert queues(names) == {*others, unrelated}

    def test_a_longer_prefix_is_another_deployment(self, clients: Clients, names: Names) -> None:
        longer = Names(f"{names.prefix}-fanout", 2)
        set_up_lines(clients, names)
        set_up_lines(clients, longer)
        attach(longer, "living", longer.tags)
        tear_down_lines(clients, found_by(clients, names))
        assert queues(names) == queues(longer)
        assert len(queues(longer)) == 4

    def test_what_failed_is_removed_the_next_time(self, clients: Clients, names: Names, proxy: FaultProxy) -> None:
        set_up_lines(clients, names)
        attach(names, "dead", names.tags)
        proxy.set_rules("DeleteTopic:fail=1")
        with pytest.raises(AwsError, match="delete_topic"):
            tear_down_lines(impatient(clients), found_by(clients, names))
        proxy.set_rules()
        tear_down_lines(clients, found_by(clients, names))
        assert found_by(clients, names) == Found({}, {}, None, 0, [])

    def test_a_queue_that_has_gone_meanwhile_is_no_failure(self, clients: Clients, names: Names) -> None:
        set_up_lines(clients, names)
        found = found_by(clients, names)
        direct_client("sqs").delete_queue(QueueUrl=url(names.room_queue(1)))
        tear_down_lines(clients, found)
        assert queues(names) == set()


class _Refusing:
    """SNS of a region that does not know an attribute yet."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)

        def refuse(**arguments: Any) -> Any:
            asked = {arguments.get("AttributeName"), *arguments.get("Attributes", {})}
            if "FifoThroughputScope" in asked:
                raise self._client.exceptions.InvalidParameterException(
                    {
                        "Error": {"Code": "InvalidParameter", "Message": "no"},
                        "ResponseMetadata": {"HTTPStatusCode": 400},
                    },
                    name,
                )
            return method(**arguments)

        return refuse


def test_where_the_throughput_of_a_topic_cannot_be_set_it_is_made_without(clients: Clients, names: Names) -> None:
    older = attrs.evolve(clients, sns_control=_Refusing(clients.sns_control))
    assert set_up_lines(older, names)[-1] == f"made topic {names.prefix}-fanout.fifo"
    assert set_up_lines(older, names)[-1] == f"topic {names.prefix}-fanout.fifo exists"
