"""CloudFormation on this machine: the emulator as far as it goes.

What it does not know is replaced before. What it cannot show: it starts no instance and no database, sends no mail, and
nothing passes its load balancers; it enforces no policy, security group, listener rule or deletion protection; and of a
resource it reads the properties that it knows, which for an SNS topic is little more than its name.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from typing import Any

import boto3

from testbed.emulator import Emulator, aws_environment
from testbed.waiting import eventually

SERVICES = "cloudformation,s3,sqs,sns,ec2,elasticloadbalancing,autoscaling,iam,rds,secretsmanager,monitoring,logs,ssm"

_BUCKET = "templates"
_SECONDS = 60.0

# The emulator makes no secret for a database's user; so the template gets one of its own.
_MANAGED_SECRET = {"Fn::GetAtt": ["DatabaseCluster", "MasterUserSecret.SecretArn"]}
_STAND_IN = {
    "Type": "AWS::SecretsManager::Secret",
    "Properties": {"SecretString": json.dumps({"username": "chatflow", "password": "secret"})},
}


def emulable(template: Mapping[str, Any]) -> dict[str, Any]:
    """The template with what the emulator does not know replaced."""
    made: dict[str, Any] = _replaced(template)
    if made != template:
        made["Resources"]["StandInSecret"] = copy.deepcopy(_STAND_IN)
    return made


def _replaced(value: Any) -> Any:
    if value == _MANAGED_SECRET:
        return {"Ref": "StandInSecret"}
    if isinstance(value, Mapping):
        return {key: _replaced(each) for key, each in value.items()}
    return [_replaced(each) for each in value] if isinstance(value, list) else value


class Stacks:
    """CloudFormation of an emulator: stacks made, changed and removed.

    :ivar url: of the emulator.
    """

    def __init__(self, emulator: Emulator) -> None:
        self.url = emulator.url
        self._clients: dict[str, Any] = {}  # to make one takes longer than most calls
        self.client("s3").create_bucket(Bucket=_BUCKET)

    def client(self, service: str) -> Any:
        """boto3's client of a service of the emulator."""
        if service not in self._clients:
            self._clients[service] = self._make_client(service)
        return self._clients[service]

    def _make_client(self, service: str) -> Any:
        variables = aws_environment(self.url)
        session = boto3.session.Session(variables["AWS_ACCESS_KEY_ID"], variables["AWS_SECRET_ACCESS_KEY"])
        make: Any = session.client  # its annotations take no name that is not literal
        return make(service, region_name=variables["AWS_REGION"], endpoint_url=self.url)

    def create(self, name: str, template: Mapping[str, Any], **parameters: str) -> dict[str, str]:
        """Make a stack; its outputs.

        :raises AssertionError: it failed, with the reasons.
        """
        return self._apply("create_stack", "CREATE_COMPLETE", name, template, parameters)

    def update(self, name: str, template: Mapping[str, Any], **parameters: str) -> dict[str, str]:
        """Change a stack; as :meth:`create`."""
        return self._apply("update_stack", "UPDATE_COMPLETE", name, template, parameters)

    def delete(self, name: str) -> None:
        """Remove a stack.

        :raises AssertionError: something of it could not be removed.
        """
        stack_id = self._stack(name)["StackId"]
        self.client("cloudformation").delete_stack(StackName=name)
        self._outcome(stack_id, "DELETE_COMPLETE")

    def resources(self, name: str) -> dict[str, str]:
        """What a stack consists of: physical ids by names in the template."""
        pages = self.client("cloudformation").get_paginator("list_stack_resources").paginate(StackName=name)
        summaries = [summary for page in pages for summary in page["StackResourceSummaries"]]
        return {each["LogicalResourceId"]: each["PhysicalResourceId"] for each in summaries}

    def _apply(
        self, operation: str, wanted: str, name: str, template: Mapping[str, Any], parameters: Mapping[str, str]
    ) -> dict[str, str]:
        getattr(self.client("cloudformation"), operation)(
            StackName=name,
            TemplateURL=self._upload(name, template),
            Parameters=[{"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()],
            Capabilities=["CAPABILITY_IAM"],
        )
        return self._outcome(name, wanted)

    def _upload(self, name: str, template: Mapping[str, Any]) -> str:
        """From S3, as beyond 51,200 bytes it has to be."""
        self.client("s3").put_object(Bucket=_BUCKET, Key=name, Body=json.dumps(template).encode())
        return f"https://s3.us-east-1.amazonaws.com/{_BUCKET}/{name}"

    def _stack(self, name: str) -> dict[str, Any]:
        stack: dict[str, Any] = self.client("cloudformation").describe_stacks(StackName=name)["Stacks"][0]
        return stack

    def _outcome(self, name: str, wanted: str) -> dict[str, str]:
        eventually(lambda: not self._stack(name)["StackStatus"].endswith("_IN_PROGRESS"), "the stack is done", _SECONDS)
        stack = self._stack(name)
        if stack["StackStatus"] != wanted:
            events = self.client("cloudformation").describe_stack_events(StackName=name)["StackEvents"]
            reasons = [
                f"{event['LogicalResourceId']}: {event.get('ResourceStatusReason')}"
                for event in events
                if event["ResourceStatus"].endswith("FAILED")
            ]
            raise AssertionError(f"{stack['StackStatus']}: {'; '.join(reasons) or stack.get('StackStatusReason')}")
        return {output["OutputKey"]: output["OutputValue"] for output in stack.get("Outputs", ())}
