"""The lasting AWS objects of a prefix, made and removed. For commands, over calls that block.

Room queues, topic and dead letter queue are made by an operator or a deployment, never by the daemon: it needs no
right to. (Fan-out queues are the daemon's own; what is left of them is removed here, too.)
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from attrs import frozen

from chatflow.broker.aws import AwsError
from chatflow.broker.depth import ask_depth
from chatflow.broker.interfaces import Calls
from chatflow.broker.lookup import queue_attributes, queue_url, topic_attributes
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


async def set_up(calls: Calls, names: Names, say: Say) -> None:
    """Make what is missing, and correct the attributes and tags of what exists. Several at once do no harm.

    :param say: takes a line for each queue and topic: that it exists, was changed or was made.
    :raises AwsError: a call failed; what was made before it stays.
    """
    dead_letters_url = await _make_queue(calls, names.dead_letters, QUEUE_ATTRIBUTES, names.tags, say)
    for shard in names.shards:
        await _make_queue(calls, names.room_queue(shard), QUEUE_ATTRIBUTES, names.tags, say)
    # Asked last: a queue may be used a second after it was made. Its ARN tells partition, region and account.
    queue_arn = (await queue_attributes(calls, dead_letters_url, "QueueArn"))["QueueArn"]
    await _make_topic(calls, names.topic_arn(queue_arn), names, say)
    for name, count in (await find_stranded(calls, names)).items():
        say(
            f"queue {name} holds messages that no instance with these settings receives: {count}. Run one with "
            f"{names.settings_of(name)} until it is empty"
        )


async def find_stranded(calls: Calls, names: Names) -> dict[str, int]:
    """Room queues of the prefix that other settings made and that are not empty, with how many messages they hold.

    :raises AwsError: a call failed.
    """
    urls = await queues_beginning(calls, f"{names.prefix}-room")
    others = {name: url for name, url in sorted(urls.items()) if names.settings_of(name)}
    return {name: count for name, url in others.items() if (count := await _count_messages(calls, url))}


async def _make_queue(calls: Calls, name: str, wanted: Mapping[str, str], tags: Mapping[str, str], say: Say) -> str:
    url = await queue_url(calls, name)
    if url is None:
        made = await calls.sqs("create_queue", QueueName=name, Attributes=dict(wanted), tags=dict(tags))
        say(f"made queue {name}")
        return str(made["QueueUrl"])
    present = await queue_attributes(calls, url, "All")
    changes = _differences(present, wanted)
    if "RedrivePolicy" in present:
        # It would move an envelope away that failed some times, and the room's later ones would overtake it.
        changes["RedrivePolicy"] = ""
    if changes:
        await calls.sqs("set_queue_attributes", QueueUrl=url, Attributes=changes)
    present_tags = (await calls.sqs("list_queue_tags", QueueUrl=url)).get("Tags", {})
    if not tags.items() <= present_tags.items():
        await calls.sqs("tag_queue", QueueUrl=url, Tags=dict(tags))
        changes["tags"] = ", ".join(f"{key}={value}" for key, value in tags.items())
    _say_existing(f"queue {name}", changes, say)
    return url


async def _make_topic(calls: Calls, arn: str, names: Names, say: Say) -> None:
    tags = [{"Key": key, "Value": value} for key, value in names.tags.items()]
    present = await topic_attributes(calls, arn)
    if present is None:
        await _create_topic(calls, names.topic, tags, say)
        return
    changes = _differences(present, TOPIC_ATTRIBUTES)
    for key, value in list(changes.items()):
        try:
            await calls.sns("set_topic_attributes", TopicArn=arn, AttributeName=key, AttributeValue=value)
        except AwsError as error:
            if key not in _TOPIC_THROUGHPUT or not _is_wrong_parameter(error):
                raise
            del changes[key]
    await calls.sns("tag_resource", ResourceArn=arn, Tags=tags)
    _say_existing(f"topic {names.topic}", changes, say)


async def _create_topic(calls: Calls, name: str, tags: list[dict[str, str]], say: Say) -> None:
    try:
        await calls.sns("create_topic", Name=name, Attributes=TOPIC_ATTRIBUTES, Tags=tags)
    except AwsError as error:
        if not _is_wrong_parameter(error):
            raise
        # Not everywhere known; without it, 3,000 publishes/s of all rooms together are the limit.
        await calls.sns("create_topic", Name=name, Attributes=_TOPIC, Tags=tags)
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
        """Lines about queues under the prefix that are not of these settings, and so are left alone."""
        return [f"leaves queue {name} alone: it is not of these settings" for name in self.others]


async def find(calls: Calls, names: Names) -> Found:
    """What :func:`tear_down` would remove.

    :raises AwsError: a call failed.
    """
    planned = {names.room_queue(shard) for shard in names.shards} | {names.dead_letters}
    ours = re.compile(re.escape(names.prefix) + r"-(room-\d+|rooms-\d+of\d+|db-dlq|fanout-.+)\.fifo")
    found = await queues_beginning(calls, names.prefix + "-")
    present = {name: url for name, url in found.items() if ours.fullmatch(name)}
    queues, others = {}, []
    for name, url in sorted(present.items()):
        # The name of a fan-out queue is not known beforehand: the tag tells whose it is.
        is_own = name in planned or (
            name.startswith(names.fanout_prefix)
            and names.tags.items() <= (await calls.sqs("list_queue_tags", QueueUrl=url)).get("Tags", {}).items()
        )
        if is_own:
            queues[name] = url
        else:
            others.append(name)
    arn = await _find_topic(calls, names.topic)
    subscriptions = await _count_subscriptions(calls, arn) if arn else 0
    messages = {name: count for name, url in queues.items() if (count := await _count_messages(calls, url))}
    return Found(queues, messages, arn, subscriptions, others)


async def tear_down(calls: Calls, found: Found, say: Say) -> None:
    """Remove it: first the topic with its subscriptions, so that SNS delivers to nothing that is gone.

    :raises AwsError: a call failed; the same again goes on.
    """
    if found.topic_arn:
        await calls.sns("delete_topic", TopicArn=found.topic_arn)
        say(f"removed {found.topic_line()}")
    for name, url in found.queues.items():
        try:
            await calls.sqs("delete_queue", QueueUrl=url)
        except AwsError as error:
            if not error.is_missing:
                raise
        say(f"removed queue {name}")


async def _find_topic(calls: Calls, name: str) -> str | None:
    more: dict[str, str] = {}
    while True:
        page = await calls.sns("list_topics", **more)
        for topic in page.get("Topics", ()):
            if topic["TopicArn"].endswith(f":{name}"):
                return str(topic["TopicArn"])
        if not page.get("NextToken"):
            return None
        more = {"NextToken": page["NextToken"]}


async def _count_subscriptions(calls: Calls, arn: str) -> int:
    attributes = await topic_attributes(calls, arn) or {}
    return int(attributes.get("SubscriptionsConfirmed", 0)) + int(attributes.get("SubscriptionsPending", 0))


async def _count_messages(calls: Calls, url: str) -> int:
    depth = await ask_depth(calls, url)
    return depth.waiting + depth.in_flight


async def queues_beginning(calls: Calls, prefix: str) -> dict[str, str]:
    """The URL of every queue whose name begins so, by name.

    :raises AwsError: a call failed.
    """
    urls: list[str] = []
    more: dict[str, Any] = {}
    while True:
        page = await calls.sqs("list_queues", QueueNamePrefix=prefix, MaxResults=1000, **more)
        urls += page.get("QueueUrls", ())
        if not page.get("NextToken"):
            return {url.rsplit("/", 1)[-1]: url for url in urls}
        more = {"NextToken": page["NextToken"]}
