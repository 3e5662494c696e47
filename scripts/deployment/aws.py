"""The commands on AWS: plan, up, roll, status, down."""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import define
from botocore.exceptions import BotoCoreError, ClientError

from chatflow.broker.names import Names
from scripts.aws import artefacts
from scripts.aws.template import render
from scripts.deployment.differences import Version, differences, inventory, with_defaults
from scripts.deployment.errors import Stopped
from scripts.deployment.group import GroupFleet, former_key
from scripts.deployment.progress import Progress
from scripts.deployment.releases import Bucket, key_of, version_of
from scripts.deployment.roll import Patience, Roll
from scripts.deployment.session import Session, explain
from scripts.deployment.stack import Stack, parameters_of
from scripts.deployment.status import as_lines, as_values, healthy

_COLUMNS = 110
_POLL_SECONDS = 5.0
_READY_SECONDS, _LAG_SECONDS, _MAX_LAG_SECONDS = 900.0, 900.0, 60.0
# To notice its end, to close, and to be terminated, beyond the drain itself.
_STOP_MARGIN_SECONDS = 420.0
_OURS = {"ArtefactBucket", "ReleaseKey"}
_NEVER_LOST = {"Retain", "RetainExceptOnCreate", "Snapshot"}


@define
class Deployment:
    """The two stacks of a deployment: that of its releases, and that of all else."""

    session: Session
    name: str
    progress: Progress

    @property
    def stack(self) -> Stack:
        return Stack(self.session.client("cloudformation"), self.name, self.progress, time.sleep)

    @property
    def artefacts(self) -> Stack:
        return Stack(self.session.client("cloudformation"), f"{self.name}-artefacts", self.progress, time.sleep)

    @property
    def bucket(self) -> Bucket:
        """:raises Stopped: it is not made yet."""
        return Bucket(self.session.client("s3"), self.artefacts.outputs()["ArtefactBucketName"], self.progress)

    def fleet(self, outputs: Mapping[str, str]) -> GroupFleet:
        """The instances. :param outputs: of the stack."""
        version = self.stack.version()
        assert version is not None, "it has outputs"
        shape = _shape_of(version.template)
        names = Names(outputs["QueuePrefix"], shape["Rooms"], shape["RoomQueues"])
        return GroupFleet(self.session, outputs["AutoScalingGroupName"], outputs["TargetGroupArn"], names, time.time)


def add_place(parser: argparse.ArgumentParser) -> None:
    """Options of every command."""
    where = parser.add_argument_group("where on AWS")
    where.add_argument("--stack", default="chatflow", metavar="NAME", help="of the stack (chatflow)")
    where.add_argument("--region", metavar="NAME", help="(AWS_REGION, or that of the profile)")
    where.add_argument("--profile", metavar="NAME", help="of ~/.aws/config (AWS_PROFILE)")


def add_shape(parser: argparse.ArgumentParser) -> None:
    """Options of what is made."""
    what = parser.add_argument_group("what is made")
    add_archive(what)
    what.add_argument("--rooms", type=int, metavar="N", help="how many rooms (those that it has; 20)")
    what.add_argument("--room-queues", type=int, metavar="N", help="how many queues serve them (as it is; one each)")
    what.add_argument("--drain-seconds", type=int, metavar="S", help="how long an instance may drain (as it is; 60)")
    what.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", dest="settings",
        help="a parameter of the stack, such as InstanceCount=6; those not named keep their values. plan lists them",
    )  # fmt: skip


def add_archive(parser: argparse._ActionsContainer) -> None:
    """The option of those that bring a release."""
    parser.add_argument(
        "--archive", type=Path, metavar="FILE", help="this release, chatflow-VERSION.tar.gz, instead of this checkout's"
    )


