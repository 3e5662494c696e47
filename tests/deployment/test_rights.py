"""An instance may make every call that its daemon makes, and no other: not with other names, not of other services."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

from chatflow.broker.names import Names
from testbed.stack import Stacks
from tests.deployment.conftest import ROOMS, Stack
from tests.deployment.policies import actions, allows
from tests.support.documentation import DOCS

_BROKER = Path(__file__).parents[2] / "chatflow" / "broker"
# Calls of commands only: their rights are those of an operator.
_OF_COMMANDS = {"setup.py", "calls.py"}

NAMES = Names("chatflow", ROOMS)
ACCOUNT = "us-east-1:000000000000"
FANOUT_QUEUE = NAMES.fanout_queue("i-0123456789abcdef0", "1764231000000")


@pytest.fixture(scope="module")
def policies(stacks: Stacks, stack: Stack) -> list[dict[str, Any]]:
    """Those of the instances' role, as IAM has them."""
    role, iam = stack.resources["InstanceRole"], stacks.client("iam")
    assert iam.list_attached_role_policies(RoleName=role)["AttachedPolicies"] == []
    names = iam.list_role_policies(RoleName=role)["PolicyNames"]
    return [iam.get_role_policy(RoleName=role, PolicyName=name)["PolicyDocument"] for name in names]


def queue(name: str) -> str:
    return f"arn:aws:sqs:{ACCOUNT}:{name}"


def topic(name: str) -> str:
    return f"arn:aws:sns:{ACCOUNT}:{name}"


@functools.cache
def operations_of_the_daemon() -> set[str]:
    """What the code calls, as actions of IAM: of batches, that of their entries."""
    return {
        f"{service}:{operation.removesuffix('Batch')}"
        for path in sorted(_BROKER.glob("*.py"))
        if path.name not in _OF_COMMANDS
        for service, operation in _operations_in(path)
    }


@functools.cache
def _methods() -> dict[str, dict[str, str]]:
    """Names of operations by boto3's names of methods, of both services."""
    return {
        service: dict(boto3.client(service, region_name="us-east-1").meta.method_to_api_mapping)
        for service in ("sqs", "sns")
    }


def _operations_in(path: Path) -> Iterator[tuple[str, str]]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        for service, mapping in _methods().items():
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and "_" in node.value:
                name = node.value  # calls.sqs("send_message", …)
            elif isinstance(node, ast.Constant) and node.value in ("subscribe", "unsubscribe"):
                name = str(node.value)
            elif isinstance(node, ast.Attribute) and re.search(r"(sqs|sns|client)\w*$", ast.unparse(node.value)):
                name = node.attr  # clients.sqs_control.create_queue(…)
            else:
                continue
            if name in mapping:
                yield service, mapping[name]


def operations_in_the_documentation() -> set[str]:
    """Those of "an instance" in the table of permissions."""
    text = DOCS["cluster"].read_text(encoding="utf-8")
    row = text.split("\nan instance  ", 1)[1].split("\n``chatflow-admin setup``")[0]
    of_sqs, of_sns = row.split("``sns:``")
    services = {"sqs": of_sqs.split("``sqs:``")[1], "sns": of_sns}
    return {f"{service}:{word}" for service, words in services.items() for word in re.findall(r"[A-Z]\w+", words)}


def test_the_documentation_names_the_calls_that_the_code_makes() -> None:
    # Tags are given when a queue is made, which is a right of its own.
    assert operations_in_the_documentation() == operations_of_the_daemon() | {"sqs:TagQueue"}


def test_an_instance_may_do_what_the_documentation_lists_and_its_upkeep(policies: list[dict[str, Any]]) -> None:
    of_queues = {action for action in actions(policies) if action.startswith(("sqs:", "sns:"))}
    assert of_queues == operations_in_the_documentation()
    assert {action.split(":")[0] for action in actions(policies) - of_queues} == {
        "s3",
        "secretsmanager",
        "logs",
        "autoscaling",
        "ssm",
        "ssmmessages",
    }


