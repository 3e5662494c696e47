"""A CloudFormation stack: looked at, changed by change sets that are shown first, and deleted."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Container, Iterator, Mapping
from typing import Any

from attrs import define
from botocore.exceptions import ClientError

from scripts.deployment.differences import Version, with_defaults
from scripts.deployment.errors import Stopped
from scripts.deployment.progress import Progress

_POLL_SECONDS = 3.0
#: Beyond it a template has to be in S3 (CloudFormation's quotas).
MAX_BODY_BYTES = 51_200
# What holds something that nothing else does.
_PRECIOUS = {"AWS::RDS::DBCluster", "AWS::SQS::Queue", "AWS::S3::Bucket", "AWS::SecretsManager::Secret"}
_UNCHANGED = ("didn't contain changes", "No updates are to be performed", "no changes")
# After these a stack can only be deleted.
_NEVER_MADE = {"ROLLBACK_COMPLETE", "ROLLBACK_FAILED", "CREATE_FAILED", "DELETE_FAILED"}


@define
class Stack:
    """:param cloudformation: boto3's client. :param clock: seconds that only grow; ``sleep`` waits for some."""

    cloudformation: Any
    name: str
    progress: Progress
    sleep: Callable[[float], None]

    def describe(self) -> dict[str, Any] | None:
        """What CloudFormation says of it; None if there is none, or none but the intention to make one."""
        found = self._found()
        return None if found is None or found["StackStatus"] == "REVIEW_IN_PROGRESS" else found

    def outputs(self) -> dict[str, str]:
        """What it tells. :raises Stopped: there is none."""
        found = self.describe()
        if found is None:
            raise Stopped(f"there is no stack {self.name}", "make it: scripts/deploy up; or name another: --stack NAME")
        return {each["OutputKey"]: each["OutputValue"] for each in found.get("Outputs", ())}

    def version(self) -> Version | None:
        """What it is made of, None if there is none."""
        found = self.describe()
        if found is None:
            return None
        body = self.cloudformation.get_template(StackName=self.name, TemplateStage="Original")["TemplateBody"]
        template = json.loads(body) if isinstance(body, str) else body
        return Version(template, with_defaults(template, parameters_of(found)))

    def change(
        self,
        parameters: Mapping[str, str],
        *,
        template: Mapping[str, str] | None = None,
        may_lose_data: bool = False,
    ) -> bool:
        """Make it, or make it so; blocks until that is done.

        :param parameters: of these, those that the stack has and that are not given keep their values.
        :param template: CloudFormation's ``TemplateURL`` or ``TemplateBody``; None for the one that it has.
        :return: whether anything was to be changed.
        :raises Stopped: it cannot be done, was undone by CloudFormation, or would destroy data.
        """
        self.settle()
        found = self.describe()
        if found is not None and found["StackStatus"] in _NEVER_MADE:
            raise Stopped(
                f"the stack {self.name} is in the state {found['StackStatus']}: {found.get('StackStatusReason', '')}",
                "it can only be deleted and made again: scripts/deploy down, then scripts/deploy up",
            )
        had = parameters_of(found) if found is not None else {}
        kept = had.keys() - parameters.keys()
        if template is not None:
            kept &= self._declared(template)
        given: list[dict[str, Any]] = [{"ParameterKey": key, "UsePreviousValue": True} for key in sorted(kept)]
        given += [{"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()]
        more: dict[str, Any] = dict(template) if template is not None else {"UsePreviousTemplate": True}
        if found is None:
            more["ImportExistingResources"] = True  # dead letters outlive their stack
        change_set = self.cloudformation.create_change_set(
            StackName=self.name,
            ChangeSetName=f"deploy-{uuid.uuid4().hex}",
            ChangeSetType="CREATE" if found is None else "UPDATE",
            Parameters=given,
            Capabilities=["CAPABILITY_IAM"],
            **more,
        )["Id"]
        changes = self._changes(change_set)
        if changes is None:
            self.cloudformation.delete_change_set(ChangeSetName=change_set, StackName=self.name)
            self.progress.say(f"  {self.name}: nothing to change")
            return False
        for change in changes:
            self.progress.say(f"  {_as_line(change)}")
        lost = [change["LogicalResourceId"] for change in changes if _loses_data(change)]
        if lost and not may_lose_data:
            self.cloudformation.delete_change_set(ChangeSetName=change_set, StackName=self.name)
            raise Stopped(
                f"this would delete or replace what holds data: {', '.join(lost)}",
                "nothing was changed. If that is what you want, and it is empty or saved: --replace-data",
            )
        before = self._known()
        self.cloudformation.execute_change_set(ChangeSetName=change_set, StackName=self.name)
        self._follow(before, self.name)
        return True

    def settle(self) -> None:
        """Wait for what somebody, perhaps an interrupted call of ours, has begun."""
        found = self.describe()
        if found is not None and found["StackStatus"].endswith("_IN_PROGRESS"):
            self.progress.say(f"  {self.name}: {found['StackStatus']}, waiting for its end")
            self._follow(self._known(), found["StackId"], may_fail=True)

    def delete(self) -> None:
        """Delete it; blocks until that is done.

        :raises Stopped: something could not be deleted.
        """
        found = self._found()
        if found is None:
            return
        stack_id = found["StackId"]
        before = self._known(stack_id)
        self.cloudformation.delete_stack(StackName=stack_id)
        self._follow(before, stack_id)

    def resources(self) -> list[dict[str, Any]]:
        """CloudFormation's summaries of what it consists of."""
        pages = self.cloudformation.get_paginator("list_stack_resources").paginate(StackName=self.name)
        return [summary for page in pages for summary in page["StackResourceSummaries"]]

    def _found(self) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = self.cloudformation.describe_stacks(StackName=self.name)["Stacks"][0]
        except ClientError as error:
            if "does not exist" in error.response["Error"].get("Message", ""):
                return None
            raise
        return found

    def _declared(self, template: Mapping[str, str]) -> set[str]:
        said = self.cloudformation.get_template_summary(**template)
        return {each["ParameterKey"] for each in said["Parameters"]}

    def _changes(self, change_set: str) -> list[dict[str, Any]] | None:
        """What it would do to each resource; None if nothing."""
        while True:
            found = self.cloudformation.describe_change_set(ChangeSetName=change_set, StackName=self.name)
            if found["Status"] == "FAILED":
                reason = found.get("StatusReason", "")
                if any(text in reason for text in _UNCHANGED):
                    return None
                raise Stopped(f"the stack {self.name} cannot be changed: {reason}")
            if found["Status"] == "CREATE_COMPLETE":
                break
            self.sleep(_POLL_SECONDS)
        changes = [each["ResourceChange"] for each in found["Changes"] if "ResourceChange" in each]
        while "NextToken" in found:
            found = self.cloudformation.describe_change_set(
                ChangeSetName=change_set, StackName=self.name, NextToken=found["NextToken"]
            )
            changes += [each["ResourceChange"] for each in found["Changes"] if "ResourceChange" in each]
        return changes

    def _follow(self, seen: set[str], name: str, may_fail: bool = False) -> None:
        """Say what happens to each resource until the stack is done."""
        reasons: list[str] = []
        with self.progress.step(self.name, "CloudFormation") as step:
            while True:
                status = self._status(name)
                for event in self._events(name, seen):
                    seen.add(event["EventId"])
                    line = f"{event['LogicalResourceId']} ({event['ResourceType']}) {event['ResourceStatus']}"
                    if event["ResourceStatus"].endswith("_FAILED"):
                        reasons.append(f"{event['LogicalResourceId']}: {event.get('ResourceStatusReason', '')}")
                    if event["ResourceStatus"].endswith(("_COMPLETE", "_FAILED")):
                        self.progress.say(f"    {line}")
                if not status.endswith("_IN_PROGRESS"):
                    break
                self.sleep(_POLL_SECONDS)
            step.note = status
        if not may_fail and ("ROLLBACK" in status or status.endswith("_FAILED")):
            why = reasons[0] if reasons else "see its events"
            raise Stopped(f"the stack {self.name} ended in {status}: {why}", "mend the cause and repeat the command")

    def _status(self, name: str) -> str:
        try:
            return str(self.cloudformation.describe_stacks(StackName=name)["Stacks"][0]["StackStatus"])
        except ClientError as error:
            if "does not exist" in error.response["Error"].get("Message", ""):
                return "DELETE_COMPLETE"
            raise

    def _events(self, name: str = "", since: Container[str] = ()) -> list[dict[str, Any]]:
        """The newest, oldest first.

        :param since: ids of those that are known; without any only the last hundred or so are given.
        """
        found: list[dict[str, Any]] = []
        pages = self.cloudformation.get_paginator("describe_stack_events").paginate(StackName=name or self.name)
        try:
            for page in pages:
                fresh = [event for event in page["StackEvents"] if event["EventId"] not in since]
                found += fresh
                if not since or len(fresh) < len(page["StackEvents"]):
                    break
        except ClientError as error:
            if "does not exist" not in error.response["Error"].get("Message", ""):
                raise
        return found[::-1]

    def _known(self, name: str = "") -> set[str]:
        # Never empty, so that "since" means something.
        return {"", *(event["EventId"] for event in self._events(name))}


def parameters_of(stack: Mapping[str, Any]) -> dict[str, str]:
    """Those of a described stack."""
    return {each["ParameterKey"]: each["ParameterValue"] for each in stack.get("Parameters", ())}


def _loses_data(change: Mapping[str, Any]) -> bool:
    if change["ResourceType"] not in _PRECIOUS:
        return False
    return change["Action"] == "Remove" or change.get("Replacement") in ("True", "Conditional")


def _as_line(change: Mapping[str, Any]) -> str:
    sign = {"Add": "+", "Remove": "-"}.get(change["Action"], "~")
    line = f"{sign} {change['LogicalResourceId']} ({change['ResourceType']})"
    details = sorted(set(_targets(change)))
    if details:
        line += f": {', '.join(details)}"
    if change.get("Replacement") in ("True", "Conditional"):
        line += ", replaced" if change["Replacement"] == "True" else ", perhaps replaced"
    return line


def _targets(change: Mapping[str, Any]) -> Iterator[str]:
    for detail in change.get("Details", ()):
        target = detail.get("Target", {})
        yield target.get("Name") or target.get("Attribute", "")
