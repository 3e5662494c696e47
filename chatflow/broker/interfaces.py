"""What the parts of the broker that speak with AWS need of each other."""

from __future__ import annotations

from typing import Any, Protocol


class Calls(Protocol):
    """Calls to AWS for coroutines that serve daemon and commands alike.

    Implemented by :class:`chatflow.broker.aws.Aws` for a message's way, and in :mod:`chatflow.broker.calls`.
    """

    async def sqs(self, operation: str, **arguments: Any) -> dict[str, Any]:
        """A call to SQS.

        :raises chatflow.broker.aws.AwsError: it failed.
        """

    async def sns(self, operation: str, **arguments: Any) -> dict[str, Any]:
        """A call to SNS. Raises like :meth:`sqs`."""


class ReceivingCalls(Calls, Protocol):
    """Also receives, which may wait for long."""

    async def receive(self, **arguments: Any) -> dict[str, Any]:
        """SQS ReceiveMessage. Raises like :meth:`sqs`."""
