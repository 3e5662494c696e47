"""A CloudWatch dashboard: what AWS knows of the deployment on one page. ``/metrics`` of the daemons knows more."""

from __future__ import annotations

import json
from typing import Any

from chatflow.broker.names import Names
from scripts.aws.intrinsics import Resources, sub

_WIDTH, _HEIGHT = 12, 6  # two in a row: the page is 24 units wide
_MAX_METRICS = 100  # more lines than this in a chart cannot be told apart, and CloudWatch draws 500 at most

_BALANCER = ["LoadBalancer", "${LoadBalancer.LoadBalancerFullName}"]
_TARGETS = ["TargetGroup", "${TargetGroup.TargetGroupFullName}", *_BALANCER]
_WRITER = ["DBClusterIdentifier", "${DatabaseCluster}", "Role", "WRITER"]
_VOLUME = ["DBClusterIdentifier", "${DatabaseCluster}"]


def make(names: Names) -> Resources:
    """The dashboard, named like the stack and its region: names are the account's, not the region's."""
    queues = [names.room_queue(shard) for shard in names.shards][:_MAX_METRICS]

    def of_rooms(metric: str) -> list[list[Any]]:
        return [["AWS/SQS", metric, "QueueName", queue] for queue in queues]

    charts = [
        _chart("Instances that are ready", "Minimum", [["AWS/ApplicationELB", "HealthyHostCount", *_TARGETS]]),
        _chart("Open connections", "Sum", [["AWS/ApplicationELB", "ActiveConnectionCount", *_BALANCER]]),
        _chart("Oldest message of each room, seconds", "Maximum", of_rooms("ApproximateAgeOfOldestMessage")),
        _chart("Messages that wait, by room", "Maximum", of_rooms("ApproximateNumberOfMessagesVisible")),
        _chart(
            "Dead letters",
            "Maximum",
            [["AWS/SQS", "ApproximateNumberOfMessagesVisible", "QueueName", names.dead_letters]],
        ),
        _chart("Messages that are published, by room", "Sum", of_rooms("NumberOfMessagesSent")),
        _chart(
            "Fan-out",
            "Sum",
            [
                ["AWS/SNS", metric, "TopicName", names.topic]
                for metric in (
                    "NumberOfMessagesPublished",
                    "NumberOfNotificationsDelivered",
                    "NumberOfNotificationsFailed",
                )
            ],
        ),
        _chart(
            "Requests and errors",
            "Sum",
            [
                ["AWS/ApplicationELB", metric, *_BALANCER]
                for metric in ("RequestCount", "HTTPCode_ELB_5XX_Count", "HTTPCode_Target_5XX_Count")
            ],
        ),
        _chart(
            "Processors of the instances, %",
            "Average",
            [["AWS/EC2", "CPUUtilization", "AutoScalingGroupName", "${AutoScalingGroup}"]],
        ),
        _chart("Processor of the database, %", "Average", [["AWS/RDS", "CPUUtilization", *_WRITER]]),
        _chart("Connections to the database", "Maximum", [["AWS/RDS", "DatabaseConnections", *_WRITER]]),
        _chart(
            "Commits of the database in a second, and their time in ms",
            "Average",
            [["AWS/RDS", "CommitThroughput", *_WRITER], ["AWS/RDS", "CommitLatency", *_WRITER, {"yAxis": "right"}]],
        ),
        _chart("Storage, bytes", "Maximum", [["AWS/RDS", "VolumeBytesUsed", *_VOLUME]], period_seconds=3600),
        _chart("Free local storage of the writer, bytes", "Minimum", [["AWS/RDS", "FreeLocalStorage", *_WRITER]]),
    ]
    for index, chart in enumerate(charts):
        chart.update(x=index % 2 * _WIDTH, y=index // 2 * _HEIGHT, width=_WIDTH, height=_HEIGHT)
    return {
        "Dashboard": {
            "Type": "AWS::CloudWatch::Dashboard",
            "Properties": {
                "DashboardName": sub("${AWS::StackName}-${AWS::Region}"),
                "DashboardBody": sub(json.dumps({"widgets": charts}, separators=(",", ":"))),
            },
        }
    }


def _chart(title: str, statistic: str, metrics: list[list[Any]], *, period_seconds: int = 60) -> dict[str, Any]:
    return {
        "type": "metric",
        "properties": {
            "title": title,
            "region": "${AWS::Region}",
            "stat": statistic,
            "period": period_seconds,
            "view": "timeSeries",
            "yAxis": {"left": {"min": 0}},
            "metrics": metrics,
        },
    }
