"""Alarms: what somebody should look at, told to one topic. ``docs/deployment.rst`` says what to do about each."""

from __future__ import annotations

from typing import Any

from chatflow.broker.names import Names
from scripts.aws.intrinsics import Resources, Value, attribute, policy, ref, sub, tags
from scripts.aws.queues import room_queue_id

_WRITER = {"DBClusterIdentifier": ref("DatabaseCluster"), "Role": "WRITER"}
_BALANCER = {"LoadBalancer": attribute("LoadBalancer", "LoadBalancerFullName")}
_TARGETS = {**_BALANCER, "TargetGroup": attribute("TargetGroup", "TargetGroupFullName")}


def make(names: Names) -> Resources:
    """The topic, its subscriber and the alarms."""
    return {**_topic(), **_of_rooms(names), **_of_service(), **_of_database()}


def _topic() -> Resources:
    return {
        # Not encrypted: CloudWatch may not use the key that AWS manages for SNS, and names of alarms are no secret.
        "AlarmTopic": {
            "Type": "AWS::SNS::Topic",
            "Properties": {"TopicName": sub("${AWS::StackName}-alarms"), "Tags": tags()},
        },
        "AlarmTopicPolicy": {
            "Type": "AWS::SNS::TopicPolicy",
            "Properties": {
                "Topics": [ref("AlarmTopic")],
                "PolicyDocument": policy(
                    {
                        "Effect": "Allow",
                        "Principal": {"Service": "cloudwatch.amazonaws.com"},
                        "Action": "sns:Publish",
                        "Resource": ref("AlarmTopic"),
                        "Condition": {"StringEquals": {"aws:SourceAccount": ref("AWS::AccountId")}},
                    }
                ),
            },
        },
        "AlarmSubscription": {
            "Type": "AWS::SNS::Subscription",
            "Condition": "HasAlarmEmail",
            "Properties": {"TopicArn": ref("AlarmTopic"), "Protocol": "email", "Endpoint": ref("AlarmEmail")},
        },
    }


def _of_rooms(names: Names) -> Resources:
    made: Resources = {}
    for shard in names.shards:
        rooms = names.shard_rooms(shard)
        # A queue without messages for six hours reports nothing: that is no alarm.
        made[f"{room_queue_id(shard)}OldestMessage"] = _alarm(
            names.room_queue(shard).removeprefix("${QueuePrefix}-").removesuffix(".fifo") + "-oldest-message",
            f"Messages of room {', '.join(map(str, rooms[:10]))}{' …' if len(rooms) > 10 else ''} wait to be stored "
            "and delivered: is the database away, or are the instances too busy?",
            "AWS/SQS",
            "ApproximateAgeOfOldestMessage",
            {"QueueName": attribute(room_queue_id(shard), "QueueName")},
            ">",
            ref("OldestMessageSeconds"),
            minutes=3,
        )
    made["DeadLetters"] = _alarm(
        "dead-letters",
        "The database refused messages that were acknowledged: chatflow-admin dlq list says which and why",
        "AWS/SQS",
        "ApproximateNumberOfMessagesVisible",
        {"QueueName": attribute("DeadLetterQueue", "QueueName")},
        ">",
        0,
        minutes=1,
    )
    return made


def _of_service() -> Resources:
    return {
        # An instance that is replaced is away for some minutes: that is no alarm.
        "ReadyInstances": _alarm(
            "ready-instances",
            "Fewer instances are ready than there should be, for longer than it takes to replace one",
            "AWS/ApplicationELB",
            "HealthyHostCount",
            _TARGETS,
            "<",
            ref("InstanceCount"),
            minutes=15,
            statistic="Minimum",
            missing="breaching",
        ),
        "NoReadyInstance": _alarm(
            "no-ready-instance",
            "No instance is ready: nobody can connect",
            "AWS/ApplicationELB",
            "HealthyHostCount",
            _TARGETS,
            "<",
            1,
            minutes=2,
            statistic="Maximum",
            missing="breaching",
        ),
        "RefusedRequests": _alarm(
            "refused-requests",
            "Requests or connections are answered with 5xx: instances are full, stopping or away",
            "AWS/ApplicationELB",
            "HTTPCode_Target_5XX_Count",
            _BALANCER,
            ">",
            100,
            minutes=5,
            statistic="Sum",
        ),
        "InstanceCpu": _alarm(
            "instance-cpu",
            "The instances are busy: add some, or merge room queues (docs/cluster.rst)",
            "AWS/EC2",
            "CPUUtilization",
            {"AutoScalingGroupName": ref("AutoScalingGroup")},
            ">",
            80,
            minutes=15,
            period_seconds=300,
            statistic="Average",
        ),
    }


def _of_database() -> Resources:
    return {
        "DatabaseCpu": _alarm(
            "database-cpu",
            "The writer is busy: look at Performance Insights, take a larger class",
            "AWS/RDS",
            "CPUUtilization",
            _WRITER,
            ">",
            80,
            minutes=15,
            statistic="Average",
        ),
        "DatabaseConnections": _alarm(
            "database-connections",
            "More connections than the instances should have: who else connects?",
            "AWS/RDS",
            "DatabaseConnections",
            _WRITER,
            ">",
            ref("DatabaseConnectionsAlarm"),
            minutes=5,
        ),
        "DatabaseStorage": _alarm(
            "database-storage",
            "The database holds more than planned: set --retention-days, or raise DatabaseGigabytesAlarm",
            "AWS/RDS",
            "VolumeBytesUsed",
            {"DBClusterIdentifier": ref("DatabaseCluster")},
            ">",
            # CloudFormation cannot multiply: bytes are gigabytes with nine more digits.
            sub("${DatabaseGigabytesAlarm}000000000"),
            minutes=60,
            period_seconds=3600,
        ),
        "DatabaseLocalStorage": _alarm(
            "database-local-storage",
            "The writer's space for sorting and for logs is nearly used up, and queries will fail",
            "AWS/RDS",
            "FreeLocalStorage",
            _WRITER,
            "<",
            1_000_000_000,
            minutes=15,
            statistic="Minimum",
        ),
    }


def _alarm(
    name: str,
    description: str,
    namespace: str,
    metric: str,
    dimensions: dict[str, Value],
    comparison: str,
    threshold: Value,
    *,
    minutes: int,
    period_seconds: int = 60,
    statistic: str = "Maximum",
    missing: str = "notBreaching",
) -> dict[str, Any]:
    """One that is told, and told again when it is over.

    :param minutes: for how long the metric has to be beyond the threshold, without a break.
    """
    return {
        "Type": "AWS::CloudWatch::Alarm",
        "Properties": {
            "AlarmName": sub(f"${{AWS::StackName}}-{name}"),
            "AlarmDescription": description,
            "Namespace": namespace,
            "MetricName": metric,
            "Dimensions": [{"Name": key, "Value": value} for key, value in dimensions.items()],
            "ComparisonOperator": {">": "GreaterThanThreshold", "<": "LessThanThreshold"}[comparison],
            "Threshold": threshold,
            "Statistic": statistic,
            "Period": period_seconds,
            "EvaluationPeriods": minutes * 60 // period_seconds,
            "TreatMissingData": missing,
            "AlarmActions": [ref("AlarmTopic")],
            "OKActions": [ref("AlarmTopic")],
            "Tags": tags(),
        },
    }
