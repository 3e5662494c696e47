"""The dead letters of a cluster, in an SQS FIFO queue: kept by the daemons, read by commands.

Each envelope is a message group of its own. Were it the room, at most ten letters of a room could be read at a time,
since a group gives no more before those are deleted. The order that counts is restored by whoever reads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from zope.interface import implementer

from chatflow.broker.aws import Aws, AwsError
from chatflow.broker.calls import BlockingCalls
from chatflow.broker.depth import ask_depth
from chatflow.broker.lookup import require_queue
from chatflow.broker.names import Names
from chatflow.broker.receiving import Receiver, sent_at
from chatflow.broker.settling import settle
from chatflow.codec import deadletters as letters
from chatflow.contracts.deadletters import DeadLetter, IDeadLetterBox, IDeadLetters
from chatflow.contracts.envelopes import Envelope
from chatflow.errors import Unavailable
from chatflow.lifecycle import Backoff
from chatflow.lifecycle.blocking import at_once
from chatflow.lifecycle.clocks import WallTime

#: How long a reader keeps letters from others, should it die.
HOLD_SECONDS = 300


@implementer(IDeadLetters)
class SqsDeadLetters:
    """Keeps dead letters. Runs on the reactor thread; calls run in the threads of ``aws``.

    :param now: for the stamps of letters.
    :param backoff: makes the pauses between the tries for one letter.
    """

    _log = Logger()

    def __init__(
        self,
        *,
        clock: IReactorTime,
        now: WallTime,
        aws: Aws,
        names: Names,
        backoff: Callable[[], Backoff] = lambda: Backoff(first_seconds=0.2, cap_seconds=10.0),
    ) -> None:
        self._clock = clock
        self._now = now
        self._aws = aws
        self._name = names.dead_letters
        self._backoff = backoff
        self._url = ""

    def start(self) -> None:
        """Find the queue. Blocks.

        :raises StartupError: it is missing, or AWS does not answer.
        """
        self._url = at_once(require_queue(BlockingCalls(self._aws.clients), self._name))

    def keep(self, envelope: Envelope, reason: str) -> Deferred[None]:
        """See :class:`IDeadLetters`. The same envelope within five minutes is one letter."""
        return Deferred.fromCoroutine(self._send(letters.of_envelope(envelope, reason, self._now())))

    def keep_body(self, body: str, reason: str) -> Deferred[None]:
        """Keep a queue body that is no envelope, as :meth:`keep` does an envelope."""
        return Deferred.fromCoroutine(self._send(letters.of_body(body, reason, self._now())))

    async def count(self) -> int:
        """How many there are, about.

        :raises AwsError: SQS does not answer.
        """
        depth = await ask_depth(self._aws, self._url)
        return depth.waiting + depth.in_flight

    async def _send(self, letter: DeadLetter) -> None:
        backoff = self._backoff()
        while True:
            try:
                await self._aws.sqs("send_message", **_message(self._url, letter))
            except AwsError as error:
                self._log.error("dead letter {id} is not kept yet: {reason}", id=letter.id, reason=str(error))
            else:
                return
            await deferLater(self._clock, backoff.next_delay_seconds())


@implementer(IDeadLetterBox)
class SqsDeadLetterBox:
    """The same queue for commands.

    :param calls: that block.
    :param url: of the queue.
    """

    #: How long to wait for a letter, before there is none. Without any wait SQS asks only a few of its servers.
    wait_seconds = 1

    def __init__(self, calls: BlockingCalls, url: str) -> None:
        self._calls = calls
        self._url = url
        self._receiver = Receiver(calls)
        self._receipts: dict[str, list[str]] = {}

    def read(self) -> list[DeadLetter]:
        """See :class:`IDeadLetterBox`. Letters that another command holds just now are not among them."""
        found: dict[str, list[DeadLetter]] = {}
        order: dict[str, float] = {}
        while received := self._receive():
            for message in received:
                sent_seconds = sent_at(message, 0.0)
                letter = letters.decode(message["Body"], sent_seconds)
                self._receipts.setdefault(letter.id, []).append(message["ReceiptHandle"])
                found.setdefault(letter.id, []).append(letter)
                order[letter.id] = min(sent_seconds, order.get(letter.id, sent_seconds))
        return sorted(map(_merge, found.values()), key=lambda letter: (letter.first_failed_at, order[letter.id]))

    def replace(self, letter: DeadLetter, replacement: DeadLetter) -> None:
        """See :class:`IDeadLetterBox`. Sent first and deleted then, so that a crash between leaves two, not none."""
        at_once(self._calls.sqs("send_message", **_message(self._url, replacement)))
        self.remove([letter])

    def remove(self, letters: Sequence[DeadLetter]) -> None:
        """See :class:`IDeadLetterBox`.

        :raises Unavailable: it was held for longer than :data:`HOLD_SECONDS`, and is in the queue still.
        """
        receipts = [receipt for letter in letters for receipt in self._receipts.pop(letter.id, ())]
        self._each(receipts, "delete_message_batch", {})

    def release(self) -> None:
        """See :class:`IDeadLetterBox`."""
        receipts = [receipt for each in self._receipts.values() for receipt in each]
        self._receipts.clear()
        with suppress(Unavailable):  # then they come back by themselves
            self._each(receipts, "change_message_visibility_batch", {"VisibilityTimeout": 0})

    def _receive(self) -> Sequence[dict[str, Any]]:
        return at_once(self._receiver.receive(self._url, self.wait_seconds, VisibilityTimeout=HOLD_SECONDS))

    def _each(self, receipts: Sequence[str], operation: str, more: dict[str, Any]) -> None:
        # Tried once: the clients of commands try again by themselves.
        unsettled = at_once(settle(self._calls, operation, self._url, receipts, **more))
        if failed := len(unsettled.lost) + len(unsettled.retryable):
            raise Unavailable(f"{operation} failed for {failed} dead letters: {unsettled.reason}")


def _merge(letters: Sequence[DeadLetter]) -> DeadLetter:
    """All letters of one envelope as one.

    Those that begin at the same time are one letter, and what it was replaced by before a command died that should
    have deleted it. Those that do not are of refusals more than five minutes apart, which SQS kept apart.
    """
    attempts: dict[str, int] = {}
    for letter in letters:
        began = letter.first_failed_at
        attempts[began] = max(letter.attempts, attempts.get(began, 0))
    latest = max(letters, key=lambda letter: (letter.last_failed_at, letter.attempts))
    return msgspec.structs.replace(latest, attempts=sum(attempts.values()), first_failed_at=min(attempts))


def _message(url: str, letter: DeadLetter) -> dict[str, str]:
    return {
        "QueueUrl": url,
        "MessageBody": letters.encode(letter),
        "MessageGroupId": letter.id,
        # SQS drops what has the same within five minutes; a replacement must not be dropped.
        "MessageDeduplicationId": f"{letter.id}-{letter.attempts}",
    }