def plan(arguments: argparse.Namespace, progress: Progress) -> int:
    """Say what :func:`up` would do. Reads, if it can, and changes nothing."""
    say, version = progress.say, version_of(arguments.archive)
    old, old_artefacts, uploaded, where, unknown = None, None, False, "", ""
    try:
        deployment = Deployment(Session(arguments.region, arguments.profile), arguments.stack, progress)
        where = deployment.session.check()
        old, old_artefacts = deployment.stack.version(), deployment.artefacts.version()
        uploaded = old_artefacts is not None and deployment.bucket.holds(key_of(version))
    except (BotoCoreError, ClientError) as error:
        stopped = explain(error)
        unknown = f"{stopped} ({stopped.remedy[0]})" if stopped.remedy else str(stopped)
    bucket = old.parameters.get("ArtefactBucket", "") if old is not None else "(made by step 1)"
    new = _wanted(arguments, old, {"ArtefactBucket": bucket, "ReleaseKey": key_of(version)})
    say(f"Plan for the stack {arguments.stack}" + (f" in {where}" if where else ""))
    if unknown:
        say(f"Could not compare with AWS, because {unknown}.")
        say("So this is what would be done if there was nothing yet.")
    say()
    say(f"1. The bucket of releases, stack {arguments.stack}-artefacts")
    _say_changes(progress, old_artefacts, Version(artefacts.render(), {}))
    say()
    say(f"2. Release {version}: " + (
        f"is in the bucket already, as {key_of(version)}" if uploaded
        else f"upload {arguments.archive or 'this checkout, packed with all that it needs,'} as {key_of(version)}"
    ))  # fmt: skip
    say()
    say(f"3. The stack {arguments.stack}" + ("" if old is not None else f", {len(new.resources)} resources"))
    _say_changes(progress, old, new)
    if old is None:
        say("   with these parameters; another value: --set NAME=VALUE")
        for name, value in new.parameters.items():
            say(f"     {name} = {value or '(empty)'}")
    say()
    say("4. The schema of the database: the first instance that starts with the release brings it up to date,")
    say("   before its daemon starts. Instances of the former release go on beside it.")
    say()
    if old is None:
        say(f"5. Then {new.parameters['InstanceCount']} instances start, and the stack's output Url says where.")
    else:
        say("5. Instances that run keep their release, until scripts/deploy roll replaces them one at a time.")
    say()
    say("Nothing was changed. To do it: scripts/deploy up" + ("" if not unknown else ", with credentials"))
    return 0


def up(arguments: argparse.Namespace, progress: Progress) -> int:
    """Make it so."""
    _wanted(arguments, None, {})  # what is wrong with it is told before AWS is asked
    deployment = Deployment(Session(arguments.region, arguments.profile), arguments.stack, progress)
    progress.say(f"Stack {arguments.stack} in {deployment.session.check()}")
    old = deployment.stack.version()
    progress.say("1. The bucket of releases")
    deployment.artefacts.change({}, template={"TemplateBody": json.dumps(artefacts.render())})
    progress.say("2. The release")
    bucket = deployment.bucket
    key = bucket.provide(version_of(arguments.archive), arguments.archive)
    progress.say("3. The stack")
    ours = {"ArtefactBucket": bucket.name, "ReleaseKey": key}
    wanted = _wanted(arguments, old, ours)
    given = {**ours, **_settings(arguments, wanted.template)}
    deployment.stack.change(given, template=bucket.offer(wanted.template), may_lose_data=arguments.replace_data)
    outputs = deployment.stack.outputs()
    instances = deployment.fleet(outputs).instances()
    progress.say(f"{outputs['Url']} is served by {sum(one.serves for one in instances)} of {len(instances)} instances")
    if any(not one.current for one in instances):
        progress.say("Some run another release than the stack's; next: scripts/deploy roll")
    return 0


def roll(arguments: argparse.Namespace, progress: Progress) -> int:
    """Replace the instances that do not run what they are to run, one at a time."""
    deployment = Deployment(Session(arguments.region, arguments.profile), arguments.stack, progress)
    deployment.stack.settle()
    outputs = deployment.stack.outputs()
    fleet = deployment.fleet(outputs)
    if arguments.rollback:
        key = _way_back(deployment, outputs, fleet)
    elif arguments.release:
        key = deployment.bucket.require(key_of(arguments.release))
    else:
        key = deployment.bucket.provide(version_of(arguments.archive), arguments.archive)
    fleet.remember_way_back(key if arguments.rollback else "")
    if key != outputs["ReleaseKey"]:
        progress.say(f"New instances are to run {Path(key).name}")
        deployment.stack.change({"ReleaseKey": key})
    patience = Patience(
        ready=arguments.ready_seconds or _READY_SECONDS,
        stop=float(outputs["DrainSeconds"]) + _STOP_MARGIN_SECONDS,
        lag=_LAG_SECONDS,
        max_lag=arguments.max_lag_seconds or _MAX_LAG_SECONDS,
    )
    again = f"scripts/deploy roll --stack {arguments.stack}"
    return Roll(fleet, patience, progress, time.monotonic, time.sleep, _POLL_SECONDS, again).run_and_tell()


def status(arguments: argparse.Namespace, progress: Progress) -> int:
    """Say how everything is. :return: 0 if all is well."""
    deployment = Deployment(Session(arguments.region, arguments.profile), arguments.stack, progress)
    outputs = deployment.stack.outputs()
    found = deployment.stack.describe()
    assert found is not None, "it has outputs"
    fleet = deployment.fleet(outputs)
    instances, lag = fleet.instances(), fleet.lag_seconds()
    state = found["StackStatus"]
    if arguments.json:
        values = {"stack": state, "release": outputs["ReleaseKey"], "url": outputs["Url"], "lag_seconds": lag}
        print(json.dumps({**values, "instances": as_values(instances)}, indent=2))
    else:
        progress.say(f"Stack {arguments.stack}: {state}, {outputs['Url']}")
        progress.say("Oldest message that waits: " + ("not known" if lag is None else f"{lag:.0f} s"))
        progress.say()
        for line in as_lines(instances):
            progress.say(line)
    return 0 if healthy(instances) and state.endswith("_COMPLETE") and "ROLLBACK" not in state else 1


