"""The fan-out: one SNS FIFO topic, to which each running instance's own SQS FIFO queue is subscribed.

Deafness shows in three ways: the queue is missing; a new queue's probe does not come back; or messages turn out to be
stored of which no news came. In each case this instance attaches anew, and is not ready until it hears.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from uuid import uuid4

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from zope.interface import implementer

from chatflow.broker import news as codec
from chatflow.broker.attachment import Attachment, attach_in_thread, detach_in_thread, topic_arn_in_thread
from chatflow.broker.aws import Aws, AwsError
from chatflow.broker.names import Names
from chatflow.broker.news import BadNews
from chatflow.broker.pacing import Pace
from chatflow.broker.publishing import FanoutCounters, Publisher
from chatflow.broker.sending import MAX_ENTRIES, is_final
from chatflow.contracts.fanout import IFanout
from chatflow.contracts.messages import StoredMessage
from chatflow.errors import StartupError
from chatflow.lifecycle import Backoff, Outstanding
from chatflow.lifecycle.clocks import WallTime

_DELETE_TRIES = 3
#: Deletes under way beside receives.
_MAX_FORGETTING = 2
_SMOOTHING = 0.2
_MIN_PATIENCE_SECONDS = 0.5
_MAX_PATIENCE_SECONDS = 4.0
_PROBE_SECONDS = 4.0
#: A queue through which no probe came back for so long hears nothing; twice as long for the next one, up to the cap.
_DEAF_SECONDS = 12.0
_MAX_DEAF_SECONDS = 300.0
#: A probe of a queue that was heard comes back much sooner.
_ECHO_SECONDS = 6.0
#: So many times in a row, with nothing heard between them, messages were missed: no longer chance.
_MISSED_TIMES = 2
#: Of the gap between publishes of a room: news of many rooms share these calls already.
_SHARE_OF_GAP = 0.5


@implementer(IFanout)
class SnsFanout:
    """Tells the others, and hears from them. Runs on the reactor thread; calls run in the threads of ``aws``.

    :param now: names queues, and is compared with the times that SQS gives.
    :param register: called with the start and the name of a queue before it is made, so that a reaper knows of it if
        this process dies; ``register_now`` is the same for the start of the daemon, and blocks.
    :param deliver: takes the messages of one room, as they arrive.
    :param observe_latency: called with the seconds that news took from the publish to the receipt.
    """

    _log = Logger()

    def __init__(
        self,
        *,
        clock: IReactorTime,
        now: WallTime,
        aws: Aws,
        names: Names,
        pace: Pace,
        server_id: str,
        register: Callable[[str, str], Awaitable[object]],
        register_now: Callable[[str, str], object],
        deliver: Callable[[Sequence[StoredMessage]], object],
        observe_latency: Callable[[float], object] = lambda seconds: None,
        long_poll_seconds: int = 20,
    ) -> None:
        self._clock = clock
        self._now = now
        self._aws = aws
        self._names = names
        self._pace = pace
        self._server_id = server_id
        self._register = register
        self._register_now = register_now
        self._deliver = deliver
        self._observe_latency = observe_latency
        self._long_poll_seconds = long_poll_seconds
        self._attachment: Attachment | None = None
        self._attaching = False
        #: Repeated after a lost answer, so that SQS gives the same messages again instead of holding them back.
        self._attempt_id = str(uuid4())
        self._received_at = float("-inf")
        self._forgetting: list[Deferred[None]] = []
        self._latency_seconds = 0.0
        self._running = self._closing = False
        self._pauses: set[Deferred[None]] = set()
        self._deaf_seconds = _DEAF_SECONDS
        self._missed = 0
        self._echoes = 0
        self._outstanding = Outstanding()
        #: Whether a probe came back through the present queue: only then does this instance hear the others.
        self.hears = False
        self.counters = FanoutCounters()
        self._publisher = Publisher(clock=clock, calls=aws, counters=self.counters, outstanding=self._outstanding)

    # Start and stop

    def start(self) -> None:
        """Attach the queue, blocking, and then listen.

        :raises StartupError: AWS refuses, or the objects are not there.
        """
        try:
            self._publisher.topic_arn = topic_arn_in_thread(self._aws.clients, self._names)
            start, name = self._next_queue()
            self._register_now(start, name)
            attachment = attach_in_thread(self._aws.clients, self._names, name)
        except StartupError:
            raise
        except Exception as error:
            raise StartupError(f"cannot attach to the fan-out: {error}") from error
        self._running = True
        self._attached(attachment)
        self._outstanding.add("listening", Deferred.fromCoroutine(self._listen()))

    def close(self) -> None:
        """Do not wait long for news any more: this instance is about to stop."""
        self._closing = True

    def detach(self) -> Deferred[bool]:
        """Hear nothing more: unsubscribe and delete the queue.

        Fires with whether certainly nothing is left, which cannot be said while a queue is being made; never fails.
        """
        self._running = self.hears = False
        attaching, attachment = self._attaching, self._attachment
        self._attachment = None
        for pause in tuple(self._pauses):
            pause.cancel()
        done: Deferred[bool] = Deferred()
        detached = Deferred.fromCoroutine(self._detach(attachment))
        detached.addCallback(lambda nothing_left: done.callback(nothing_left and not attaching))
        self._outstanding.add("detaching", detached)
        return done

    def stop(self) -> Deferred[None]:
        """Fires when nothing is under way; a long poll may take its time."""
        return self._outstanding.drain()

    def attach_again(self) -> None:
        """Leave this queue and make another, as often as it takes. Until that is heard, this instance is not ready."""
        if self._attaching or not self._running:
            return  # heartbeat and listener may both have noticed
        self._attaching = True
        self.hears = False
        gone, self._attachment = self._attachment, None
        self._outstanding.add("attaching again", Deferred.fromCoroutine(self._attach_again(gone)))

    async def _attach_again(self, gone: Attachment | None) -> None:
        try:
            await self._detach(gone)
            await self._attach()
        finally:
            self._attaching = False

    async def _attach(self) -> None:
        backoff = Backoff(first_seconds=0.5, cap_seconds=10.0)
        # One name for all tries: each of them may have made the queue, and its entry is what makes others remove it.
        start, name = self._next_queue()
        while self._running:
            try:
                await self._register(start, name)
                attachment = await self._aws.send_threads.run(attach_in_thread, self._aws.clients, self._names, name)
            except Exception:
                self._log.failure("the fan-out queue {queue} could not be made", queue=name)
                await self._pause(backoff.next_delay_seconds())
                continue
            if self._running:
                self._attached(attachment)
            else:
                await self._detach(attachment)
            return

    def _attached(self, attachment: Attachment) -> None:
        self._attachment = attachment
        self._missed = 0
        self._publisher.sender = attachment.queue_name
        self.counters.attachments += 1
        self._outstanding.add("probing", Deferred.fromCoroutine(self._probe(attachment)))

    def _next_queue(self) -> tuple[str, str]:
        """A start, and the name of the queue that belongs to it: another one each time."""
        start = f"{int(self._now() * 1000):x}"
        return start, self._names.fanout_queue(self._server_id, start)

    async def _detach(self, attachment: Attachment | None) -> bool:
        if attachment is None:
            return True
        try:
            await self._aws.send_threads.run(detach_in_thread, self._aws.clients, attachment)
        except Exception as error:
            self._log.warn(
                "{queue} was not removed, the reaper will: {reason}", queue=attachment.queue_name, reason=str(error)
            )
            return False
        return True

    async def _pause(self, seconds: float) -> None:
        """Wait, but no longer than until this instance is detached."""
        if not self._running:
            return
        pause: Deferred[None] = deferLater(self._clock, seconds)
        self._pauses.add(pause)
        try:
            await pause
        except CancelledError:
            pass
        finally:
            self._pauses.discard(pause)

    # Publishing

    def publish(self, messages: Sequence[StoredMessage]) -> Deferred[None]:
        """See :class:`IFanout`."""
        return self._publisher.publish(messages)

    # Hearing

    def missed(self) -> None:
        """Messages turned out to be stored of which no news came: lost ones, or this instance has become deaf.

        The second time in a row a probe tells which; it costs calls, so not before.
        """
        self._missed += 1
        if self._missed >= _MISSED_TIMES and self.hears and self._attachment is not None:
            self._missed = 0
            self._outstanding.add("listening for an echo", Deferred.fromCoroutine(self._try_echo(self._attachment)))

    async def _try_echo(self, attachment: Attachment) -> None:
        echoes = self._echoes
        if not await self._publisher.probe(attachment.queue_name):
            return  # SNS does not answer: nobody can be heard then, and another queue would hear no more
        began = self._clock.seconds()
        while self._attachment is attachment and self._echoes == echoes:
            if self._clock.seconds() - began >= _ECHO_SECONDS:
                self._log.error("{queue} hears nothing any more: making another", queue=attachment.queue_name)
                self.attach_again()
                return
            await self._pause(0.1)

    async def _probe(self, attachment: Attachment) -> None:
        """Send this instance something through topic and queue, until it has come back once; or make another queue."""
        asked_at: float | None = None
        while self._attachment is attachment and not self.hears:
            is_sent = await self._publisher.probe(attachment.queue_name)
            began = self._clock.seconds()
            if is_sent and asked_at is None:
                asked_at = began
            while self._attachment is attachment and not self.hears and self._clock.seconds() - began < _PROBE_SECONDS:
                if asked_at is not None and self._clock.seconds() - asked_at >= self._deaf_seconds:
                    self._log.error(
                        "no probe came back through {queue} for {seconds:.0f} s: making another",
                        queue=attachment.queue_name,
                        seconds=self._deaf_seconds,
                    )
                    self._deaf_seconds = min(2 * self._deaf_seconds, _MAX_DEAF_SECONDS)
                    self.attach_again()
                    return
                await self._pause(0.1)

    def patience_seconds(self) -> float:
        """How long news that are due are likely to be on their way: the more there are, the longer.

        Who reads them from the database sooner gets them twice, which is what a busy cluster has no time for.
        """
        return min(_MAX_PATIENCE_SECONDS, max(_MIN_PATIENCE_SECONDS, 2 * self._latency_seconds))

    async def _listen(self) -> None:
        backoff = Backoff(first_seconds=0.1, cap_seconds=5.0)
        backlogged = False
        while self._running:
            if not backlogged:
                await self._pause(self._pace.wait_seconds(self._received_at, _SHARE_OF_GAP))
            attachment = self._attachment
            if attachment is None:
                await self._pause(0.1)
                continue
            try:
                backlogged = await self._hear_some(attachment.queue_url)
                backoff.reset()
            except AwsError as error:
                if self._attachment is not attachment:
                    continue  # it was left, and is gone therefore
                self._log.warn("news cannot be heard: {reason}", reason=str(error))
                if error.queue_is_missing:
                    self.attach_again()
                else:
                    await self._pause(backoff.next_delay_seconds())
            except Exception:
                self._log.failure("listening failed and goes on")
                await self._pause(backoff.next_delay_seconds())

    async def _hear_some(self, queue_url: str) -> bool:
        """Hear what waits, at most ten; whether more may wait.

        While it does, what was heard is deleted beside the next receives. Those do not wait: SQS gives nothing of a
        room before its last news are deleted, and need not wake a receive when they are.
        """
        hurried = bool(self._forgetting)
        received = await self._receive(queue_url, 0 if hurried else self._long_poll_seconds)
        for message in received:
            self._hear(message)
        if received:
            handles = [message["ReceiptHandle"] for message in received]
            forgetting = Deferred.fromCoroutine(self._forget(queue_url, handles))
            self._forgetting.append(forgetting)
            self._outstanding.add("forgetting", forgetting)
        is_full = len(received) == MAX_ENTRIES
        while len(self._forgetting) > (_MAX_FORGETTING if is_full else 0):
            await self._forgetting.pop(0)
        return is_full or hurried

    async def _receive(self, queue_url: str, wait_seconds: int) -> Sequence[dict[str, Any]]:
        """At most ten messages."""
        try:
            response = await self._aws.receive(
                QueueUrl=queue_url,
                MaxNumberOfMessages=MAX_ENTRIES,
                WaitTimeSeconds=min(wait_seconds, 1) if self._closing else wait_seconds,
                AttributeNames=["SentTimestamp"],
                ReceiveRequestAttemptId=self._attempt_id,
            )
        except AwsError as error:
            if error.certain:
                self._attempt_id = str(uuid4())
            raise
        self._attempt_id = str(uuid4())
        self._received_at = self._clock.seconds()
        received: Sequence[dict[str, Any]] = response.get("Messages", ())
        return received

    async def _forget(self, queue_url: str, handles: Sequence[str]) -> None:
        """Delete what was heard. What stays all the same comes again, and is then dropped as seen."""
        left = {str(index): handle for index, handle in enumerate(handles)}
        backoff = Backoff(first_seconds=0.1, cap_seconds=1.0)
        for tries_left in reversed(range(_DELETE_TRIES)):
            entries = [{"Id": key, "ReceiptHandle": handle} for key, handle in left.items()]
            try:
                response = await self._aws.sqs("delete_message_batch", QueueUrl=queue_url, Entries=entries)
            except AwsError as error:
                self._log.warn("news were not deleted: {reason}", reason=str(error))
            else:
                failed = {entry["Id"] for entry in response.get("Failed", ()) if not is_final(entry)}
                left = {key: handle for key, handle in left.items() if key in failed}
                if not left:
                    return
            if tries_left:
                await deferLater(self._clock, backoff.next_delay_seconds())

    def _hear(self, message: dict[str, Any]) -> None:
        try:
            news = codec.decode(message["Body"])
        except BadNews as error:
            self._log.error("the fan-out queue holds what is no news: {reason}", reason=str(error))
            return
        if news.probe:
            if self._attachment is not None and news.probe == self._attachment.queue_name:
                self._echoes += 1
                self._deaf_seconds = _DEAF_SECONDS
                self.hears = True
        elif news.messages:
            self._missed = 0
            self.counters.received += len(news.messages)
            sent_ms = int(message.get("Attributes", {}).get("SentTimestamp", self._now() * 1000))
            latency_seconds = max(0.0, self._now() - sent_ms / 1000)
            self._latency_seconds += _SMOOTHING * (latency_seconds - self._latency_seconds)
            self._observe_latency(latency_seconds)
            self._deliver(news.stored())
