"""Receiving from an SQS FIFO queue such that a lost answer holds nothing back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import uuid4

from chatflow.broker.aws import AwsError
from chatflow.broker.interfaces import ReceivingCalls

MAX_MESSAGES = 10  # of one ReceiveMessage


class Receiver:
    """Of one queue, one receive at a time.

    A receive whose outcome is unknown is repeated as the same attempt: SQS then gives the same messages again, instead
    of holding them back until they are visible (ReceiveMessage, ReceiveRequestAttemptId).
    """

    def __init__(self, calls: ReceivingCalls) -> None:
        self._calls = calls
        self._attempt_id = str(uuid4())

    async def receive(self, queue_url: str, wait_seconds: int, **options: Any) -> Sequence[dict[str, Any]]:
        """At most :data:`MAX_MESSAGES` messages, each with the time when it was sent.

        :param wait_seconds: for a first one; at most 20 (SQS).
        :param options: more parameters of ReceiveMessage.
        :raises AwsError: the call failed.
        """
        parameters = {"AttributeNames": ["SentTimestamp"], **options}
        try:
            answer = await self._calls.receive(
                QueueUrl=queue_url,
                MaxNumberOfMessages=MAX_MESSAGES,
                WaitTimeSeconds=wait_seconds,
                ReceiveRequestAttemptId=self._attempt_id,
                **parameters,
            )
        except AwsError as error:
            if error.certain:
                self._attempt_id = str(uuid4())
            raise
        self._attempt_id = str(uuid4())
        messages: Sequence[dict[str, Any]] = answer.get("Messages", ())
        return messages


def sent_at(message: dict[str, Any], default: float) -> float:
    """When SQS took a message, in seconds since the epoch; ``default`` where it does not say."""
    sent_ms = message.get("Attributes", {}).get("SentTimestamp")
    return default if sent_ms is None else int(sent_ms) / 1000
