"""The whole stack: all concerns put together, with what it tells."""

from __future__ import annotations

from typing import Any

from scripts.aws import alarms, balancer, dashboard, database, instances, network, queues, rights
from scripts.aws.intrinsics import Resources, attribute, either, ref, sub
from scripts.aws.parameters import CONDITIONS, INTERFACE, PARAMETERS

#: AWS CloudFormation User Guide, quotas.
MAX_RESOURCES = 500
#: Of the daemon, see :mod:`chatflow.config`: a receive under way has to be waited for.
_LEAST_DRAIN_SECONDS = 30


def render(rooms: int = 20, room_queues: int = 0, drain_seconds: int = 60) -> dict[str, Any]:
    """The template.

    What decides how many resources there are, or takes arithmetic, is an argument, all else a parameter of the stack.

    :param rooms: as ``--rooms``.
    :param room_queues: as ``--room-queues``: 0 for one queue per room.
    :param drain_seconds: as ``--drain-seconds``. How long an instance that ends may take follows from it.
    :raises ValueError: one of them is not possible.
    """
    if rooms < 1:
        raise ValueError(f"rooms is {rooms}: it must be at least 1")
    if room_queues < 0:
        raise ValueError(f"room_queues is {room_queues}: it must be at least 0")
    if not _LEAST_DRAIN_SECONDS <= drain_seconds <= 3600:
        raise ValueError(f"drain_seconds is {drain_seconds}: it must be from {_LEAST_DRAIN_SECONDS} to 3600")
    names = queues.names(rooms, room_queues)
    resources: Resources = {
        **network.make(),
        **database.make(),
        **queues.make(names),
        **rights.make(names),
        **balancer.make(drain_seconds=drain_seconds),
        **instances.make(
            rooms=rooms,
            room_queues=room_queues,
            drain_seconds=drain_seconds,
            room_queue_ids=[queues.room_queue_id(shard) for shard in names.shards],
        ),
        **alarms.make(names),
        **dashboard.make(names),
    }
    if len(resources) > MAX_RESOURCES:
        # Each queue has an alarm.
        most = len(names.shards) - (len(resources) - MAX_RESOURCES + 1) // 2
        raise ValueError(
            f"{len(names.shards)} room queues make {len(resources)} resources, and CloudFormation takes "
            f"{MAX_RESOURCES}: let rooms share queues with room_queues of at most {most}"
        )
    return {
        "AWSTemplateFormatVersion": "2010-09-09",
        "Description": f"ChatFlow for {rooms} rooms: load balancer, instances, SQS and SNS, Aurora PostgreSQL. "
        "Made by scripts/aws; docs/deployment.rst explains it.",
        "Metadata": {
            "AWS::CloudFormation::Interface": INTERFACE,
            "ChatFlow": {"Rooms": rooms, "RoomQueues": room_queues, "DrainSeconds": drain_seconds},
        },
        "Parameters": PARAMETERS,
        "Conditions": CONDITIONS,
        "Resources": resources,
        "Outputs": _outputs(drain_seconds),
    }


def _outputs(drain_seconds: int) -> dict[str, Any]:
    host = either("HasDomainName", ref("DomainName"), attribute("LoadBalancer", "DNSName"))
    outputs = {
        "Url": (
            "Where clients connect",
            sub("${Scheme}://${Host}/", Scheme=either("HasCertificate", "https", "http"), Host=host),
        ),
        "LoadBalancerDnsName": ("For a DNS record", attribute("LoadBalancer", "DNSName")),
        "TargetGroupArn": ("The instances as the load balancer sees them", ref("TargetGroup")),
        "AutoScalingGroupName": ("The group of the instances", ref("AutoScalingGroup")),
        "LaunchTemplateId": ("How an instance is made", ref("LaunchTemplate")),
        "DatabaseEndpoint": ("The writer", attribute("DatabaseCluster", "Endpoint.Address")),
        "DatabaseReaderEndpoint": ("For reports", attribute("DatabaseCluster", "ReadEndpoint.Address")),
        "DatabaseClusterIdentifier": ("For snapshots and restores", ref("DatabaseCluster")),
        "DatabaseSecretArn": ("User and password of the database, changed every week", database.SECRET),
        "ArtefactBucketName": ("Where releases are", ref("ArtefactBucket")),
        "ReleaseKey": ("What new instances install", ref("ReleaseKey")),
        "QueuePrefix": ("For chatflow-admin", ref("QueuePrefix")),
        "FanoutTopicArn": ("What was stored, for the other instances", ref("FanoutTopic")),
        "DeadLetterQueueUrl": ("What the database refused", ref("DeadLetterQueue")),
        "AlarmTopicArn": ("For further subscribers", ref("AlarmTopic")),
        "DashboardName": ("In CloudWatch", ref("Dashboard")),
        "LogGroupName": ("The daemons' log", ref("DaemonLogGroup")),
        "VpcId": ("The network", ref("Vpc")),
        "DrainSeconds": ("How long an instance may take to stop", str(drain_seconds)),
    }
    return {name: {"Description": description, "Value": value} for name, (description, value) in outputs.items()}
