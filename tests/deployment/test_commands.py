"""``plan``, ``status`` and ``down`` on a stack of the emulator; changes are shown before they are made."""

from __future__ import annotations

import io
import json
import os
import time

import pytest
from rich.console import Console

from scripts.aws import artefacts
from scripts.aws.template import render
from scripts.deployment.errors import Stopped
from scripts.deployment.progress import Progress
from scripts.deployment.releases import Bucket
from scripts.deployment.stack import Stack
from testbed.emulator import Emulator, aws_environment
from testbed.stack import Stacks, emulable
from tests.deployment.running import deploy

_KEY = "releases/chatflow-0.3.0.tar.gz"


class Account:
    """The emulator's, and what is said."""

    def __init__(self, emulator: Emulator) -> None:
        self.stacks = Stacks(emulator)
        self.said = io.StringIO()
        self.progress = Progress(Console(file=self.said, width=200), time.monotonic)
        self._environment = aws_environment(emulator.url)

    def stack(self, name: str) -> Stack:
        return Stack(self.stacks.client("cloudformation"), name, self.progress, time.sleep)

    def deploy(self, *words: str, status: int = 0) -> str:
        """What it says on both streams, once it has ended with that status."""
        ended = deploy(*words, environment=self._environment)
        assert ended.returncode == status, ended.stdout + ended.stderr
        return ended.stdout + ended.stderr


@pytest.fixture(scope="module")
def account(emulator: Emulator) -> Account:
    """With a deployment for three rooms, as ``up`` makes it."""
    account = Account(emulator)
    account.stack("chatflow-artefacts").change({}, template={"TemplateBody": json.dumps(artefacts.render())})
    name = account.stack("chatflow-artefacts").outputs()["ArtefactBucketName"]
    bucket = Bucket(account.stacks.client("s3"), name, account.progress)
    bucket.s3.put_object(Bucket=name, Key=_KEY, Body=os.urandom(10))
    ours = {"ArtefactBucket": name, "ReleaseKey": _KEY}
    assert account.stack("chatflow").change(ours, template=bucket.offer(emulable(render(3))))
    return account


def test_a_stack_is_made_by_a_change_set_that_is_shown(account: Account) -> None:
    said = account.said.getvalue()
    assert "  + DatabaseCluster (AWS::RDS::DBCluster)\n" in said
    assert "RoomQueue3 (AWS::SQS::Queue) CREATE_COMPLETE" in said
    assert account.stack("chatflow").outputs()["ReleaseKey"] == _KEY


def test_a_plan_shows_each_difference_and_changes_nothing(account: Account) -> None:
    before = account.stacks.client("cloudformation").describe_stacks(StackName="chatflow")["Stacks"][0]
    said = account.deploy("plan", "--rooms", "4", "--set", "InstanceCount=6")
    assert "Plan for the stack chatflow in account 000000000000, us-east-1" in said
    assert "~ parameter InstanceCount: 4 → 6" in said
    assert "~ AutoScalingGroup (AWS::AutoScaling::AutoScalingGroup): through InstanceCount" in said
    assert "+ RoomQueue4 (AWS::SQS::Queue)" in said
    assert "RoomQueue3 (AWS::SQS::Queue)" not in said
    assert f"parameter ReleaseKey: {_KEY} → " in said
    assert "LaunchTemplate (AWS::EC2::LaunchTemplate): through ReleaseKey" in said
    assert account.stacks.client("cloudformation").describe_stacks(StackName="chatflow")["Stacks"][0] == before
    # Without a word on the rooms they stay as they are.
    assert "+ RoomQueue4" not in account.deploy("plan")


def test_a_change_that_would_lose_data_is_refused(account: Account) -> None:
    name = account.stack("chatflow-artefacts").outputs()["ArtefactBucketName"]
    bucket = Bucket(account.stacks.client("s3"), name, account.progress)
    with pytest.raises(Stopped, match="this would delete or replace what holds data: RoomQueue3") as stopped:
        account.stack("chatflow").change({}, template=bucket.offer(emulable(render(2))))
    assert "--replace-data" in stopped.value.remedy[0]
    assert "RoomQueue3" in account.stacks.resources("chatflow")


def test_the_status_tells_what_is_missing(account: Account) -> None:
    said = account.deploy("status", status=1)
    assert "Stack chatflow: CREATE_COMPLETE, http" in said
    assert "0 of 4 serve clients\n" in said
    values = json.loads(account.deploy("status", "--json", status=1))
    assert (values["release"], values["lag_seconds"], len(values["instances"])) == (_KEY, 0.0, 4)


def test_a_release_that_is_not_in_the_bucket_is_told_with_those_that_are(account: Account) -> None:
    said = account.deploy("roll", "--release", "9.9.9", status=1)
    assert "chatflow-9.9.9.tar.gz is not in the bucket" in said
    assert "there is: chatflow-0.3.0.tar.gz" in said
    assert "is the first release of this stack" in account.deploy("roll", "--rollback", status=1)


@pytest.mark.parametrize("words", [("roll",), ("status",)])
def test_a_stack_that_does_not_exist_is_told(account: Account, words: tuple[str, ...]) -> None:
    said = account.deploy(*words, "--stack", "other", status=1)
    assert said.startswith("deploy: there is no stack other\n")


def test_it_goes_down_only_by_its_name_and_says_what_stays(account: Account) -> None:
    assert "say: --yes chatflow" in account.deploy("down", status=1)
    assert "nothing was deleted" in account.deploy("down", "--yes", "chatflo", status=1)
    assert account.stack("chatflow").describe() is not None
    said = account.deploy("down", "--yes", "chatflow")
    assert "What stays: " in said
    assert "DatabaseCluster" in said.partition("What stays: ")[2].partition("\n")[0]
    assert account.stack("chatflow").describe() is None
    assert "nothing to delete" in account.deploy("down", "--yes", "chatflow"), "again"
    assert account.stack("chatflow-artefacts").describe() is not None
