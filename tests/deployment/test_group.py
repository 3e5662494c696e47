"""A roll on AWS: an auto scaling group, its launch template and its target group, of another's emulator over HTTP.

It ends and makes instances at once, keeps no lifecycle hook, and finds every registered target healthy; so what takes
time, or goes wrong, is told here as AWS tells it.
"""

from __future__ import annotations

import base64
import io
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from attrs import frozen
from rich.console import Console

from chatflow.broker.names import Names
from scripts.deployment.errors import Stopped
from scripts.deployment.fleet import State
from scripts.deployment.group import GroupFleet, former_key, instances_of
from scripts.deployment.progress import Progress
from scripts.deployment.roll import Patience, Roll
from scripts.deployment.session import Session
from testbed.emulator import aws_environment
from testbed.http_client import request
from testbed.waiting import eventually

_NOW = 1_800_000_000.0
_NAMES = Names("test", rooms=2)


def _data(version: str) -> dict[str, str]:
    script = f'#!/bin/bash\naws s3 cp "s3://bucket/releases/chatflow-{version}.tar.gz" -\n'
    return {
        "ImageId": "ami-12c6146b",
        "InstanceType": "t3.small",
        "UserData": base64.b64encode(script.encode()).decode(),
    }


def _machine(instance_type: str) -> dict[str, str]:
    return {"ImageId": "ami-12c6146b", "InstanceType": instance_type}


class _Remembering:
    """Auto scaling that tells of each instance the launch template it was made of: the emulator tells the newest."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._made_of: dict[str, dict[str, str]] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def describe_auto_scaling_groups(self, **arguments: Any) -> Any:
        told = self._client.describe_auto_scaling_groups(**arguments)
        for group in told["AutoScalingGroups"]:
            for instance in group["Instances"]:
                instance["LaunchTemplate"] = self._made_of.setdefault(instance["InstanceId"], group["LaunchTemplate"])
        return told

    def update_auto_scaling_group(self, **arguments: Any) -> None:
        self.describe_auto_scaling_groups()
        self._client.update_auto_scaling_group(**arguments)


class _Session(Session):
    def __init__(self) -> None:
        super().__init__()
        self._clients["autoscaling"] = _Remembering(self.client("autoscaling"))


@frozen
class Account:
    """A group of four small instances."""

    session: Session
    template: str
    target_group: str

    def fleet(self) -> GroupFleet:
        return GroupFleet(self.session, "group", self.target_group, _NAMES, lambda: _NOW)

    def change_template(self, instance_type: str) -> None:
        """As a change of the stack does. Not of the user data: the emulator cannot start what has a second version."""
        made = self.session.client("ec2").create_launch_template_version(
            LaunchTemplateId=self.template, LaunchTemplateData=_machine(instance_type)
        )
        self.session.client("autoscaling").update_auto_scaling_group(
            AutoScalingGroupName="group",
            LaunchTemplate={
                "LaunchTemplateId": self.template,
                "Version": str(made["LaunchTemplateVersion"]["VersionNumber"]),
            },
        )

    def running(self) -> set[str]:
        return {one.name for one in self.fleet().instances()}

    def roll(self) -> str:
        """What was said."""
        said, now = io.StringIO(), [0.0]

        def sleep(seconds: float) -> None:
            now[0] += seconds

        patience = Patience(ready=60, stop=60, lag=60, max_lag=60)
        progress = Progress(Console(file=said, width=200), lambda: now[0])
        Roll(self.fleet(), patience, progress, lambda: now[0], sleep, 1.0).run_and_tell()
        return said.getvalue()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The emulator's port."""
    log = tmp_path_factory.mktemp("moto") / "output"
    with log.open("wb") as output:
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        found = eventually(lambda: re.search(r"Running on http://127.0.0.1:(\d+)", log.read_text()), "it listens", 60)
        assert found is not None
        yield int(found[1])
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def account(server: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Account]:
    for name, value in aws_environment(f"http://127.0.0.1:{server}").items():
        monkeypatch.setenv(name, value)
    session = _Session()
    ec2, balancer, scaling = (session.client(name) for name in ("ec2", "elbv2", "autoscaling"))
    vpc = ec2.describe_vpcs()["Vpcs"][0]["VpcId"]
    subnet = ec2.describe_subnets()["Subnets"][0]["SubnetId"]
    template = ec2.create_launch_template(LaunchTemplateName="daemon", LaunchTemplateData=_machine("t3.small"))
    template_id = template["LaunchTemplate"]["LaunchTemplateId"]
    target_group = balancer.create_target_group(Name="daemons", Protocol="HTTP", Port=8080, VpcId=vpc)["TargetGroups"][
        0
    ]
    scaling.create_auto_scaling_group(
        AutoScalingGroupName="group",
        LaunchTemplate={"LaunchTemplateId": template_id, "Version": "1"},
        MinSize=1,
        MaxSize=9,
        DesiredCapacity=4,
        VPCZoneIdentifier=subnet,
        TargetGroupARNs=[target_group["TargetGroupArn"]],
    )
    for shard in _NAMES.shards:
        session.client("sqs").create_queue(QueueName=_NAMES.room_queue(shard), Attributes={"FifoQueue": "true"})
    yield Account(session, template_id, target_group["TargetGroupArn"])
    request(server, "POST", "/moto-api/reset")