def down(arguments: argparse.Namespace, progress: Progress) -> int:
    """Delete the stack."""
    deployment = Deployment(Session(arguments.region, arguments.profile), arguments.stack, progress)
    stack, name = deployment.stack, arguments.stack
    where = deployment.session.check()
    stack.settle()
    old, found = stack.version(), stack.describe()
    if old is None or found is None:
        stack.delete()  # perhaps the intention to make one
        progress.say(f"There is no stack {name} in {where}: nothing to delete")
        return 0
    kept = [resource for resource, made in old.resources.items() if made.get("DeletionPolicy") in _NEVER_LOST]
    progress.say(f"Deleting the stack {name} in {where} ends the service, and deletes {len(old.resources)} resources.")
    progress.say(f"What stays: {', '.join(kept) or 'nothing'} (of the database a last snapshot);")
    progress.say(f"            the bucket of releases, and its stack {name}-artefacts.")
    progress.say("What is lost: logs, and messages in the room queues that are not stored yet.")
    _confirm(name, arguments.yes)
    if parameters_of(found).get("DeletionProtection") == "true":
        progress.say("1. The protection of the database is taken away")
        stack.change({"DeletionProtection": "false"})
    progress.say("2. The stack is deleted; instances drain first")
    stack.delete()
    progress.say("Deleted. Queues of instances that were killed: chatflow-admin reap")
    return 0


def _way_back(deployment: Deployment, outputs: Mapping[str, str], fleet: GroupFleet) -> str:
    """The key of the release to go back to."""
    now = outputs["ReleaseKey"]
    if fleet.way_back() == now and not all(one.current for one in fleet.instances()):
        return now  # it is under way, and was interrupted
    key = former_key(deployment.session, outputs["LaunchTemplateId"], now)
    if key is None:
        raise Stopped(
            f"{Path(now).name} is the first release of this stack: there is none to go back to",
            "name one that is in the bucket: scripts/deploy roll --release VERSION",
        )
    return deployment.bucket.require(key)


def _wanted(arguments: argparse.Namespace, old: Version | None, ours: Mapping[str, str]) -> Version:
    """The stack as the command line wants it; what that does not say is as it was."""
    shape = _shape_of(old.template) if old is not None else {"Rooms": 20, "RoomQueues": 0, "DrainSeconds": 60}
    asked = {"Rooms": arguments.rooms, "RoomQueues": arguments.room_queues, "DrainSeconds": arguments.drain_seconds}
    shape = {**shape, **{name: value for name, value in asked.items() if value is not None}}
    try:
        template = render(rooms=shape["Rooms"], room_queues=shape["RoomQueues"], drain_seconds=shape["DrainSeconds"])
    except ValueError as error:
        raise Stopped(str(error)) from error
    before = old.parameters if old is not None else {}
    parameters = with_defaults(template, {**before, **ours, **_settings(arguments, template)})
    return Version(template, parameters)


def _shape_of(template: Mapping[str, Any]) -> dict[str, int]:
    try:
        return dict(template["Metadata"]["ChatFlow"])
    except KeyError:
        raise Stopped("the stack of this name is not one of ChatFlow's", "name another: --stack NAME") from None


def _settings(arguments: argparse.Namespace, template: Mapping[str, Any]) -> dict[str, str]:
    """What --set says."""
    settings = {}
    for setting in arguments.settings:
        name, equals, value = setting.partition("=")
        if not equals or name not in template["Parameters"]:
            known = ", ".join(sorted(template["Parameters"].keys() - _OURS))
            raise Stopped(
                f"--set {setting}: must be NAME=VALUE with one of the stack's parameters", f"these are {known}"
            )
        if name in _OURS:
            raise Stopped(f"--set {setting}: {name} is what scripts/deploy itself says")
        settings[name] = value
    return settings


def _say_changes(progress: Progress, old: Version | None, new: Version) -> None:
    lines = inventory(new.template) if old is None else differences(old, new)
    for line in lines or ["no difference"]:
        for part in textwrap.wrap(line, _COLUMNS, subsequent_indent="     ", break_long_words=False):
            progress.say(f"   {part}")


def _confirm(name: str, yes: str | None) -> None:
    if yes is None:
        if not sys.stdin.isatty():
            raise Stopped("there is nobody to ask whether this is meant", f"say: --yes {name}")
        yes = input("Type the stack's name to delete it: ")
    if yes.strip() != name:
        raise Stopped(f"{yes.strip()!r} is not the stack's name, {name}: nothing was deleted")
