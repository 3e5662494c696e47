"""Who carries out calls to AWS, besides the message path's :class:`~chatflow.broker.aws.Aws`.

Whatever calls AWS is a coroutine over :class:`~chatflow.broker.interfaces.Calls`, and so is written once: commands and
the daemon's start run it at once over calls that block, the running daemon over calls in threads.
"""

from __future__ import annotations

from typing import Any

from chatflow.broker.aws import CALL_FAILURES, Aws, Clients, as_aws_error, make_clients


class BlockingCalls:
    """Each call blocks; see :func:`chatflow.lifecycle.blocking.at_once`. The clients try again by themselves."""

    def __init__(self, clients: Clients) -> None:
        self._clients = clients

    async def receive(self, **arguments: Any) -> dict[str, Any]:
        """See :class:`~chatflow.broker.interfaces.Calls`."""
        return call_in_thread(self._clients.sqs_control, "receive_message", arguments)

    async def sqs(self, operation: str, **arguments: Any) -> dict[str, Any]:
        """See :class:`~chatflow.broker.interfaces.Calls`."""
        return call_in_thread(self._clients.sqs_control, operation, arguments)

    async def sns(self, operation: str, **arguments: Any) -> dict[str, Any]:
        """See :class:`~chatflow.broker.interfaces.Calls`."""
        return call_in_thread(self._clients.sns_control, operation, arguments)


class ControlCalls:
    """Calls of a running daemon that make and remove queues: in sending threads, by clients that wait for longer.

    They are no part of a message's way, so neither counted nor paced.
    """

    def __init__(self, aws: Aws) -> None:
        self._aws = aws

    async def sqs(self, operation: str, **arguments: Any) -> dict[str, Any]:
        """See :class:`~chatflow.broker.interfaces.Calls`."""
        return await self._aws.send_threads.run(call_in_thread, self._aws.clients.sqs_control, operation, arguments)

    async def sns(self, operation: str, **arguments: Any) -> dict[str, Any]:
        """See :class:`~chatflow.broker.interfaces.Calls`."""
        return await self._aws.send_threads.run(call_in_thread, self._aws.clients.sns_control, operation, arguments)


def blocking_calls() -> BlockingCalls:
    """The calls of a command.

    :raises StartupError: region or credentials are missing.
    """
    return BlockingCalls(make_clients(polls=1, sends=1))


def call_in_thread(client: Any, operation: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """One call; blocks.

    :raises AwsError: it failed.
    """
    try:
        response: dict[str, Any] = getattr(client, operation)(**arguments)
    except CALL_FAILURES as error:
        raise as_aws_error(operation, error) from None  # what is secret in the error is not in ours
    return response
