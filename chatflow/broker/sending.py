"""Envelopes on their way into one SQS FIFO queue: several rooms in a call, and each room in its order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from attrs import Factory, define
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from chatflow.broker.aws import AwsError
from chatflow.broker.interfaces import Calls
from chatflow.broker.settling import MAX_ENTRIES, is_final
from chatflow.codec import envelopes
from chatflow.contracts.envelopes import Envelope
from chatflow.errors import Unavailable
from chatflow.lifecycle import Backoff, Outstanding


@define
class SendCounters:
    """Counters of publishes, since the start."""

    publish_retries: int = 0
    published_messages: int = 0


@define(eq=False)
class _Publishing:
    """An envelope that waits.

    :ivar tried_at: when it was first sent, 0 before.
    :ivar is_pausing: it was not accepted, and is not to be sent again yet.
    :ivar reason: why it was not.
    """

    envelope: Envelope
    result: Deferred[None]
    tried_at: float = 0.0
    is_pausing: bool = False
    reason: str = ""
    backoff: Backoff = Factory(lambda: Backoff(first_seconds=0.1, cap_seconds=5.0))


class Sender:
    """Of one queue. Runs on the reactor thread.

    :param publish_seconds: an envelope that SQS does not accept for so long is refused; less than SQS's five minutes
        of deduplication, since until then it is tried again under the same id.
    :param observe_bytes: called with the size of each body that SQS took.
    :ivar url: of the queue; to be set before anything is published.
    :ivar sent_at: when the last call began.
    """

    _log = Logger()

    def __init__(
        self,
        *,
        clock: IReactorTime,
        calls: Calls,
        counters: SendCounters,
        outstanding: Outstanding,
        publish_seconds: float,
        observe_bytes: Callable[[float], object],
    ) -> None:
        self._clock = clock
        self._calls = calls
        self._counters = counters
        self._outstanding = outstanding
        self._publish_seconds = publish_seconds
        self._observe_bytes = observe_bytes
        self._waiting: deque[_Publishing] = deque()
        self._is_sending = False
        self.url = ""
        self.sent_at = float("-inf")

    def publish(self, envelope: Envelope) -> Deferred[None]:
        """See :class:`~chatflow.contracts.room_queue.IRoomQueue`."""
        publishing = _Publishing(envelope, Deferred())
        self._waiting.append(publishing)
        if not self._is_sending:
            self._is_sending = True
            # Envelopes of other rooms on this queue that are about to come share the call.
            self._clock.callLater(0, self._start_sending)
        return publishing.result

    def _start_sending(self) -> None:
        self._is_sending = True
        self._outstanding.add("publishing", Deferred.fromCoroutine(self._send_all()))

    async def _send_all(self) -> None:
        """Send what may be sent now, of some rooms at a time."""
        try:
            while batch := self._take():
                try:
                    await self._send(self._without_late(batch))
                except Exception as error:
                    # Calls have stopped, or this is our fault: nobody shall wait for ever.
                    for one in batch:
                        if not one.result.called:
                            one.result.errback(error)
        finally:
            self._is_sending = False

    def _take(self) -> list[_Publishing]:
        """The oldest that wait, one of each room: if it failed alone, the room's next would overtake it.

        So nothing is taken of a room whose oldest pauses; the other rooms go on.
        """
        taken: list[_Publishing] = []
        left: list[_Publishing] = []
        rooms: set[int] = set()
        while self._waiting and len(taken) < MAX_ENTRIES:
            one = self._waiting.popleft()
            if one.is_pausing or one.envelope.room in rooms:
                left.append(one)
            else:
                taken.append(one)
            rooms.add(one.envelope.room)
        self._waiting.extendleft(reversed(left))
        return taken

    def _without_late(self, batch: list[_Publishing]) -> list[_Publishing]:
        """Refuse those that are under way for too long: soon SQS would take a repetition for another envelope."""
        now = self._clock.seconds()
        in_time: list[_Publishing] = []
        for one in batch:
            if one.tried_at and now - one.tried_at >= self._publish_seconds:
                one.result.errback(Unavailable(f"SQS does not accept envelopes: {one.reason}"))
            else:
                in_time.append(one)
        return in_time

    async def _send(self, batch: list[_Publishing]) -> None:
        """One call. What it did not bring about waits before all others to be sent again."""
        if not batch:
            return
        left = {str(index): one for index, one in enumerate(batch)}
        entries = [
            {
                "Id": key,
                "MessageBody": envelopes.encode(one.envelope),
                "MessageGroupId": str(one.envelope.room),
                "MessageDeduplicationId": one.envelope.envelope_id,
            }
            for key, one in left.items()
        ]
        began = self.sent_at = self._clock.seconds()
        for one in batch:
            one.tried_at = one.tried_at or began
        try:
            response = await self._calls.sqs("send_message_batch", QueueUrl=self.url, Entries=entries)
        except AwsError as error:
            reason = str(error)
        else:
            sizes = {entry["Id"]: len(entry["MessageBody"]) for entry in entries}
            for entry in response.get("Successful", ()):
                published = left.pop(entry["Id"])
                self._observe_bytes(sizes[entry["Id"]])
                self._counters.published_messages += len(published.envelope.messages)
                published.result.callback(None)
            reason = self._refuse_faulty(left, response.get("Failed", ()))
        if left:
            self._send_again(list(left.values()), reason)

    def _refuse_faulty(self, left: dict[str, _Publishing], failed: Sequence[dict[str, Any]]) -> str:
        """A batch call that succeeds may still list entries that failed: those at fault themselves never succeed."""
        reason = ""
        for entry in failed:
            reason = f"{entry.get('Code')}: {entry.get('Message', '')}"
            if is_final(entry) and entry["Id"] in left:
                left.pop(entry["Id"]).result.errback(Unavailable(f"SQS refused an envelope: {reason}"))
        return reason

    def _send_again(self, left: list[_Publishing], reason: str) -> None:
        self._counters.publish_retries += 1
        self._log.warn("{count} envelopes are sent again: {reason}", count=len(left), reason=reason)
        for one in left:
            one.is_pausing, one.reason = True, reason
        self._waiting.extendleft(reversed(left))
        in_time_seconds = min(one.tried_at for one in left) + self._publish_seconds - self._clock.seconds()
        pause_seconds = max(one.backoff.next_delay_seconds() for one in left)
        resuming = self._resume(left, min(pause_seconds, max(0.0, in_time_seconds)))
        self._outstanding.add("publishing again", Deferred.fromCoroutine(resuming))

    async def _resume(self, left: list[_Publishing], pause_seconds: float) -> None:
        await deferLater(self._clock, pause_seconds)
        for one in left:
            one.is_pausing = False
        if not self._is_sending:
            self._start_sending()
