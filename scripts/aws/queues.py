"""Room queues, fan-out topic and dead letter queue: names and attributes are those of ``chatflow-admin setup``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chatflow.broker.names import Names
from chatflow.broker.setup import QUEUE_ATTRIBUTES, TOPIC_ATTRIBUTES
from scripts.aws.intrinsics import Resources, Value, sub


def names(rooms: int, room_queues: int) -> Names:
    """The names of objects with the prefix that the stack is given."""
    return Names("${QueuePrefix}", rooms, room_queues)


def room_queue_id(shard: int) -> str:
    """What a room queue is called in the template."""
    return f"RoomQueue{shard}"


def make(names: Names) -> Resources:
    """Queues and topic.

    Room queues are deleted with the stack, or when there are fewer: they hold what is acknowledged and not stored yet,
    so they have to be empty then. Dead letters stay until somebody has looked at them.
    """
    made: Resources = {
        room_queue_id(shard): _queue(names.room_queue(shard), names, "Delete", "Delete") for shard in names.shards
    }
    made["DeadLetterQueue"] = _queue(names.dead_letters, names, "RetainExceptOnCreate", "Retain")
    made["FanoutTopic"] = {
        "Type": "AWS::SNS::Topic",
        "Properties": {
            "TopicName": sub(names.topic),
            **_typed(TOPIC_ATTRIBUTES),
            "Tags": _tags(names),
        },
    }
    return made


def _queue(name: str, names: Names, on_deletion: str, on_replacement: str) -> dict[str, Any]:
    return {
        "Type": "AWS::SQS::Queue",
        "DeletionPolicy": on_deletion,
        "UpdateReplacePolicy": on_replacement,
        "Properties": {"QueueName": sub(name), **_typed(QUEUE_ATTRIBUTES), "Tags": _tags(names)},
    }


def _tags(names: Names) -> list[dict[str, Value]]:
    return [{"Key": key, "Value": sub(value)} for key, value in names.tags.items()]


def _typed(attributes: Mapping[str, str]) -> dict[str, Value]:
    """The API takes each attribute as a text, CloudFormation as what it is; the names are the same."""
    return {key: _value(text) for key, text in attributes.items()}


def _value(text: str) -> Value:
    if text in ("true", "false"):
        return text == "true"
    return int(text) if text.isdigit() else text
