"""The instances of a stack on AWS, as a place to roll a release through.

An instance is not changed in place: it is terminated, drains while the group's lifecycle hook waits for it, and the
group starts one from the launch template's newest version instead. So what runs is what the template says and nothing
else; there is one way to install a release, that of the first day; and every machine is as young as its release.
Taking it out of the target group before that, and not leaving it to the termination, means that it gets no new client
in the seconds that the load balancer needs to learn of it.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from botocore.exceptions import ClientError

from chatflow.broker.names import Names
from scripts.deployment.errors import Stopped
from scripts.deployment.fleet import Instance, State
from scripts.deployment.session import Session

_RELEASE = re.compile(r"releases/chatflow-[0-9A-Za-z.+_-]+\.tar\.gz")
# CloudWatch's figures of SQS come every minute, and some minutes late.
_LAG_WINDOW = timedelta(minutes=10)
_WAY_BACK_TAG = "chatflow:way-back"
_MAX_QUERIES = 500  # of one GetMetricData (CloudWatch's quotas)


class GroupFleet:
    """A :class:`~scripts.deployment.fleet.Fleet`: an auto scaling group behind a target group.

    :param group: the name of the group. :param target_group: the ARN.
    :param names: of the queues, for the lag.
    :param now: seconds since the epoch.
    """

    #: The load balancer's nodes learn one after the other that a target is being deregistered.
    settle_seconds = 10.0

    def __init__(self, session: Session, group: str, target_group: str, names: Names, now: Callable[[], float]) -> None:
        self._autoscaling = session.client("autoscaling")
        self._ec2 = session.client("ec2")
        self._balancer = session.client("elbv2")
        self._sqs = session.client("sqs")
        self._cloudwatch = session.client("cloudwatch")
        self._group = group
        self._target_group = target_group
        self._names = names
        self._now = now
        self._templates: dict[tuple[str, str], dict[str, Any]] = {}

    def instances(self) -> Sequence[Instance]:
        found = self._autoscaling.describe_auto_scaling_groups(AutoScalingGroupNames=[self._group])["AutoScalingGroups"]
        if not found:
            raise Stopped(f"there is no auto scaling group {self._group}", "look at the stack: scripts/deploy status")
        group = found[0]
        health = self._balancer.describe_target_health(TargetGroupArn=self._target_group)["TargetHealthDescriptions"]
        wanted = self._template(group["LaunchTemplate"], newest=True)
        runs = {each["InstanceId"]: self._template(each["LaunchTemplate"]) for each in group["Instances"]}
        return instances_of(group, health, wanted, runs)

    def take_out(self, instance: Instance) -> None:
        self._balancer.deregister_targets(TargetGroupArn=self._target_group, Targets=[{"Id": instance.name}])

    def stop(self, instance: Instance) -> None:
        try:
            self._autoscaling.terminate_instance_in_auto_scaling_group(
                InstanceId=instance.name, ShouldDecrementDesiredCapacity=False
            )
        except ClientError as error:
            if not any(one.name == instance.name for one in self.instances()):
                return  # it has gone meanwhile
            raise Stopped(f"{instance.name} cannot be terminated: {error}") from error

    def start(self, instance: Instance) -> None:
        """The group does it."""

    def put_back(self, instance: Instance) -> None:
        """The group does it, too, but for one that somebody has deregistered."""
        self._balancer.register_targets(TargetGroupArn=self._target_group, Targets=[{"Id": instance.name}])

    def way_back(self) -> str:
        """The release that the last roll went back to, its key; empty if that went to a new one."""
        filters = [
            {"Name": "auto-scaling-group", "Values": [self._group]},
            {"Name": "key", "Values": [_WAY_BACK_TAG]},
        ]
        tags = self._autoscaling.describe_tags(Filters=filters)["Tags"]
        return str(tags[0]["Value"]) if tags else ""

    def remember_way_back(self, key: str) -> None:
        """So that a way back that is interrupted and repeated does not turn round."""
        tag = {"ResourceId": self._group, "ResourceType": "auto-scaling-group", "Key": _WAY_BACK_TAG}
        if key != self.way_back():
            self._autoscaling.create_or_update_tags(Tags=[{**tag, "Value": key, "PropagateAtLaunch": False}])

    def lag_seconds(self) -> float | None:
        """Nothing if no queue holds anything; otherwise the oldest age that CloudWatch tells of any queue."""
        if not self._holds_anything():
            return 0.0
        now = datetime.fromtimestamp(self._now(), UTC)
        queries = [
            {
                "Id": f"shard{shard}",
                "MetricStat": {
                    "Metric": {
                        "Namespace": "AWS/SQS",
                        "MetricName": "ApproximateAgeOfOldestMessage",
                        "Dimensions": [{"Name": "QueueName", "Value": self._names.room_queue(shard)}],
                    },
                    "Period": 60,
                    "Stat": "Maximum",
                },
            }
            for shard in self._names.shards
        ]
        ages: list[float] = []
        for begin in range(0, len(queries), _MAX_QUERIES):
            results = self._cloudwatch.get_metric_data(
                MetricDataQueries=queries[begin : begin + _MAX_QUERIES],
                StartTime=now - _LAG_WINDOW,
                EndTime=now,
                ScanBy="TimestampDescending",
            )["MetricDataResults"]
            ages += [result["Values"][0] for result in results if result["Values"]]
        return max(ages, default=None)

    def _holds_anything(self) -> bool:
        attributes = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        for shard in self._names.shards:
            url = self._sqs.get_queue_url(QueueName=self._names.room_queue(shard))["QueueUrl"]
            found = self._sqs.get_queue_attributes(QueueUrl=url, AttributeNames=attributes)["Attributes"]
            if any(int(found[name]) for name in attributes):
                return True
        return False

    def _template(self, named: Mapping[str, str], newest: bool = False) -> dict[str, Any]:
        """The data of a version of the launch template. Versions never change, so each is asked for once."""
        key = named["LaunchTemplateId"], named["Version"]
        if newest or key not in self._templates:
            versions = self._ec2.describe_launch_template_versions(LaunchTemplateId=key[0], Versions=[key[1]])
            self._templates[key] = versions["LaunchTemplateVersions"][0]["LaunchTemplateData"]
        return self._templates[key]


def instances_of(
    group: Mapping[str, Any],
    health: Sequence[Mapping[str, Any]],
    wanted: Mapping[str, Any],
    runs: Mapping[str, Mapping[str, Any]],
) -> list[Instance]:
    """What auto scaling, load balancer and EC2 say, put together.

    :param group: of DescribeAutoScalingGroups. :param health: of DescribeTargetHealth.
    :param wanted: the data of the launch template that the group uses. :param runs: those of the instances.
    """
    targets = {each["Target"]["Id"]: each["TargetHealth"] for each in health}
    found = []
    for each in group["Instances"]:
        name, lifecycle = each["InstanceId"], each["LifecycleState"]
        if lifecycle in ("Standby", "EnteringStandby", "Detaching", "Detached"):
            continue  # somebody has taken it aside, and knows why
        state, in_balancer, note = _state(lifecycle, targets.get(name))
        data = runs[name]
        found.append(Instance(name, release_of(data), data == wanted, state, in_balancer, note))
    missing = group["DesiredCapacity"] - sum(one.state is not State.STOPPING for one in found)
    release = release_of(wanted)
    found += [
        Instance(f"new {number}", release, True, State.STARTING, False, "is not made yet by the auto scaling group")
        for number in range(1, missing + 1)
    ]
    return found


def _state(lifecycle: str, target: Mapping[str, str] | None) -> tuple[State, bool, str]:
    """State, whether it is in the balancer, and a note."""
    if lifecycle.startswith("Terminat"):
        return State.STOPPING, False, ""
    if not lifecycle.startswith("InService"):
        return State.STARTING, False, f"is {lifecycle}"
    status = target["State"] if target is not None else "unused"
    if status in ("unused", "draining"):
        return State.READY, False, ""
    if status == "healthy":
        return State.READY, True, ""
    assert target is not None
    why = target.get("Description") or target.get("Reason") or ""
    return State.STARTING, True, f"is {status} for the load balancer{': ' if why else ''}{why}"


def release_key_of(launch_template: Mapping[str, Any]) -> str | None:
    """The key of the release archive that instances of it install, as their user data name it."""
    script = base64.b64decode(launch_template.get("UserData", "")).decode(errors="replace")
    found = _RELEASE.search(script)
    return found[0] if found else None


def release_of(launch_template: Mapping[str, Any]) -> str:
    """Its version, for people."""
    key = release_key_of(launch_template)
    return key.removeprefix("releases/chatflow-").removesuffix(".tar.gz") if key else "unknown"


def former_key(session: Session, launch_template_id: str, now: str) -> str | None:
    """The release before that of now, as far as EC2 remembers versions of the launch template; None if there is none.

    :param now: the key of the release that instances are to run.
    """
    pages = session.client("ec2").get_paginator("describe_launch_template_versions")
    versions = [
        version
        for page in pages.paginate(LaunchTemplateId=launch_template_id)
        for version in page["LaunchTemplateVersions"]
    ]
    for version in sorted(versions, key=lambda each: -int(each["VersionNumber"])):
        key = release_key_of(version["LaunchTemplateData"])
        if key is not None and key != now:
            return key
    return None
