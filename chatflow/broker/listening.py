"""Receiving what other instances published, from this instance's own queue."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from chatflow.broker import fanout_messages
from chatflow.broker.aws import AwsError
from chatflow.broker.fanout_messages import BadFanoutMessage, FanoutMessage
from chatflow.broker.interfaces import ReceivingCalls
from chatflow.broker.pacing import Pace
from chatflow.broker.receiving import MAX_MESSAGES, Receiver, sent_at
from chatflow.broker.settling import delete
from chatflow.lifecycle import Backoff, Outstanding
from chatflow.lifecycle.clocks import WallTime

#: Deletes under way beside receives.
_MAX_DELETING = 2
#: Of the gap between publishes of a room: messages of many rooms share these calls already.
_SHARE_OF_GAP = 0.5
_SMOOTHING = 0.2
_MIN_GAP_TIMEOUT_SECONDS = 0.5
_MAX_GAP_TIMEOUT_SECONDS = 4.0


class FanoutListener:
    """One receive at a time, from one queue after the other. Runs on the reactor thread.

    :param now: is compared with the times that SQS gives.
    :param on_message: takes each fan-out message, as it arrives.
    :param on_missing: called when the queue that is listened to does not exist.
    :param observe_latency: called with the seconds from the publish to the receipt.
    """

    _log = Logger()

    def __init__(
        self,
        *,
        clock: IReactorTime,
        now: WallTime,
        calls: ReceivingCalls,
        pace: Pace,
        on_message: Callable[[FanoutMessage], object],
        on_missing: Callable[[], object],
        observe_latency: Callable[[float], object],
        outstanding: Outstanding,
        long_poll_seconds: int,
    ) -> None:
        self._clock = clock
        self._now = now
        self._calls = calls
        self._pace = pace
        self._on_message = on_message
        self._on_missing = on_missing
        self._observe_latency = observe_latency
        self._outstanding = outstanding
        self._long_poll_seconds = long_poll_seconds
        self._receiver = Receiver(calls)
        self._queue_url: str | None = None
        self._running = False
        self._waiting: Deferred[Any] | None = None
        self._received_at = float("-inf")
        self._deleting: list[Deferred[Any]] = []
        self._latency_seconds = 0.0

    def start(self) -> None:
        """Listen to whatever queue there is."""
        self._running = True
        self._outstanding.add("listening", Deferred.fromCoroutine(self._listen()))

    def listen(self, queue_url: str) -> None:
        """From now on, receive from this queue; a receive from the former one that is under way ends first."""
        self._queue_url, self._receiver = queue_url, Receiver(self._calls)
        self._wake()

    def leave(self) -> None:
        """Receive from no queue until there is another one."""
        self._queue_url = None

    def begin_drain(self) -> None:
        """Do not wait long for messages any more: this instance is about to stop."""
        self._long_poll_seconds = min(self._long_poll_seconds, 1)

    def stop(self) -> None:
        """Start no further receive; one that is under way goes on."""
        self._running, self._queue_url = False, None
        self._wake()

    def gap_timeout_seconds(self) -> float:
        """How long messages that are due are likely to be on their way: the more there are, the longer.

        Who reads them from the database sooner gets them twice, which is what a busy cluster has no time for.
        """
        return min(_MAX_GAP_TIMEOUT_SECONDS, max(_MIN_GAP_TIMEOUT_SECONDS, 2 * self._latency_seconds))

    async def _listen(self) -> None:
        backoff = Backoff(first_seconds=0.1, cap_seconds=5.0)
        backlogged = False
        while self._running:
            if not backlogged:
                await self._pause(deferLater(self._clock, self._pace.wait_seconds(self._received_at, _SHARE_OF_GAP)))
            queue_url = self._queue_url
            if queue_url is None:
                await self._pause(Deferred())
                continue
            try:
                backlogged = await self._receive_some(queue_url)
                backoff.reset()
            except AwsError as error:
                if self._queue_url != queue_url:
                    continue  # it was left, and is gone therefore
                self._log.warn("fan-out messages cannot be received: {reason}", reason=str(error))
                if error.is_missing:
                    self._on_missing()
                else:
                    await self._pause(deferLater(self._clock, backoff.next_delay_seconds()))
            except Exception:
                self._log.failure("listening failed and goes on")
                await self._pause(deferLater(self._clock, backoff.next_delay_seconds()))

    async def _receive_some(self, queue_url: str) -> bool:
        """Take what waits, at most ten; whether more may wait.

        While it does, what was received is deleted beside the next receives. Those do not wait: SQS gives nothing of a
        room before its last messages are deleted, and need not wake a receive when they are.
        """
        is_deleting = bool(self._deleting)
        received = await self._receiver.receive(queue_url, 0 if is_deleting else self._long_poll_seconds)
        self._received_at = self._clock.seconds()
        for message in received:
            self._take(message)
        if received:
            # What stays all the same comes again, and is then dropped as seen.
            handles = [message["ReceiptHandle"] for message in received]
            backoff = Backoff(first_seconds=0.1, cap_seconds=1.0)
            deleting = Deferred.fromCoroutine(delete(self._calls, self._clock, queue_url, handles, backoff))
            self._deleting.append(deleting)
            self._outstanding.add("deleting", deleting)
        is_full = len(received) == MAX_MESSAGES
        while len(self._deleting) > (_MAX_DELETING if is_full else 0):
            await self._deleting.pop(0)
        return is_full or is_deleting

    def _take(self, received: dict[str, Any]) -> None:
        try:
            message = fanout_messages.decode(received["Body"])
        except BadFanoutMessage as error:
            self._log.error("the fan-out queue holds what is no fan-out message: {reason}", reason=str(error))
            return
        if message.messages:
            now = self._now()
            latency_seconds = max(0.0, now - sent_at(received, now))
            self._latency_seconds += _SMOOTHING * (latency_seconds - self._latency_seconds)
            self._observe_latency(latency_seconds)
        self._on_message(message)

    async def _pause(self, waiting: Deferred[Any]) -> None:
        """Wait, but no longer than until there is another queue or none any more."""
        if not self._running:
            waiting.addErrback(lambda failure: failure.trap(CancelledError))
            waiting.cancel()
            return
        self._waiting = waiting
        try:
            await waiting
        except CancelledError:
            pass
        finally:
            self._waiting = None

    def _wake(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