@pytest.mark.parametrize(
    "name",
    [*map(NAMES.room_queue, NAMES.shards), Names("chatflow", 40, 7).room_queue(3), NAMES.dead_letters, FANOUT_QUEUE],
)
def test_messages_of_all_our_queues_may_be_sent_and_received(policies: list[dict[str, Any]], name: str) -> None:
    only_fanout = {"sqs:CreateQueue", "sqs:DeleteQueue", "sqs:TagQueue"}
    for action in operations_of_the_daemon() | only_fanout:
        if action.startswith("sqs:"):
            allowed = action not in only_fanout or name == FANOUT_QUEUE
            assert allows(policies, action, queue(name)) is allowed, action


def test_the_topic_may_be_published_to_and_subscribed(policies: list[dict[str, Any]]) -> None:
    for action in operations_of_the_daemon():
        if action.startswith("sns:"):
            assert allows(policies, action, topic(NAMES.topic)), action
    assert allows(policies, "sns:Unsubscribe", topic(NAMES.topic) + ":0a1b2c3d-0000-0000-0000-000000000000")


@pytest.mark.parametrize(
    "resource",
    [
        queue("chatflow2-room-1.fifo"),
        queue("chatflow-room-1"),
        queue("chatflow-staging-room-1.fifo"),
        queue("chatflow-staging-db-dlq.fifo"),
        queue("orders.fifo"),
        topic("chatflow-staging-fanout.fifo"),
        topic("chat-alarms"),
        "arn:aws:sqs:us-east-1:111111111111:chatflow-room-1.fifo",
        "arn:aws:sqs:eu-west-1:000000000000:chatflow-room-1.fifo",
    ],
)
def test_nothing_of_others_may_be_touched(policies: list[dict[str, Any]], resource: str) -> None:
    for action in actions(policies):
        if action.startswith(("sqs:", "sns:")):
            assert not allows(policies, action, resource), action


def test_secret_release_logs_and_group_are_the_stack_s_own(policies: list[dict[str, Any]], stack: Stack) -> None:
    logs, group = f"arn:aws:logs:{ACCOUNT}:log-group:", f"arn:aws:autoscaling:{ACCOUNT}:autoScalingGroup:1234:"
    may = {
        "secretsmanager:GetSecretValue": [stack.resources["StandInSecret"]],
        "s3:GetObject": ["arn:aws:s3:::releases-of-ours/releases/chatflow-0.2.0.tar.gz"],
        "logs:PutLogEvents": [f"{logs}/chat/daemon:log-stream:i-1", f"{logs}/chat/system:log-stream:i-1"],
        "autoscaling:CompleteLifecycleAction": [f"{group}autoScalingGroupName/chat"],
    }
    may_not = {
        "secretsmanager:GetSecretValue": [f"arn:aws:secretsmanager:{ACCOUNT}:secret:other-Ab1"],
        "secretsmanager:PutSecretValue": [stack.resources["StandInSecret"]],
        "s3:GetObject": ["arn:aws:s3:::releases-of-ours/templates/x", "arn:aws:s3:::others/releases/x"],
        "s3:PutObject": ["arn:aws:s3:::releases-of-ours/releases/chatflow-0.2.0.tar.gz"],
        "logs:PutLogEvents": [f"{logs}/other/daemon:log-stream:i-1"],
        "logs:DeleteLogGroup": [f"{logs}/chat/daemon"],
        "autoscaling:CompleteLifecycleAction": [f"{group}autoScalingGroupName/chat2"],
        "autoscaling:UpdateAutoScalingGroup": [f"{group}autoScalingGroupName/chat"],
        "ssm:GetParameter": [f"arn:aws:ssm:{ACCOUNT}:parameter/others"],
        "iam:PassRole": ["*"],
    }
    assert all(allows(policies, action, each) for action, resources in may.items() for each in resources)
    assert not any(allows(policies, action, each) for action, resources in may_not.items() for each in resources)


def test_only_session_manager_has_no_narrower_resource(policies: list[dict[str, Any]]) -> None:
    wide = [each for policy in policies for each in policy["Statement"] if each["Resource"] == "*"]
    assert [statement["Sid"] for statement in wide] == ["SessionManager"]
