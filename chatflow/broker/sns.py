"""The fan-out: one SNS FIFO topic, to which each running instance's own SQS FIFO queue is subscribed.

Losing, doubling or delaying any of it is harmless: hubs go by ``seq`` and read what they miss from the database. So a
publish is tried twice and then given up, and the queue keeps messages for minutes only.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from uuid import uuid4

from attrs import define, frozen
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from zope.interface import implementer

from chatflow.broker import news as codec
from chatflow.broker.aws import Aws, AwsError, Clients
from chatflow.broker.interfaces import IFanout
from chatflow.broker.names import Names
from chatflow.broker.news import BadNews, News
from chatflow.broker.pacing import Pace
from chatflow.errors import StartupError, Unavailable
from chatflow.lifecycle import Backoff, Outstanding
from chatflow.rooms.identifiers import uuid7
from chatflow.rooms.messages import StoredMessage

_MAX_ENTRIES = 10
#: The topic's limit is 262,144 bytes for a batch, attributes included.
_MAX_CALL_BYTES = 250_000
_PUBLISH_TRIES = 2
_DELETE_TRIES = 3
_RETENTION_SECONDS = 300
#: What is heard is deleted at once; and until it is visible again, nothing else of its room is given.
_VISIBILITY_SECONDS = 5
_PROBE_SECONDS = 5.0
_PROBE_GROUP = "probe"
_FROM = "from"  # the message attribute by which subscriptions filter
#: Of the gap between publishes of a room: news of many rooms share these calls already.
_SHARE_OF_GAP = 0.5


@frozen
class Attachment:
    """This instance's queue and its subscription."""

    queue_name: str
    queue_url: str
    subscription_arn: str


def attach_in_thread(clients: Clients, names: Names, queue_name: str, server_id: str) -> Attachment:
    """Make the queue with its policy, then subscribe it to what others publish. Blocks.

    A policy set later would take up to a minute to count, and messages sent meanwhile would be dropped.

    :param server_id: whose own news are filtered out: its hub had them before they were published.
    :raises StartupError: there is no topic.
    """
    topic_arn = topic_arn_in_thread(clients, names)
    region, account = topic_arn.split(":")[3:5]
    queue_arn = f"arn:aws:sqs:{region}:{account}:{queue_name}"
    policy = {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Sid": "fanout",
                "Effect": "Allow",
                "Principal": {"Service": "sns.amazonaws.com"},
                "Action": "sqs:SendMessage",
                "Resource": queue_arn,
                "Condition": {"ArnEquals": {"aws:SourceArn": topic_arn}},
            }
        ],
    }
    queue_url = clients.sqs_control.create_queue(
        QueueName=queue_name,
        Attributes={
            "FifoQueue": "true",
            "DeduplicationScope": "messageGroup",
            "FifoThroughputLimit": "perMessageGroupId",
            "MessageRetentionPeriod": str(_RETENTION_SECONDS),
            "VisibilityTimeout": str(_VISIBILITY_SECONDS),
            "Policy": json.dumps(policy),
        },
        tags={"project": "chatflow", "prefix": names.prefix},
    )["QueueUrl"]
    subscription_arn = clients.sns_control.subscribe(
        TopicArn=topic_arn,
        Protocol="sqs",
        Endpoint=queue_arn,
        Attributes={
            "RawMessageDelivery": "true",
            "FilterPolicy": json.dumps({_FROM: [{"anything-but": [server_id]}]}),
        },
        ReturnSubscriptionArn=True,
    )["SubscriptionArn"]
    return Attachment(queue_name, queue_url, subscription_arn)


def detach_in_thread(clients: Clients, attachment: Attachment) -> None:
    """Unsubscribe, then delete the queue: the other way round SNS would count failed deliveries. Blocks."""
    try:
        clients.sns_control.unsubscribe(SubscriptionArn=attachment.subscription_arn)
    finally:
        clients.sqs_control.delete_queue(QueueUrl=attachment.queue_url)


