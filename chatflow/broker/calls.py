"""Calls to AWS as commands make them: one after the other, without a reactor."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from chatflow.broker.aws import CALL_FAILURES, AwsError, Clients, as_aws_error
from chatflow.errors import StartupError


class BlockingCalls:
    """Each call blocks; see :func:`chatflow.lifecycle.blocking.at_once`."""

    def __init__(self, clients: Clients) -> None:
        self._clients = clients

    async def sqs(self, operation: str, **arguments: Any) -> dict[str, Any]:
        """See :class:`~chatflow.broker.interfaces.Calls`."""
        return call(self._clients.sqs_control, operation, **arguments)

    async def sns(self, operation: str, **arguments: Any) -> dict[str, Any]:
        """See :class:`~chatflow.broker.interfaces.Calls`."""
        return call(self._clients.sns_control, operation, **arguments)


def call(client: Any, operation: str, **arguments: Any) -> dict[str, Any]:
    """A blocking call.

    :raises AwsError: it failed.
    """
    try:
        response: dict[str, Any] = getattr(client, operation)(**arguments)
    except CALL_FAILURES as error:
        raise as_aws_error(operation, error) from None  # what is secret in the error is not in ours
    return response


def queue_url(client: Any, name: str) -> str | None:
    """Where a queue is; None if there is none. Blocks."""
    try:
        return str(call(client, "get_queue_url", QueueName=name)["QueueUrl"])
    except AwsError as error:
        if error.queue_is_missing:
            return None
        raise


def find_queue(client: Any, name: str) -> str:
    """Where a queue is that must be there. Blocks.

    :raises StartupError: there is none, or AWS does not answer.
    """
    try:
        url = queue_url(client, name)
    except AwsError as error:
        raise StartupError(f"cannot find queue {name}: {error}") from error
    if url is None:
        raise StartupError(f"there is no queue {name}: run `chatflow-admin setup`")
    return url


def queues_beginning(client: Any, prefix: str) -> dict[str, str]:
    """The URL of every queue whose name begins so, by name. Blocks."""
    urls = (url for page in _pages(client, prefix) for url in page.get("QueueUrls", ()))
    return {url.rsplit("/", 1)[-1]: url for url in urls}


def _pages(client: Any, prefix: str) -> Iterator[dict[str, Any]]:
    more: dict[str, Any] = {}
    while True:
        page = call(client, "list_queues", QueueNamePrefix=prefix, MaxResults=1000, **more)
        yield page
        if not page.get("NextToken"):
            return
        more = {"NextToken": page["NextToken"]}
