"""Where queues and the topic are, by their names."""

from __future__ import annotations

from chatflow.broker.aws import AwsError
from chatflow.broker.interfaces import Calls
from chatflow.broker.names import Names
from chatflow.errors import StartupError


async def queue_url(calls: Calls, name: str) -> str | None:
    """A queue's URL; None if there is no such queue.

    :raises AwsError: the call failed.
    """
    try:
        return str((await calls.sqs("get_queue_url", QueueName=name))["QueueUrl"])
    except AwsError as error:
        if error.is_missing:
            return None
        raise


async def require_queue(calls: Calls, name: str) -> str:
    """The URL of a queue that must be there.

    :raises StartupError: there is none, or AWS does not answer.
    """
    try:
        url = await queue_url(calls, name)
    except AwsError as error:
        raise StartupError(f"cannot find queue {name}: {error}") from error
    if url is None:
        raise StartupError(f"there is no queue {name}: run `chatflow-admin setup`")
    return url


async def queue_attributes(calls: Calls, url: str, *names: str) -> dict[str, str]:
    """Those attributes of a queue that have these names, as far as it has them.

    :raises AwsError: the call failed.
    """
    answer = await calls.sqs("get_queue_attributes", QueueUrl=url, AttributeNames=list(names))
    attributes: dict[str, str] = answer.get("Attributes", {})
    return attributes


async def topic_arn(calls: Calls, names: Names) -> str | None:
    """What the ARN of the topic is, whether it exists or not; None if the objects of the prefix do not exist.

    Its partition, region and account are those of the dead letter queue, which the same set-up made.

    :raises AwsError: a call failed.
    """
    url = await queue_url(calls, names.dead_letters)
    if url is None:
        return None
    return names.topic_arn((await queue_attributes(calls, url, "QueueArn"))["QueueArn"])


async def topic_attributes(calls: Calls, arn: str) -> dict[str, str] | None:
    """A topic's attributes; None if there is no such topic.

    :raises AwsError: the call failed.
    """
    try:
        attributes: dict[str, str] = (await calls.sns("get_topic_attributes", TopicArn=arn))["Attributes"]
    except AwsError as error:
        if error.is_missing:
            return None
        raise
    return attributes


async def require_topic(calls: Calls, names: Names) -> str:
    """The ARN of the topic, which must be there.

    :raises AwsError: a call failed.
    :raises StartupError: the objects of the prefix do not exist.
    """
    arn = await topic_arn(calls, names)
    if arn is None or await topic_attributes(calls, arn) is None:
        raise StartupError(f"there is no topic {names.topic} or queue {names.dead_letters}: run `chatflow-admin setup`")
    return arn
