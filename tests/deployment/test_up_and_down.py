"""A deployment's life by ``scripts/deploy`` alone: up, read back, changed, down."""

from __future__ import annotations

import json
import os
from pathlib import Path

from testbed.emulator import Emulator, aws_environment
from testbed.stack import Stacks
from tests.deployment.running import deploy
from tests.support.cloudformation import CompletingProxy


def archive(directory: Path, version: str) -> str:
    """What nobody unpacks: the emulator starts no instance."""
    path = directory / f"chatflow-{version}.tar.gz"
    path.write_bytes(os.urandom(10))
    return str(path)


def test_a_deployment_goes_up_is_read_back_is_changed_and_goes_down(emulator: Emulator, tmp_path: Path) -> None:
    stacks = Stacks(emulator)

    def run(*words: str, status: int = 0) -> str:
        ended = deploy(*words, environment=aws_environment(proxy.url))
        assert ended.returncode == status, ended.stdout + ended.stderr
        return ended.stdout + ended.stderr

    def group() -> dict[str, object]:
        found = stacks.client("autoscaling").describe_auto_scaling_groups(AutoScalingGroupNames=["chatflow"])
        [one] = found["AutoScalingGroups"]
        return dict(one)

    with CompletingProxy(emulator.url) as proxy:
        first = ("--rooms", "2", "--archive", archive(tmp_path, "0.2.0"))
        assert "So this is what would be done" not in run("plan", *first)
        said = run("up", *first)
        assert "+ RoomQueue2 (AWS::SQS::Queue)" in said
        assert "is served by 0 of 4 instances" in said

        # What is there is what the daemon expects; test_template.py compares each attribute.
        before = stacks.resources("chatflow")
        assert group()["DesiredCapacity"] == 4
        queues = stacks.client("sqs").list_queues(QueueNamePrefix="chatflow-")["QueueUrls"]
        assert sum(url.rsplit("/", 1)[1].startswith("chatflow-room") for url in queues) == 2
        told = json.loads(run("status", "--json", status=1))  # no instance is ready: none is started
        assert (told["stack"], told["release"]) == ("CREATE_COMPLETE", "releases/chatflow-0.2.0.tar.gz")

        assert "nothing to change" in run("up", *first), "again"
        second = ("--rooms", "3", "--set", "InstanceCount=6", "--archive", archive(tmp_path, "0.3.0"))
        planned = run("plan", *second)
        assert "parameter InstanceCount: 4 → 6" in planned
        assert "+ RoomQueue3 (AWS::SQS::Queue)" in planned
        run("up", *second)
        after = stacks.resources("chatflow")
        assert {"RoomQueue3"} <= after.keys() - before.keys()
        assert {name: after[name] for name in ("DatabaseCluster", "RoomQueue1")}.items() <= before.items()
        assert group()["DesiredCapacity"] == 6
        assert json.loads(run("status", "--json", status=1))["release"] == "releases/chatflow-0.3.0.tar.gz"

        run("down", "--yes", "chatflow")
        left = stacks.client("sqs").list_queues(QueueNamePrefix="chatflow-")["QueueUrls"]
        assert [url.rsplit("/", 1)[1] for url in left] == ["chatflow-db-dlq.fifo"]
        assert "there is no stack chatflow" in run("status", status=1)
        # What stayed is taken over by the next one.
        assert "DeadLetterQueue" in run("up", *first)
