"""Deleting what was received, or making it visible sooner or later: in batch calls, of which each entry may fail."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from attrs import Factory, frozen
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from chatflow.broker.aws import AwsError, is_busy_code
from chatflow.broker.interfaces import Calls
from chatflow.lifecycle import Backoff

MAX_ENTRIES = 10  # of any batch call

_DELETE_TRIES = 3

_log = Logger()


@frozen
class Unsettled:
    """Receipt handles of what a batch did not settle.

    :ivar retryable: the call failed, or SQS put them off: the same call may settle them yet.
    :ivar lost: SQS refused them for good, so somebody else may have been given these messages; or their queue is gone.
    :ivar reason: of one of them, for people.
    """

    retryable: list[str] = Factory(list)
    lost: list[str] = Factory(list)
    reason: str = ""


async def settle(calls: Calls, operation: str, queue_url: str, handles: Sequence[str], **fields: Any) -> Unsettled:
    """Try an operation once for each of these: a call for every ten.

    :param operation: a batch operation of SQS that goes by receipt handles.
    :param fields: more of each entry.
    """
    retryable: list[str] = []
    lost: list[str] = []
    reason = ""
    for begin in range(0, len(handles), MAX_ENTRIES):
        part = handles[begin : begin + MAX_ENTRIES]
        entries = [{"Id": str(i), "ReceiptHandle": handle, **fields} for i, handle in enumerate(part)]
        try:
            answer = await calls.sqs(operation, QueueUrl=queue_url, Entries=entries)
        except AwsError as error:
            reason = str(error)
            (lost if error.is_missing else retryable).extend(part)
            continue
        for entry in answer.get("Failed", ()):
            reason = f"{operation}: {entry.get('Code')}: {entry.get('Message', '')}"
            (lost if is_final(entry) else retryable).append(part[int(entry["Id"])])
    return Unsettled(retryable, lost, reason)


async def delete(
    calls: Calls, clock: IReactorTime, queue_url: str, handles: Sequence[str], backoff: Backoff
) -> Unsettled:
    """Delete these, and try those again that failed, a few times.

    :param backoff: makes the pauses.
    """
    left, lost, reason = list(handles), [], ""
    for tries_left in reversed(range(_DELETE_TRIES)):
        unsettled = await settle(calls, "delete_message_batch", queue_url, left)
        left, reason = unsettled.retryable, unsettled.reason or reason
        lost += unsettled.lost
        if not left:
            break
        _log.warn("{count} messages are not deleted: {reason}", count=len(left), reason=reason)
        if tries_left:
            await deferLater(clock, backoff.next_delay_seconds())
    return Unsettled(left, lost, reason)


def is_final(failed: dict[str, Any]) -> bool:
    """Whether an entry of a batch call that failed would fail again. Throttling is called the sender's fault, too."""
    return bool(failed.get("SenderFault")) and not is_busy_code(str(failed.get("Code")))
