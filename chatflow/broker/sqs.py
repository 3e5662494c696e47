"""The room queue on SQS FIFO: durable once SQS has accepted it, one consumer at a time per room in the whole cluster.

The message group is the room. While messages of a group are in flight nobody else is given any of that group, so the
holder of a room's head keeps it until it deletes; holding the delete back is therefore also how a consumer lets the
messages of several instances gather. Rules and limits: Amazon SQS Developer Guide, "FIFO queue delivery logic".
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from uuid import uuid4

from attrs import Factory, define
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from zope.interface import implementer

from chatflow.broker.aws import Aws, AwsError
from chatflow.broker.calls import find_queue
from chatflow.broker.names import Names
from chatflow.broker.pacing import Pace
from chatflow.broker.sending import MAX_ENTRIES, SendCounters, Sender, is_final
from chatflow.codec import envelopes
from chatflow.codec.envelopes import BadEnvelope
from chatflow.contracts.envelopes import Envelope
from chatflow.contracts.room_queue import Delivery, IRoomQueue
from chatflow.contracts.writer import always
from chatflow.errors import NotStored
from chatflow.lifecycle import Backoff, Outstanding
from chatflow.lifecycle.clocks import WallTime

_DELETE_TRIES = 3
VISIBILITY_SECONDS = 30.0


@define
class _Lane:
    """One queue."""

    sender: Sender
    received_at: float = float("-inf")
    #: The last receive brought as much as it can: more is waiting, and there is nothing to gather.
    backlogged: bool = False
    #: Repeated after a lost answer, so that SQS gives the same messages again instead of holding them back.
    attempt_id: str = Factory(lambda: str(uuid4()))

    @property
    def url(self) -> str:
        return self.sender.url


@define(eq=False)
class _Receipt:
    """What SQS wants back.

    :ivar visible_at: until then nobody else is given the message, unless that is put off. Rather too early than too
        late: SQS counts from its answer, this counts from the question.
    :ivar sent_at: when it was published, by the clock of durations.
    """

    lane: int
    handle: str
    visible_at: float
    sent_at: float


@define
class QueueCounters(SendCounters):
    """Since the start."""

    redeliveries: int = 0
    poison: int = 0
    lost_receipts: int = 0


@implementer(IRoomQueue)
class SqsRoomQueue:
    """One lane per queue. Runs on the reactor thread; calls run in the threads of ``aws``.

    :param now: is compared with the times that SQS gives.
    :param publish_seconds: see :class:`~chatflow.broker.sending.Sender`, like ``observe_bytes``.
    :param visibility_seconds: how long a room stays with a consumer that died.
    :param long_poll_seconds: at most 20 (SQS). Less while stopping, and never so long that little of the visibility
        would be left.
    :param may_extend: whether it makes sense to keep what is held for longer: not if it cannot be stored here.
    :param set_aside: takes a body that is no envelope and the reason; it is deleted once that is done.
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
        set_aside: Callable[[str, str], Awaitable[object]],
        publish_seconds: float = 60.0,
        visibility_seconds: float = VISIBILITY_SECONDS,
        long_poll_seconds: int = 20,
        may_extend: Callable[[], bool] = always,
        observe_bytes: Callable[[float], object] = lambda size: None,
    ) -> None:
        self._clock = clock
        self._now = now
        self._aws = aws
        self._names = names
        self._pace = pace
        self._set_aside = set_aside
        self._visibility_seconds = visibility_seconds
        self._long_poll_seconds = min(long_poll_seconds, int(visibility_seconds * 2 / 3))
        self._may_extend = may_extend
        self._held: set[_Receipt] = set()
        self._outstanding = Outstanding()
        self._closing = False
        self.lanes = names.lanes
        self.counters = QueueCounters()
        self._lanes = {
            lane: _Lane(
                Sender(
                    clock=clock,
                    calls=aws,
                    counters=self.counters,
                    outstanding=self._outstanding,
                    publish_seconds=publish_seconds,
                    observe_bytes=observe_bytes,
                )
            )
            for lane in names.lanes
        }

    def start(self) -> None:
        """Find every queue. Blocks.

        :raises StartupError: one is missing, or AWS does not answer.
        """
        client = self._aws.clients.sqs_control
        for lane, state in self._lanes.items():
            state.sender.url = find_queue(client, self._names.room_queue(lane))

    def urls(self) -> dict[int, str]:
        """Each lane's queue."""
        return {lane: state.url for lane, state in self._lanes.items()}

    def lag_seconds(self) -> dict[int, float]:
        """How old the oldest envelope is that is held here, by lane; 0 where none is."""
        oldest = dict.fromkeys(self.lanes, now := self._clock.seconds())
        for receipt in self._held:
            oldest[receipt.lane] = min(oldest[receipt.lane], receipt.sent_at)
        return {lane: now - sent_at for lane, sent_at in oldest.items()}

    def close(self) -> None:
        """Wait for nothing that pacing asks for any more, nor long for messages."""
        self._closing = True

    def stop(self) -> Deferred[None]:
        """Fires when nothing is under way that was not awaited."""
        return self._outstanding.drain()

    # Publishing

    def wait_seconds(self, room: int) -> float:
        """See :class:`IPublish`."""
        return 0.0 if self._closing else self._pace.wait_seconds(self._lanes[self._names.lane(room)].sender.sent_at)

    def publish(self, envelope: Envelope) -> Deferred[None]:
        """See :class:`IRoomQueue`."""
        return self._lanes[self._names.lane(envelope.room)].sender.publish(envelope)

    # Receiving

    def receive(self, lane: object) -> Deferred[Sequence[Delivery]]:
        """See :class:`IRoomQueue`. A poll whose receiver was cancelled goes on, and gives back what it is given."""
        assert isinstance(lane, int)
        result: Deferred[Sequence[Delivery]] = Deferred(lambda _: None)
        poll = Deferred.fromCoroutine(self._poll(lane))

        def arrived(deliveries: Sequence[Delivery]) -> Deferred[None]:
            if result.called:
                return self.again(deliveries)
            result.callback(deliveries)
            return succeed(None)

        def failed(failure: Any) -> None:
            if not result.called:
                result.errback(failure)

        poll.addCallbacks(arrived, failed)
        self._outstanding.add("receiving", poll)
        return result

    async def _poll(self, lane: int) -> Sequence[Delivery]:
        state = self._lanes[lane]
        began = self._clock.seconds()
        try:
            response = await self._aws.receive(
                QueueUrl=state.url,
                MaxNumberOfMessages=MAX_ENTRIES,
                WaitTimeSeconds=min(self._long_poll_seconds, 1) if self._closing else self._long_poll_seconds,
                VisibilityTimeout=round(self._visibility_seconds),
                AttributeNames=["SentTimestamp", "ApproximateReceiveCount"],
                ReceiveRequestAttemptId=state.attempt_id,
            )
        except AwsError as error:
            if error.certain:
                state.attempt_id = str(uuid4())
            raise
        state.attempt_id = str(uuid4())
        state.received_at = now = self._clock.seconds()
        since_epoch = self._now()
        received = response.get("Messages", ())
        state.backlogged = len(received) == MAX_ENTRIES
        deliveries: list[Delivery] = []
        poison: list[tuple[_Receipt, str, str]] = []
        visible_at = began + self._visibility_seconds
        for message in received:
            attributes = message.get("Attributes", {})
            sent_ms = int(attributes.get("SentTimestamp", since_epoch * 1000))
            sent_at = now - max(0.0, since_epoch - sent_ms / 1000)
            receipt = _Receipt(lane, message["ReceiptHandle"], visible_at, sent_at)
            self._held.add(receipt)
            try:
                decoded = envelopes.decode(message["Body"])
            except BadEnvelope as error:
                poison.append((receipt, message["Body"], str(error)))
                continue
            deliveries.append(Delivery(decoded, receipt))
            if int(attributes.get("ApproximateReceiveCount", 1)) > 1:
                self.counters.redeliveries += 1
        try:
            for receipt, body, reason in poison:
                await self._set_poison_aside(receipt, body, reason)
        except Exception:
            # Nobody will hear of the others, so nobody could settle them.
            await self._change_visibility([one[0] for one in poison] + [one.receipt for one in deliveries], 0)
            raise
        return deliveries

    async def _set_poison_aside(self, receipt: _Receipt, body: str, reason: str) -> None:
        self._log.error("queue {lane} holds what is no envelope: {reason}", lane=receipt.lane, reason=reason)
        await self._set_aside(body, reason)
        self.counters.poison += 1
        await self._delete([receipt])

    # Settling

    def holds(self, deliveries: Sequence[Delivery]) -> bool:
        """See :class:`IRoomQueue`."""
        now = self._clock.seconds()
        return all(delivery.receipt.visible_at > now for delivery in deliveries)

    def done(self, deliveries: Sequence[Delivery]) -> Deferred[None]:
        """See :class:`IRoomQueue`. Paced: a room that is held back gathers the messages of every instance."""
        return Deferred.fromCoroutine(self._done([delivery.receipt for delivery in deliveries]))

    def refused(self, delivery: Delivery, reason: NotStored) -> Deferred[None]:
        """See :class:`IRoomQueue`."""
        return Deferred.fromCoroutine(self._delete([delivery.receipt]))

    def again(self, deliveries: Sequence[Delivery]) -> Deferred[None]:
        """See :class:`IRoomQueue`."""
        return Deferred.fromCoroutine(self._change_visibility([delivery.receipt for delivery in deliveries], 0))

    async def _done(self, receipts: list[_Receipt]) -> None:
        if not receipts:
            return
        lane = self._lanes[receipts[0].lane]
        wait = self._pace.wait_seconds(lane.received_at)
        if wait and not (self._closing or lane.backlogged):
            await deferLater(self._clock, wait)
        await self._delete(receipts)

    async def _delete(self, receipts: list[_Receipt]) -> None:
        """Delete, or give up: what stays is delivered again, and the room's head will know it."""
        self._held.difference_update(receipts)
        left = receipts
        backoff = Backoff(first_seconds=0.1, cap_seconds=2.0)
        for tries_left in reversed(range(_DELETE_TRIES)):
            left = await self._try_each("delete_message_batch", left, {})
            if not left:
                return
            if tries_left:
                await deferLater(self._clock, backoff.next_delay_seconds())
        self.counters.lost_receipts += len(left)
        self._log.warn("{count} envelopes were not deleted and will come again", count=len(left))

    async def _change_visibility(self, receipts: list[_Receipt], seconds: int) -> None:
        if seconds == 0:
            self._held.difference_update(receipts)
        began = self._clock.seconds()
        left = await self._try_each("change_message_visibility_batch", receipts, {"VisibilityTimeout": seconds})
        for receipt in receipts:
            if receipt not in left:
                # What SQS no longer knows us to hold has left _held, and is never extended again.
                receipt.visible_at = began + seconds if receipt in self._held else began

    async def _try_each(self, operation: str, receipts: list[_Receipt], more: dict[str, Any]) -> list[_Receipt]:
        """One batch call per queue and ten receipts. Returns those that it may make sense to try again.

        The others are settled, or SQS says that somebody else may have been given them: those are held no more.
        """
        left: list[_Receipt] = []
        for lane in {receipt.lane for receipt in receipts}:
            own = [receipt for receipt in receipts if receipt.lane == lane]
            for begin in range(0, len(own), MAX_ENTRIES):
                part = own[begin : begin + MAX_ENTRIES]
                entries = [{"Id": str(i), "ReceiptHandle": one.handle, **more} for i, one in enumerate(part)]
                try:
                    response = await self._aws.sqs(operation, QueueUrl=self._lanes[lane].url, Entries=entries)
                except AwsError as error:
                    self._log.warn("{operation} failed: {reason}", operation=operation, reason=str(error))
                    left += part
                    continue
                for entry in response.get("Failed", ()):
                    receipt = part[int(entry["Id"])]
                    if is_final(entry):
                        self._held.discard(receipt)
                        self.counters.lost_receipts += 1
                    else:
                        left.append(receipt)
        return left

    async def extend_visibility(self) -> None:
        """Keep what is held while the database is slow. Call it several times per ``visibility_seconds``."""
        soon = self._clock.seconds() + self._visibility_seconds * 2 / 3
        due = [receipt for receipt in self._held if receipt.visible_at < soon]
        if due and self._may_extend():
            await self._change_visibility(due, round(self._visibility_seconds))
