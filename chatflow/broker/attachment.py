"""A fan-out queue of an instance: made and subscribed to the topic, and removed again."""

from __future__ import annotations

import json

from attrs import frozen

from chatflow.broker.interfaces import Calls
from chatflow.broker.lookup import require_topic
from chatflow.broker.names import Names

#: The message attribute by which subscriptions filter: the fan-out queue of who publishes.
FROM = "from"

_RETENTION_SECONDS = 300
#: What is received is deleted at once; and until it is visible again, nothing else of its room is given.
_VISIBILITY_SECONDS = 5


@frozen
class Attachment:
    """This instance's queue and its subscription."""

    queue_name: str
    queue_url: str
    subscription_arn: str


async def attach(calls: Calls, names: Names, queue_name: str) -> Attachment:
    """Make the queue with its policy, then subscribe it to what others publish. Repeating it is harmless.

    A policy set later would take up to a minute to count, and messages sent meanwhile would be dropped. What is
    published under the queue's own name is filtered out: the hub had it before.

    :raises AwsError: a call failed.
    :raises StartupError: there is no topic.
    """
    topic_arn = await require_topic(calls, names)
    partition, _, region, account = topic_arn.split(":")[1:5]
    queue_arn = f"arn:{partition}:sqs:{region}:{account}:{queue_name}"
    policy = {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Sid": "fanout",
                "Effect": "Allow",
                "Principal": {"Service": "sns.amazonaws.com"},
                "Action": "sqs:SendMessage",
                "Resource": queue_arn,
                "Condition": {"ArnEquals": {"aws:SourceArn": topic_arn}},
            }
        ],
    }
    queue = await calls.sqs(
        "create_queue",
        QueueName=queue_name,
        Attributes={
            "FifoQueue": "true",
            "DeduplicationScope": "messageGroup",
            "FifoThroughputLimit": "perMessageGroupId",
            "MessageRetentionPeriod": str(_RETENTION_SECONDS),
            "VisibilityTimeout": str(_VISIBILITY_SECONDS),
            "Policy": json.dumps(policy),
        },
        tags=names.tags,
    )
    subscription = await calls.sns(
        "subscribe",
        TopicArn=topic_arn,
        Protocol="sqs",
        Endpoint=queue_arn,
        Attributes={
            "RawMessageDelivery": "true",
            "FilterPolicy": json.dumps({FROM: [{"anything-but": [queue_name]}]}),
        },
        ReturnSubscriptionArn=True,
    )
    return Attachment(queue_name, queue["QueueUrl"], subscription["SubscriptionArn"])


async def detach(calls: Calls, attachment: Attachment) -> None:
    """Unsubscribe, then delete the queue: the other way round SNS would count failed deliveries.

    :raises AwsError: a call failed.
    """
    try:
        await calls.sns("unsubscribe", SubscriptionArn=attachment.subscription_arn)
    finally:
        await calls.sqs("delete_queue", QueueUrl=attachment.queue_url)
