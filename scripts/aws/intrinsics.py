"""CloudFormation's intrinsic functions, and the tags that everything carries."""

from __future__ import annotations

from typing import Any

#: What a property's value may be: plain JSON, or an intrinsic function.
Value = Any
Resources = dict[str, dict[str, Any]]

NO_VALUE: Value = {"Ref": "AWS::NoValue"}


def ref(name: str) -> Value:
    """A parameter's value, or what identifies a resource."""
    return {"Ref": name}


def attribute(resource: str, name: str) -> Value:
    """Something else about a resource, such as its ARN."""
    return {"Fn::GetAtt": [resource, name]}


def sub(text: str, **values: Value) -> Value:
    """A text with ``${Name}`` in it, of parameters and resources; or plain text if there is none."""
    if "${" not in text:
        return text
    return {"Fn::Sub": [text, values] if values else text}


def either(condition: str, then: Value, otherwise: Value = NO_VALUE) -> Value:
    """One of two values, by a condition of the template."""
    return {"Fn::If": [condition, then, otherwise]}


def zone(index: int) -> Value:
    """The name of the region's first, second … availability zone."""
    return {"Fn::Select": [index, {"Fn::GetAZs": ref("AWS::Region")}]}


def arn(service: str, resource: str, *, region: str = "${AWS::Region}", account: str = "${AWS::AccountId}") -> Value:
    """An ARN in this partition, and in this region and account unless said otherwise."""
    return sub(f"arn:${{AWS::Partition}}:{service}:{region}:{account}:{resource}")


def tags(name: str | None = None) -> list[dict[str, Value]]:
    """Those of ``chatflow-admin setup``, so that costs and owners can be told apart by deployment.

    :param name: what the console shows, behind the stack's name.
    """
    ours = [{"Key": "project", "Value": "chatflow"}, {"Key": "prefix", "Value": ref("QueuePrefix")}]
    return ours if name is None else [{"Key": "Name", "Value": sub(f"${{AWS::StackName}}-{name}")}, *ours]


def allow(actions: list[str], resources: Value, **more: Value) -> dict[str, Value]:
    """A statement of a policy."""
    return {"Effect": "Allow", "Action": actions, "Resource": resources, **more}


def policy(*statements: dict[str, Value]) -> dict[str, Value]:
    """A policy document."""
    return {"Version": "2012-10-17", "Statement": list(statements)}
