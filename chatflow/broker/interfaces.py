"""What the parts of the broker that speak with AWS need of each other."""

from __future__ import annotations

from typing import Any, Protocol


class Calls(Protocol):
    """Calls to AWS for coroutines that serve daemon and commands alike. :class:`chatflow.broker.aws.Aws` is one."""

    async def sqs(self, operation: str, **arguments: Any) -> dict[str, Any]:
        """A call to SQS.

        :raises chatflow.broker.aws.AwsError: it failed.
        """

    async def sns(self, operation: str, **arguments: Any) -> dict[str, Any]:
        """A call to SNS. Raises like :meth:`sqs`."""