def test_every_instance_is_replaced_by_one_of_the_new_template(account: Account) -> None:
    before = account.running()
    assert all(one.current and one.serves for one in account.fleet().instances())
    account.change_template("t3.large")
    assert not any(one.current for one in account.fleet().instances())
    said = account.roll()
    found = account.fleet().instances()
    assert len(found) == 4
    assert all(one.current and one.serves for one in found)
    assert account.running().isdisjoint(before)
    assert said.count("out of the balancer") == said.count("drained and stopped, was ") == 4
    assert "nothing was to be done" in account.roll()


def test_a_roll_that_ended_in_the_middle_goes_on_with_those_that_are_left(account: Account) -> None:
    account.change_template("t3.large")
    fleet = account.fleet()
    first, second, *_ = fleet.instances()
    fleet.take_out(first)
    fleet.stop(first)
    fleet.take_out(second)
    assert [one.in_balancer for one in fleet.instances() if one.name == second.name] == [False]
    said = account.roll()
    assert said.count("out of the balancer") == 2
    assert said.count("drained and stopped") == 3


def test_the_way_back_touches_only_those_that_left_the_former_template(account: Account) -> None:
    account.change_template("t3.large")
    fleet = account.fleet()
    first, *others = fleet.instances()
    fleet.take_out(first)
    fleet.stop(first)
    account.change_template("t3.small")
    account.roll()
    assert all(one.current for one in fleet.instances())
    assert {one.name for one in others} < account.running()


def test_the_former_release_is_the_newest_other_one_that_the_launch_template_had(account: Account) -> None:
    for version in ("0.2.0", "0.3.0", "0.3.0"):
        account.session.client("ec2").create_launch_template_version(
            LaunchTemplateId=account.template, LaunchTemplateData=_data(version)
        )
    former = partial(former_key, account.session, account.template)
    assert former("releases/chatflow-0.3.0.tar.gz") == "releases/chatflow-0.2.0.tar.gz"
    assert former("releases/chatflow-0.2.0.tar.gz") == "releases/chatflow-0.3.0.tar.gz"


def test_that_a_way_back_is_under_way_is_remembered_by_the_group(account: Account) -> None:
    fleet = account.fleet()
    assert fleet.way_back() == ""
    fleet.remember_way_back("releases/chatflow-0.1.0.tar.gz")
    assert account.fleet().way_back() == "releases/chatflow-0.1.0.tar.gz"
    fleet.remember_way_back("")
    assert account.fleet().way_back() == ""


def test_without_a_former_release_there_is_no_way_back(account: Account) -> None:
    assert former_key(account.session, account.template, "releases/chatflow-0.1.0.tar.gz") is None


