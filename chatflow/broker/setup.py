"""The lasting AWS objects of a prefix, made and removed. Blocking functions, for commands.

Room queues, topic and dead letter queue are made by an operator or a deployment, never by the daemon: it needs no
right to. (Fan-out queues are the daemon's own; what is left of them is removed here, too.)
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from attrs import frozen

from chatflow.broker.aws import AwsError, Clients
from chatflow.broker.calls import call, queue_url, queues_beginning
from chatflow.broker.names import Names

# High throughput, as the SQS Developer Guide calls it: limits and deduplication are per group, hence per room.
_HIGH_THROUGHPUT = {
    "FifoQueue": "true",
    "ContentBasedDeduplication": "false",
    "DeduplicationScope": "messageGroup",
    "FifoThroughputLimit": "perMessageGroupId",
    "VisibilityTimeout": "30",
    "ReceiveMessageWaitTimeSeconds": "20",
}
# What is acknowledged must not be forgotten: as long as SQS can.
QUEUE_ATTRIBUTES = _HIGH_THROUGHPUT | {"MessageRetentionPeriod": str(14 * 86_400)}

_TOPIC = {"FifoTopic": "true", "ContentBasedDeduplication": "false"}
_TOPIC_THROUGHPUT = {"FifoThroughputScope": "MessageGroup"}
TOPIC_ATTRIBUTES = _TOPIC | _TOPIC_THROUGHPUT
_FIXED = {"FifoQueue", "FifoTopic"}  # of a queue or topic for its whole life

Say = Callable[[str], object]


def set_up(clients: Clients, names: Names, say: Say) -> None:
    """Make what is missing, and correct the attributes and tags of what exists. Several at once do no harm.

    :param say: takes a line for each queue and topic: that it exists, was changed or was made.
    :raises AwsError: a call failed; what was made before it stays.
    """
    sqs = clients.sqs_control
    dead_letters_url = _make_queue(sqs, names.dead_letters, QUEUE_ATTRIBUTES, names.tags, say)
    for lane in names.lanes:
        _make_queue(sqs, names.room_queue(lane), QUEUE_ATTRIBUTES, names.tags, say)
    # Asked last: a queue may be used a second after it was made. Its ARN tells partition, region and account.
    _make_topic(clients.sns_control, _attributes(sqs, dead_letters_url)["QueueArn"], names, say)
    for name, count in find_stranded(sqs, names).items():
        say(
            f"queue {name} holds messages that no instance with these settings receives: {count}. Run one with "
            f"{names.settings_of(name)} until it is empty"
        )


def find_stranded(sqs: Any, names: Names) -> dict[str, int]:
    """Room queues of the prefix that other settings made and that are not empty, with how many messages they hold.

    :raises AwsError: a call failed.
    """
    urls = queues_beginning(sqs, f"{names.prefix}-room")
    others = {name: url for name, url in sorted(urls.items()) if names.settings_of(name)}
    return {name: count for name, url in others.items() if (count := _count_messages(sqs, url))}


def _make_queue(sqs: Any, name: str, wanted: Mapping[str, str], tags: Mapping[str, str], say: Say) -> str:
    url = queue_url(sqs, name)
    if url is None:
        made = call(sqs, "create_queue", QueueName=name, Attributes=dict(wanted), tags=dict(tags))
        say(f"made queue {name}")
        return str(made["QueueUrl"])
    present = _attributes(sqs, url)
    changes = _differences(present, wanted)
    if "RedrivePolicy" in present:
        # It would move an envelope away that failed some times, and the room's later ones would overtake it.
        changes["RedrivePolicy"] = ""
    if changes:
        call(sqs, "set_queue_attributes", QueueUrl=url, Attributes=changes)
    present_tags = call(sqs, "list_queue_tags", QueueUrl=url).get("Tags", {})
    if not tags.items() <= present_tags.items():
        call(sqs, "tag_queue", QueueUrl=url, Tags=dict(tags))
        changes["tags"] = ", ".join(f"{key}={value}" for key, value in tags.items())
    _say_existing(f"queue {name}", changes, say)
    return url


def _attributes(sqs: Any, url: str) -> dict[str, str]:
    attributes: dict[str, str] = call(sqs, "get_queue_attributes", QueueUrl=url, AttributeNames=["All"])["Attributes"]
    return attributes


def _make_topic(sns: Any, queue_arn: str, names: Names, say: Say) -> None:
    arn = names.topic_arn(queue_arn)
    tags = [{"Key": key, "Value": value} for key, value in names.tags.items()]
    try:
        present = call(sns, "get_topic_attributes", TopicArn=arn)["Attributes"]
    except AwsError as error:
        if not error.queue_is_missing:
            raise
        _create_topic(sns, names.topic, tags, say)
        return
    changes = _differences(present, TOPIC_ATTRIBUTES)
    for key, value in list(changes.items()):
        try:
            call(sns, "set_topic_attributes", TopicArn=arn, AttributeName=key, AttributeValue=value)
        except AwsError as error:
            if key not in _TOPIC_THROUGHPUT or not _is_wrong_parameter(error):
                raise
            del changes[key]
    call(sns, "tag_resource", ResourceArn=arn, Tags=tags)
    _say_existing(f"topic {names.topic}", changes, say)


def _create_topic(sns: Any, name: str, tags: list[dict[str, str]], say: Say) -> None:
    try:
        call(sns, "create_topic", Name=name, Attributes=TOPIC_ATTRIBUTES, Tags=tags)
    except AwsError as error:
        if not _is_wrong_parameter(error):
            raise
        # Not everywhere known; without it, 3,000 publishes/s of all rooms together are the limit.
        call(sns, "create_topic", Name=name, Attributes=_TOPIC, Tags=tags)
    say(f"made topic {name}")


def _is_wrong_parameter(error: AwsError) -> bool:
    return error.code.startswith("InvalidParameter")


def _differences(present: Mapping[str, str], wanted: Mapping[str, str]) -> dict[str, str]:
    return {key: value for key, value in wanted.items() if key not in _FIXED and present.get(key) != value}


def _say_existing(what: str, changes: Mapping[str, str], say: Say) -> None:
    if changes:
        say(f"changed {what}: " + ", ".join(f"{key} is {value or 'none'} now" for key, value in changes.items()))
    else:
        say(f"{what} exists")


@frozen
class Found:
    """What there is of a prefix.

    :ivar queues: to be removed: URL by name.
    :ivar messages: how many each of them holds, where it is not empty.
    :ivar subscriptions: how many the topic has.
    :ivar others: queues that are left alone: of another number of rooms or room queues, or without our tags.
    """

    queues: dict[str, str]
    messages: dict[str, int]
    topic_arn: str | None
    subscriptions: int
    others: list[str]

    def lines(self) -> list[str]:
        """What would be removed, and what would be left."""
        queues = [
            f"queue {name}" + (f" (messages: {self.messages[name]})" if name in self.messages else "")
            for name in self.queues
        ]
        topics = [self.topic_line()] if self.topic_arn else []
        return [*(f"would remove {what}" for what in topics + queues), *self.lines_about_others()]

    def topic_line(self) -> str:
        """The topic with its subscriptions."""
        name = (self.topic_arn or "").rsplit(":", 1)[-1]
        return f"topic {name} (subscriptions: {self.subscriptions})" if self.subscriptions else f"topic {name}"

    def lines_about_others(self) -> list[str]:
        """What is left alone."""
        return [f"leaves queue {name} alone: it is not of these settings" for name in self.others]


def find(clients: Clients, names: Names) -> Found:
    """What :func:`tear_down` would remove.

    :raises AwsError: a call failed.
    """
    sqs, sns = clients.sqs_control, clients.sns_control
    planned = {names.room_queue(lane) for lane in names.lanes} | {names.dead_letters}
    ours = re.compile(re.escape(names.prefix) + r"-(room-\d+|rooms-\d+of\d+|db-dlq|fanout-.+)\.fifo")
    present = {name: url for name, url in queues_beginning(sqs, names.prefix + "-").items() if ours.fullmatch(name)}
    queues, others = {}, []
    for name, url in sorted(present.items()):
        # The name of a fan-out queue is not known beforehand: the tag tells whose it is.
        is_own = name in planned or (
            name.startswith(names.fanout_prefix)
            and names.tags.items() <= call(sqs, "list_queue_tags", QueueUrl=url).get("Tags", {}).items()
        )
        if is_own:
            queues[name] = url
        else:
            others.append(name)
    topic_arn = _find_topic(sns, names.topic)
    subscriptions = _count_subscriptions(sns, topic_arn) if topic_arn else 0
    messages = {name: count for name, url in queues.items() if (count := _count_messages(sqs, url))}
    return Found(queues, messages, topic_arn, subscriptions, others)


def tear_down(clients: Clients, found: Found, say: Say) -> None:
    """Remove it: first the topic with its subscriptions, so that SNS delivers to nothing that is gone.

    :raises AwsError: a call failed; the same again goes on.
    """
    sqs, sns = clients.sqs_control, clients.sns_control
    if found.topic_arn:
        call(sns, "delete_topic", TopicArn=found.topic_arn)
        say(f"removed {found.topic_line()}")
    for name, url in found.queues.items():
        try:
            call(sqs, "delete_queue", QueueUrl=url)
        except AwsError as error:
            if not error.queue_is_missing:
                raise
        say(f"removed queue {name}")


def _find_topic(sns: Any, name: str) -> str | None:
    more: dict[str, str] = {}
    while True:
        page = call(sns, "list_topics", **more)
        for topic in page.get("Topics", ()):
            if topic["TopicArn"].endswith(f":{name}"):
                return str(topic["TopicArn"])
        if not page.get("NextToken"):
            return None
        more = {"NextToken": page["NextToken"]}


def _count_subscriptions(sns: Any, topic_arn: str) -> int:
    attributes = call(sns, "get_topic_attributes", TopicArn=topic_arn)["Attributes"]
    return int(attributes.get("SubscriptionsConfirmed", 0)) + int(attributes.get("SubscriptionsPending", 0))


def _count_messages(sqs: Any, url: str) -> int:
    attributes = call(
        sqs,
        "get_queue_attributes",
        QueueUrl=url,
        AttributeNames=["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"],
    )["Attributes"]
    return sum(int(value) for value in attributes.values())
