"""A fan-out queue of an instance: made and subscribed to the topic, and removed again. Functions that block."""

from __future__ import annotations

import json

from attrs import frozen

from chatflow.broker.aws import Clients
from chatflow.broker.names import Names
from chatflow.errors import StartupError

#: The message attribute by which subscriptions filter: the fan-out queue of who publishes.
FROM = "from"

_RETENTION_SECONDS = 300
#: What is heard is deleted at once; and until it is visible again, nothing else of its room is given.
_VISIBILITY_SECONDS = 5


@frozen
class Attachment:
    """This instance's queue and its subscription."""

    queue_name: str
    queue_url: str
    subscription_arn: str


def attach_in_thread(clients: Clients, names: Names, queue_name: str) -> Attachment:
    """Make the queue with its policy, then subscribe it to what others publish. Repeating it is harmless.

    A policy set later would take up to a minute to count, and messages sent meanwhile would be dropped. What is
    published under the queue's own name is filtered out: the hub had it before.

    :raises StartupError: there is no topic.
    """
    topic_arn = topic_arn_in_thread(clients, names)
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
    queue_url = clients.sqs_control.create_queue(
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
    )["QueueUrl"]
    subscription_arn = clients.sns_control.subscribe(
        TopicArn=topic_arn,
        Protocol="sqs",
        Endpoint=queue_arn,
        Attributes={
            "RawMessageDelivery": "true",
            "FilterPolicy": json.dumps({FROM: [{"anything-but": [queue_name]}]}),
        },
        ReturnSubscriptionArn=True,
    )["SubscriptionArn"]
    return Attachment(queue_name, queue_url, subscription_arn)


def detach_in_thread(clients: Clients, attachment: Attachment) -> None:
    """Unsubscribe, then delete the queue: the other way round SNS would count failed deliveries."""
    try:
        clients.sns_control.unsubscribe(SubscriptionArn=attachment.subscription_arn)
    finally:
        clients.sqs_control.delete_queue(QueueUrl=attachment.queue_url)


def topic_arn_in_thread(clients: Clients, names: Names) -> str:
    """The topic's ARN. Its account is that of the dead letter queue, which the same set-up made.

    :raises StartupError: the objects are not there.
    """
    sqs, sns = clients.sqs_control, clients.sns_control
    try:
        url = sqs.get_queue_url(QueueName=names.dead_letters)["QueueUrl"]
        attributes = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]
        topic_arn = names.topic_arn(attributes["QueueArn"])
        sns.get_topic_attributes(TopicArn=topic_arn)
    except (sqs.exceptions.QueueDoesNotExist, sns.exceptions.NotFoundException):
        raise StartupError(
            f"there is no topic {names.topic} or queue {names.dead_letters}: run `chatflow-admin setup`"
        ) from None
    return topic_arn