def test_the_lag_is_nothing_while_the_queues_are_empty_and_then_what_cloudwatch_tells(account: Account) -> None:
    fleet = account.fleet()
    assert fleet.lag_seconds() == 0.0
    queue = account.session.client("sqs").get_queue_url(QueueName=_NAMES.room_queue(2))["QueueUrl"]
    account.session.client("sqs").send_message(
        QueueUrl=queue, MessageBody="x", MessageGroupId="2", MessageDeduplicationId="1"
    )
    assert fleet.lag_seconds() is None, "CloudWatch has not told yet"
    account.session.client("cloudwatch").put_metric_data(
        Namespace="AWS/SQS",
        MetricData=[
            {
                "MetricName": "ApproximateAgeOfOldestMessage",
                "Dimensions": [{"Name": "QueueName", "Value": _NAMES.room_queue(2)}],
                "Timestamp": _NOW - age,
                "Value": value,
            }
            for age, value in ((400, 90.0), (130, 42.0))
        ],
    )
    assert fleet.lag_seconds() == 42.0


def test_a_group_that_does_not_exist_is_told(account: Account) -> None:
    fleet = GroupFleet(account.session, "other", account.target_group, _NAMES, lambda: _NOW)
    with pytest.raises(Stopped, match="there is no auto scaling group other"):
        fleet.instances()


def _member(name: str, lifecycle: str = "InService") -> dict[str, Any]:
    return {"InstanceId": name, "LifecycleState": lifecycle}


def _health(name: str, state: str, description: str = "") -> dict[str, Any]:
    return {"Target": {"Id": name}, "TargetHealth": {"State": state, "Description": description}}


@pytest.mark.parametrize(
    ("lifecycle", "health", "state", "in_balancer"),
    [
        ("Pending", None, State.STARTING, False),
        ("Pending:Wait", None, State.STARTING, False),
        ("InService", "initial", State.STARTING, True),
        ("InService", "unhealthy", State.STARTING, True),
        ("InService", "healthy", State.READY, True),
        ("InService", "draining", State.READY, False),
        ("InService", "unused", State.READY, False),
        ("InService", None, State.READY, False),
        ("Terminating", "draining", State.STOPPING, False),
        ("Terminating:Wait", "healthy", State.STOPPING, False),
        ("Terminating:Proceed", None, State.STOPPING, False),
    ],
)
def test_how_an_instance_stands_follows_from_its_group_and_the_load_balancer(
    lifecycle: str, health: str | None, state: State, in_balancer: bool
) -> None:
    group = {"DesiredCapacity": 1, "Instances": [_member("i-1", lifecycle)]}
    told = [] if health is None else [_health("i-1", health)]
    first, *missing = instances_of(group, told, _data("1"), {"i-1": _data("1")})
    assert (first.state, first.in_balancer, first.current) == (state, in_balancer, True)
    # Of one that ends there is another to come.
    assert [one.state for one in missing] == ([State.STARTING] if state is State.STOPPING else [])


def test_why_a_target_is_unhealthy_is_in_the_note() -> None:
    group = {"DesiredCapacity": 1, "Instances": [_member("i-1")]}
    why = "Health checks failed with these codes: [503]"
    (one,) = instances_of(group, [_health("i-1", "unhealthy", why)], _data("1"), {"i-1": _data("1")})
    assert one.note == f"is unhealthy for the load balancer: {why}"


def test_one_that_somebody_has_taken_aside_is_left_alone() -> None:
    group = {"DesiredCapacity": 1, "Instances": [_member("i-1", "Standby"), _member("i-2")]}
    (one,) = instances_of(group, [_health("i-2", "healthy")], _data("1"), {"i-1": _data("0"), "i-2": _data("1")})
    assert one.name == "i-2"


def test_any_other_launch_template_is_another_release() -> None:
    larger = {**_data("1"), "InstanceType": "t3.large"}
    group = {"DesiredCapacity": 1, "Instances": [_member("i-1")]}
    (one,) = instances_of(group, [_health("i-1", "healthy")], larger, {"i-1": _data("1")})
    assert not one.current
