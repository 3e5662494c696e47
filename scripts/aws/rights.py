"""What an instance may do in AWS: what its daemon calls (``docs/cluster.rst``) on its prefix, and its own upkeep."""

from __future__ import annotations

from typing import Any

from chatflow.broker.names import Names
from scripts.aws.database import SECRET
from scripts.aws.intrinsics import Resources, Value, allow, arn, policy, ref, sub, tags

# Messages: of the rooms, of the dead letters, and what others announce.
_MESSAGES = [
    "sqs:GetQueueUrl",
    "sqs:GetQueueAttributes",
    "sqs:SendMessage",
    "sqs:ReceiveMessage",
    "sqs:DeleteMessage",
    "sqs:ChangeMessageVisibility",
]
# An instance makes a queue at its start, and removes it, or that of an instance which died.
_FANOUT_QUEUES = ["sqs:CreateQueue", "sqs:DeleteQueue", "sqs:TagQueue"]
_TOPIC = ["sns:Publish", "sns:Subscribe", "sns:Unsubscribe", "sns:GetTopicAttributes", "sns:ListSubscriptionsByTopic"]


def make(names: Names) -> Resources:
    """The role and its profile."""
    return {
        "InstanceRole": {
            "Type": "AWS::IAM::Role",
            "Properties": {
                "Description": "ChatFlow's instances",
                "AssumeRolePolicyDocument": policy(
                    {"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}
                ),
                "Policies": [
                    {"PolicyName": "daemon", "PolicyDocument": policy(*_daemon(names))},
                    {"PolicyName": "instance", "PolicyDocument": policy(*_instance())},
                ],
                "Tags": tags(),
            },
        },
        "InstanceProfile": {"Type": "AWS::IAM::InstanceProfile", "Properties": {"Roles": [ref("InstanceRole")]}},
    }


def _daemon(names: Names) -> list[dict[str, Any]]:
    fanout_queues = arn("sqs", f"{names.fanout_prefix}*.fifo")
    # The hyphens keep out another deployment whose prefix begins like ours.
    rooms = [arn("sqs", f"{names.prefix}-{kind}-*.fifo") for kind in ("room", "rooms")]
    return [
        allow(_MESSAGES, [*rooms, arn("sqs", names.dead_letters), fanout_queues], Sid="Messages"),
        allow(_FANOUT_QUEUES, fanout_queues, Sid="FanoutQueues"),
        allow(_TOPIC, [arn("sns", names.topic), arn("sns", f"{names.topic}:*")], Sid="Fanout"),  # and its subscriptions
    ]


def _instance() -> list[dict[str, Any]]:
    group = "${AWS::StackName}"
    logs = f"log-group:/{group}/"
    return [
        allow(["s3:GetObject"], _in_bucket("releases/*"), Sid="Release"),
        allow(["secretsmanager:GetSecretValue"], SECRET, Sid="DatabasePassword"),
        allow(
            ["logs:CreateLogStream", "logs:PutLogEvents", "logs:DescribeLogStreams"],
            [arn("logs", f"{logs}{name}{stream}") for name in ("daemon", "system") for stream in ("", ":log-stream:*")],
            Sid="Logs",
        ),
        allow(
            ["autoscaling:CompleteLifecycleAction"],
            arn("autoscaling", f"autoScalingGroup:*:autoScalingGroupName/{group}"),
            Sid="EndOfTheDrain",
        ),
        # What Session Manager and Run Command need; these actions take no narrower resource. AWS's own managed policy
        # would let an instance read every SSM parameter of the account.
        allow(
            [
                "ssm:UpdateInstanceInformation",
                "ssmmessages:CreateControlChannel",
                "ssmmessages:CreateDataChannel",
                "ssmmessages:OpenControlChannel",
                "ssmmessages:OpenDataChannel",
            ],
            "*",
            Sid="SessionManager",
        ),
    ]


def _in_bucket(keys: str) -> Value:
    return sub(f"arn:${{AWS::Partition}}:s3:::${{ArtefactBucket}}/{keys}")