def topic_arn_in_thread(clients: Clients, names: Names) -> str:
    """The topic's ARN. Its account is that of the dead letter queue, which the same set-up made. Blocks.

    :raises StartupError: the objects are not there.
    """
    sqs, sns = clients.sqs_control, clients.sns_control
    try:
        url = sqs.get_queue_url(QueueName=names.dead_letters)["QueueUrl"]
        arn = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
        region, account = arn.split(":")[3:5]
        topic_arn = f"arn:aws:sns:{region}:{account}:{names.topic}"
        sns.get_topic_attributes(TopicArn=topic_arn)
    except (sqs.exceptions.QueueDoesNotExist, sns.exceptions.NotFoundException):
        raise StartupError(
            f"there is no topic {names.topic} or queue {names.dead_letters}: run `chatflow-admin setup`"
        ) from None
    return topic_arn


@define
class FanoutCounters:
    """Since the start."""

    published: int = 0
    publish_failures: int = 0
    received: int = 0
    attachments: int = 0
    #: Seconds from the publish to the receipt of the last news that was received.
    latency_seconds: float = 0.0


@implementer(IFanout)
class SnsFanout:
    """Tells the others, and hears from them. Runs on the reactor thread; calls run in the threads of ``aws``.

    :param register: called with the start and the name of a queue before it is made, so that a reaper knows of it if
        this process dies; ``register_now`` is the same for the start of the daemon, and blocks.
    :param deliver: takes the messages of one room, as they arrive.
    """

    _log = Logger()

    def __init__(
        self,
        *,
        clock: IReactorTime,
        aws: Aws,
        names: Names,
        pace: Pace,
        server_id: str,
        register: Callable[[str, str], Awaitable[object]],
        register_now: Callable[[str, str], object],
        deliver: Callable[[Sequence[StoredMessage]], object],
        long_poll_seconds: int = 20,
    ) -> None:
        self._clock = clock
        self._aws = aws
        self._names = names
        self._pace = pace
        self._server_id = server_id
        self._register = register
        self._register_now = register_now
        self._deliver = deliver
        self._long_poll_seconds = long_poll_seconds
        self._topic_arn = ""
        self._attachment: Attachment | None = None
        self._attaching = False
        #: Repeated after a lost answer, so that SQS gives the same messages again instead of holding them back.
        self._attempt_id = str(uuid4())
        self._waiting: dict[int, list[StoredMessage]] = {}
        self._handed_over: list[Deferred[None]] = []
        self._publishing = False
        self._received_at = float("-inf")
        self._running = False
        self._outstanding = Outstanding()
        #: Whether a probe came back through the present queue: only then does this instance hear the others.
        self.hears = False
        self.counters = FanoutCounters()

    # Start and stop

    def start(self) -> None:
        """Attach the queue, blocking, and then listen.

        :raises StartupError: AWS refuses, or the objects are not there.
        """
        try:
            self._topic_arn = topic_arn_in_thread(self._aws.clients, self._names)
            start, name = self._next_queue()
            self._register_now(start, name)
            attachment = attach_in_thread(self._aws.clients, self._names, name, self._server_id)
        except StartupError:
            raise
        except Exception as error:
            raise StartupError(f"cannot attach to the fan-out: {error}") from error
        self._running = True
        self._attached(attachment)
        self._outstanding.add("listening", Deferred.fromCoroutine(self._listen()))

    def detach(self) -> Deferred[bool]:
        """Hear nothing more: unsubscribe and delete the queue. Fires with whether nothing is left; never fails."""
        self._running = self.hears = False
        attachment, self._attachment = self._attachment, None
        done: Deferred[bool] = Deferred()
        detached = Deferred.fromCoroutine(self._detach(attachment))
        self._outstanding.add("detaching", detached.addCallback(done.callback))
        return done

    def stop(self) -> Deferred[None]:
        """Fires when nothing is under way; a long poll may take its time."""
        return self._outstanding.drain()

    async def attach_again(self) -> None:
        """The queue is gone, or a reaper took this instance for dead: make another. Until it is heard, not ready."""
        if self._attaching:
            return  # heartbeat and listener may both have noticed
        self._attaching = True
        self.hears = False
        gone, self._attachment = self._attachment, None
        try:
            await self._detach(gone)
            await self._attach()
        finally:
            self._attaching = False

    async def _attach(self) -> None:
        backoff = Backoff(first_seconds=0.5, cap_seconds=10.0)
        while self._running:
            start, name = self._next_queue()
            try:
                await self._register(start, name)
                attachment = await self._aws.send_threads.run(
                    attach_in_thread, self._aws.clients, self._names, name, self._server_id
                )
            except Exception:
                self._log.failure("the fan-out queue {queue} could not be made", queue=name)
                await deferLater(self._clock, backoff.next_delay_seconds())
                continue
            if self._running:
                self._attached(attachment)
            else:
                await self._detach(attachment)
            return

    def _attached(self, attachment: Attachment) -> None:
        self._attachment = attachment
        self.counters.attachments += 1
        self._outstanding.add("probing", Deferred.fromCoroutine(self._probe(attachment)))

    def _next_queue(self) -> tuple[str, str]:
        """A start, and the name of the queue that belongs to it: another one each time."""
        start = f"{int(self._clock.seconds() * 1000):x}"
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

    # Publishing

    def publish(self, messages: Sequence[StoredMessage]) -> Deferred[None]:
        """See :class:`IFanout`. What comes in the same turn of the reactor, or during a call, shares the next call."""
        for message in messages:
            self._waiting.setdefault(message.room, []).append(message)
        handed_over: Deferred[None] = Deferred()
        self._handed_over.append(handed_over)
        if not self._publishing:
            self._publishing = True
            self._outstanding.add("publishing news", Deferred.fromCoroutine(self._publish_all()))
        return handed_over

    async def _publish_all(self) -> None:
        try:
            while self._handed_over:
                # No gap here: a room is held until its news are out, and late ones meet newer ones of another instance.
                await deferLater(self._clock, 0)
                waiting, self._waiting = self._waiting, {}
                handed_over, self._handed_over = self._handed_over, []
                try:
                    await self._publish_each([news for own in waiting.values() for news in codec.split(own)])
                finally:
                    for deferred in handed_over:
                        deferred.callback(None)
        finally:
            self._publishing = False

    async def _publish_each(self, all_news: Sequence[News]) -> None:
        entries: list[dict[str, Any]] = []
        size = 0
        for news in all_news:
            body = codec.encode(news)
            if entries and (len(entries) == _MAX_ENTRIES or size + len(body) > _MAX_CALL_BYTES):
                await self._publish_batch(entries)
                entries, size = [], 0
            entries.append(self._entry(str(len(entries)), str(news.room), body, self._server_id))
            size += len(body)
        if entries:
            await self._publish_batch(entries)

    def _entry(self, entry_id: str, group: str, body: str, sender: str) -> dict[str, Any]:
        return {
            "Id": entry_id,
            "Message": body,
            "MessageGroupId": group,
            "MessageDeduplicationId": uuid7(int(self._clock.seconds() * 1000)),
            "MessageAttributes": {_FROM: {"DataType": "String", "StringValue": sender}},
        }

    async def _publish_batch(self, entries: list[dict[str, Any]]) -> bool:
        left = entries
        for _ in range(_PUBLISH_TRIES):
            try:
                response = await self._aws.sns(
                    "publish_batch", TopicArn=self._topic_arn, PublishBatchRequestEntries=left
                )
            except Unavailable as error:
                self._log.warn("news were not published: {reason}", reason=str(error))
                continue
            failed = {entry["Id"] for entry in response.get("Failed", ())}
            self.counters.published += len(left) - len(failed)
            left = [entry for entry in left if entry["Id"] in failed]
            if not left:
                return True
        self.counters.publish_failures += len(left)
        return False

    # Hearing

    async def _probe(self, attachment: Attachment) -> None:
        """Send this instance something through topic and queue, until it has come back once."""
        probe = attachment.queue_name
        body = codec.encode(News(0, 0, probe=probe))
        while self._attachment is attachment and not self.hears:
            await self._publish_batch([self._entry("0", _PROBE_GROUP, body, probe)])
            began = self._clock.seconds()
            while self._attachment is attachment and not self.hears and self._clock.seconds() - began < _PROBE_SECONDS:
                await deferLater(self._clock, 0.1)

    async def _listen(self) -> None:
        backoff = Backoff(first_seconds=0.1, cap_seconds=5.0)
        backlogged = False
        while self._running:
            if not backlogged:
                await deferLater(self._clock, self._pace.wait_seconds(self._received_at, _SHARE_OF_GAP))
            attachment = self._attachment
            if attachment is None:
                await deferLater(self._clock, 0.1)
                continue
            try:
                backlogged = await self._receive(attachment.queue_url) == _MAX_ENTRIES
                backoff.reset()
            except AwsError as error:
                if self._attachment is not attachment:
                    continue  # it was left, and is gone therefore
                self._log.warn("news cannot be heard: {reason}", reason=str(error))
                if error.queue_is_missing:
                    await self.attach_again()
                else:
                    await deferLater(self._clock, backoff.next_delay_seconds())
            except Exception:
                self._log.failure("listening failed and goes on")
                await deferLater(self._clock, backoff.next_delay_seconds())

    async def _receive(self, queue_url: str) -> int:
        """Hear what waits, at most ten; how many that were."""
        try:
            response = await self._aws.receive(
                QueueUrl=queue_url,
                MaxNumberOfMessages=_MAX_ENTRIES,
                WaitTimeSeconds=self._long_poll_seconds,
                AttributeNames=["SentTimestamp"],
                ReceiveRequestAttemptId=self._attempt_id,
            )
        except AwsError as error:
            if error.certain:
                self._attempt_id = str(uuid4())
            raise
        self._attempt_id = str(uuid4())
        self._received_at = self._clock.seconds()
        received = response.get("Messages", ())
        for message in received:
            self._hear(message)
        if received:
            await self._forget(queue_url, [message["ReceiptHandle"] for message in received])
        return len(received)

    async def _forget(self, queue_url: str, handles: Sequence[str]) -> None:
        """Delete what was heard. What stays all the same comes again, and is then dropped as seen."""
        left = {str(index): handle for index, handle in enumerate(handles)}
        backoff = Backoff(first_seconds=0.1, cap_seconds=1.0)
        for _ in range(_DELETE_TRIES):
            entries = [{"Id": key, "ReceiptHandle": handle} for key, handle in left.items()]
            try:
                response = await self._aws.sqs("delete_message_batch", QueueUrl=queue_url, Entries=entries)
            except AwsError as error:
                self._log.warn("news were not deleted: {reason}", reason=str(error))
            else:
                failed = {entry["Id"] for entry in response.get("Failed", ()) if not entry.get("SenderFault")}
                left = {key: handle for key, handle in left.items() if key in failed}
                if not left:
                    return
            await deferLater(self._clock, backoff.next_delay_seconds())

    def _hear(self, message: dict[str, Any]) -> None:
        try:
            news = codec.decode(message["Body"])
        except BadNews as error:
            self._log.error("the fan-out queue holds what is no news: {reason}", reason=str(error))
            return
        if news.probe:
            if self._attachment is not None and news.probe == self._attachment.queue_name:
                self.hears = True
        elif news.messages:
            self.counters.received += len(news.messages)
            sent_ms = int(message.get("Attributes", {}).get("SentTimestamp", self._clock.seconds() * 1000))
            self.counters.latency_seconds = max(0.0, self._clock.seconds() - sent_ms / 1000)
            self._deliver(news.stored())
