"""What an instance tells the others: published to the topic in few calls, and given up rather than waited for.

Losing, doubling or delaying any of it is harmless: hubs go by ``seq`` and read what they miss from the database.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import uuid4

from attrs import define
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from chatflow.broker import fanout_messages
from chatflow.broker.attachment import FROM
from chatflow.broker.aws import AwsError, is_busy_code
from chatflow.broker.fanout_messages import FanoutMessage
from chatflow.broker.interfaces import Calls
from chatflow.contracts.messages import StoredMessage
from chatflow.errors import Unavailable
from chatflow.lifecycle import Backoff, Outstanding

_MAX_ENTRIES = 10
#: The topic's limit is 262,144 bytes for a batch, attributes included.
_MAX_CALL_BYTES = 250_000
_TRIES = 2
#: Once SNS has not answered, messages are dropped for so long before one call finds out whether it does again.
_QUIET_SECONDS = 5.0
#: Messages that SNS throttles are tried again for so long: then the others find them by the comparison of heads soon.
_BUSY_SECONDS = 5.0
#: While it does, so many messages gather for the next calls; later ones are dropped.
_MAX_WAITING_MESSAGES = 10_000
_PROBE_GROUP = "probe"


@define
class FanoutCounters:
    """Since the start. ``publish_failures``: fan-out messages that were given up, or dropped while SNS did not answer.

    ``throttled``: calls to publish of which SNS took nothing or not all, because there were too many.
    """

    published: int = 0
    throttled: int = 0
    publish_failures: int = 0
    received: int = 0
    attachments: int = 0


class Publisher:
    """Runs on the reactor thread.

    Storing waits for :meth:`publish`, so it must not wait for an SNS that does not answer: after a call that failed
    twice, messages are dropped for some seconds; then the next ones are tried once, and nobody waits for that.

    An SNS that throttles does answer: messages gather meanwhile and are tried again, and nobody waits for that either.

    :ivar topic_arn: of the topic; to be set before anything is published.
    :ivar sender: the present fan-out queue, whose subscription filters out what is published here.
    """

    _log = Logger()

    def __init__(
        self, *, clock: IReactorTime, calls: Calls, counters: FanoutCounters, outstanding: Outstanding
    ) -> None:
        self._clock = clock
        self._calls = calls
        self._counters = counters
        self._outstanding = outstanding
        self._waiting: dict[int, list[StoredMessage]] = {}
        self._handed_over: list[Deferred[None]] = []
        self._under_way: list[Deferred[None]] = []
        self._publishing = False
        self._failing = False
        self._busy = False
        self._waiting_messages = 0
        self._quiet_until = float("-inf")
        self.topic_arn = ""
        self.sender = ""

    def publish(self, messages: Sequence[StoredMessage]) -> Deferred[None]:
        """See :class:`~chatflow.contracts.fanout.IFanout`.

        What comes in the same turn of the reactor, or during a call, shares the next call.
        """
        if (self._failing and (self._publishing or self._is_quiet())) or (
            self._busy and self._waiting_messages + len(messages) > _MAX_WAITING_MESSAGES
        ):
            self._counters.publish_failures += len({message.room for message in messages})
            return succeed(None)
        if not messages:
            return succeed(None)
        for message in messages:
            self._waiting.setdefault(message.room, []).append(message)
        self._waiting_messages += len(messages)
        handed_over: Deferred[None] = Deferred()
        if self._failing or self._busy:
            handed_over.callback(None)
        else:
            self._handed_over.append(handed_over)
        if not self._publishing:
            self._publishing = True
            self._outstanding.add("publishing", Deferred.fromCoroutine(self._publish_all()))
        return handed_over

    async def probe(self, text: str) -> bool:
        """Send every instance a probe, however quiet it is here; whether SNS has it."""
        entry = self._entry("0", _PROBE_GROUP, fanout_messages.encode(FanoutMessage(0, 0, probe=text)), _PROBE_GROUP)
        return not await self._try([entry])

    async def _publish_all(self) -> None:
        try:
            while self._waiting:
                # No gap here: a room is held until its messages are out, and late ones meet newer ones of others.
                await deferLater(self._clock, 0)
                waiting, self._waiting, self._waiting_messages = self._waiting, {}, 0
                self._under_way, self._handed_over = self._handed_over, []
                try:
                    await self._publish_each([one for own in waiting.values() for one in fanout_messages.split(own)])
                except Exception:
                    self._log.failure("fan-out messages were lost")
                finally:
                    self._let_go()
        finally:
            self._publishing = False

    def _let_go(self) -> None:
        """Nobody waits any more for what is under way."""
        under_way, self._under_way = self._under_way, []
        for deferred in under_way:
            deferred.callback(None)

    async def _publish_each(self, messages: Sequence[FanoutMessage]) -> None:
        entries: list[dict[str, Any]] = []
        size = 0
        for message in messages:
            body = fanout_messages.encode(message)
            if entries and (len(entries) == _MAX_ENTRIES or size + len(body) > _MAX_CALL_BYTES):
                await self._publish_batch(entries)
                entries, size = [], 0
            entries.append(self._entry(str(len(entries)), str(message.room), body, self.sender))
            size += len(body)
        if entries:
            await self._publish_batch(entries)

    def _entry(self, entry_id: str, group: str, body: str, sender: str) -> dict[str, Any]:
        return {
            "Id": entry_id,
            "Message": body,
            "MessageGroupId": group,
            "MessageDeduplicationId": str(uuid4()),
            "MessageAttributes": {FROM: {"DataType": "String", "StringValue": sender}},
        }

    async def _publish_batch(self, entries: list[dict[str, Any]]) -> None:
        self._counters.publish_failures += len(entries) if self._is_quiet() else await self._try(entries)

    async def _try(self, entries: list[dict[str, Any]]) -> int:
        """How many of them SNS does not have in the end."""
        left, tries = entries, 1 if self._failing else _TRIES
        backoff = Backoff(first_seconds=0.1, cap_seconds=1.0)
        gives_up_at = self._clock.seconds() + _BUSY_SECONDS
        while True:
            try:
                response = await self._calls.sns(
                    "publish_batch", TopicArn=self.topic_arn, PublishBatchRequestEntries=left
                )
            except Unavailable as error:
                self._log.warn("fan-out messages were not published: {reason}", reason=str(error))
                is_busy = isinstance(error, AwsError) and error.is_busy
                is_faulty = isinstance(error, AwsError) and error.is_faulty
                is_answered = is_busy or is_faulty
                tries = 0 if is_faulty else tries - 1
            else:
                is_answered = True
                failed = {entry["Id"]: str(entry.get("Code")) for entry in response.get("Failed", ())}
                is_busy = any(map(is_busy_code, failed.values()))
                self._counters.published += len(left) - len(failed)
                left = [entry for entry in left if entry["Id"] in failed]
                tries -= 1
                if not left:
                    break
            if is_busy and self._clock.seconds() < gives_up_at:
                self._counters.throttled += 1
                await self._pause_while_busy(backoff.next_delay_seconds())
            elif tries <= 0:
                break
        self._busy = self._busy and bool(left)
        if is_answered and self._failing:
            self._log.info("fan-out messages are published again")
        self._failing = not is_answered
        if self._failing:
            self._quiet_until = self._clock.seconds() + _QUIET_SECONDS
        return len(left)

    async def _pause_while_busy(self, seconds: float) -> None:
        """Storing goes on, and what comes of it joins the next calls."""
        self._busy = True
        self._let_go()
        for deferred in self._handed_over:
            deferred.callback(None)
        self._handed_over = []
        await deferLater(self._clock, seconds)

    def _is_quiet(self) -> bool:
        return self._failing and self._clock.seconds() < self._quiet_until
