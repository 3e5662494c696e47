"""The room queue on SQS FIFO: durable once SQS has accepted it, one consumer at a time per room in the whole cluster.

The message group is the room. While messages of a group are in flight nobody else is given any of that group, so the
holder of a room's head keeps it until it deletes; holding the delete back is therefore also how a consumer lets the
messages of several instances gather. Rules and limits: Amazon SQS Developer Guide, "FIFO queue delivery logic".
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from attrs import define
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from zope.interface import implementer

from chatflow.broker.aws import Aws
from chatflow.broker.calls import BlockingCalls
from chatflow.broker.lookup import require_queue
from chatflow.broker.names import Names
from chatflow.broker.pacing import Pace
from chatflow.broker.receiving import MAX_MESSAGES, Receiver, sent_at
from chatflow.broker.sending import SendCounters, Sender
from chatflow.broker.settling import delete, settle
from chatflow.broker.visibility import Visibility
from chatflow.codec import envelopes
from chatflow.codec.envelopes import BadEnvelope
from chatflow.contracts.envelopes import Envelope
from chatflow.contracts.room_queue import Delivery, IRoomQueue
from chatflow.errors import NotStored
from chatflow.lifecycle import Backoff, Outstanding
from chatflow.lifecycle.blocking import at_once
from chatflow.lifecycle.clocks import WallTime

VISIBILITY_SECONDS = 4.0


@define
class _Shard:
    """One queue."""

    sender: Sender
    receiver: Receiver
    received_at: float = float("-inf")
    #: The last receive brought as much as it can: more is waiting, and there is nothing to gather.
    backlogged: bool = False

    @property
    def url(self) -> str:
        return self.sender.url


@define(eq=False)
class _Receipt:
    """What SQS wants back.

    :ivar visible_at: until then certainly nobody else is given the message, unless that is put off. SQS counts from its
        answer, this counts from the question, which with a long poll may be long before.
    :ivar due_at: when to put it off. It counts from when the answer came, which is likely, not certain, to be in time.
    :ivar sent_at: when it was published, by the clock of durations.
    """

    shard: int
    handle: str
    visible_at: float
    due_at: float
    received_at: float
    sent_at: float


@define
class QueueCounters(SendCounters):
    """Counters of receives and settlements besides those of publishes, since the start."""

    redeliveries: int = 0
    poison: int = 0
    lost_receipts: int = 0


@implementer(IRoomQueue)
class SqsRoomQueue:
    """One shard per queue. Runs on the reactor thread; calls run in the threads of ``aws``.

    :param now: is compared with the times that SQS gives.
    :param publish_seconds: see :class:`~chatflow.broker.sending.Sender`, like ``observe_bytes``.
    :param visibility_seconds: how long a room stays with a consumer that died, at least; see :mod:`.visibility`.
    :param long_poll_seconds: at most 20 (SQS). Less while stopping.
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
        may_extend: Callable[[], bool] = lambda: True,
        observe_bytes: Callable[[float], object] = lambda size: None,
    ) -> None:
        self._clock = clock
        self._now = now
        self._aws = aws
        self._names = names
        self._pace = pace
        self._set_aside = set_aside
        self._visibility = Visibility(clock, visibility_seconds)
        self._long_poll_seconds = long_poll_seconds
        self._may_extend = may_extend
        self._held: set[_Receipt] = set()
        self._outstanding = Outstanding()
        self._closing = False
        self.shards = names.shards
        self.counters = QueueCounters()
        self._shards = {
            shard: _Shard(
                Sender(
                    clock=clock,
                    calls=aws,
                    counters=self.counters,
                    outstanding=self._outstanding,
                    publish_seconds=publish_seconds,
                    observe_bytes=observe_bytes,
                ),
                Receiver(aws),
            )
            for shard in names.shards
        }

    def start(self) -> None:
        """Find every queue. Blocks.

        :raises StartupError: one is missing, or AWS does not answer.
        """
        calls = BlockingCalls(self._aws.clients)
        for shard, state in self._shards.items():
            state.sender.url = at_once(require_queue(calls, self._names.room_queue(shard)))

    def shard_rooms(self, shard: object) -> Sequence[int]:
        """See :class:`IRoomQueue`."""
        assert isinstance(shard, int)
        return self._names.shard_rooms(shard)

    def urls(self) -> dict[int, str]:
        """The URL of each shard's queue."""
        return {shard: state.url for shard, state in self._shards.items()}

    def lag_seconds(self) -> dict[int, float]:
        """How old the oldest envelope is that is held here, by shard; 0 where none is."""
        oldest = dict.fromkeys(self.shards, now := self._clock.seconds())
        for receipt in self._held:
            oldest[receipt.shard] = min(oldest[receipt.shard], receipt.sent_at)
        return {shard: now - sent_at for shard, sent_at in oldest.items()}

    def close(self) -> None:
        """Wait for nothing that pacing asks for any more, nor long for messages."""
        self._closing = True

    def stop(self) -> Deferred[None]:
        """Fires when nothing is under way that was not awaited."""
        return self._outstanding.drain()

    # Publishing

    def wait_seconds(self, room: int) -> float:
        """See :class:`IPublish`."""
        return 0.0 if self._closing else self._pace.wait_seconds(self._shards[self._names.shard(room)].sender.sent_at)

    def publish(self, envelope: Envelope) -> Deferred[None]:
        """See :class:`IRoomQueue`."""
        return self._shards[self._names.shard(envelope.room)].sender.publish(envelope)

    # Receiving

    def receive(self, shard: object) -> Deferred[Sequence[Delivery]]:
        """See :class:`IRoomQueue`. A poll whose receiver was cancelled goes on, and gives back what it is given."""
        assert isinstance(shard, int)
        result: Deferred[Sequence[Delivery]] = Deferred(lambda _: None)
        poll = Deferred.fromCoroutine(self._poll(shard))

        def arrived(deliveries: Sequence[Delivery]) -> Deferred[None]:
            if result.called:
                return self.nack(deliveries)
            result.callback(deliveries)
            return succeed(None)

        def failed(failure: Any) -> None:
            if not result.called:
                result.errback(failure)

        poll.addCallbacks(arrived, failed)
        self._outstanding.add("receiving", poll)
        return result

    async def _poll(self, shard: int) -> Sequence[Delivery]:
        state = self._shards[shard]
        began = self._clock.seconds()
        visibility_seconds = self._visibility.seconds
        received = await state.receiver.receive(
            state.url,
            min(self._long_poll_seconds, 1) if self._closing else self._long_poll_seconds,
            VisibilityTimeout=visibility_seconds,
            AttributeNames=["SentTimestamp", "ApproximateReceiveCount"],
        )
        state.received_at = now = self._clock.seconds()
        since_epoch = self._now()
        state.backlogged = len(received) == MAX_MESSAGES
        deliveries: list[Delivery] = []
        poison: list[tuple[_Receipt, str, str]] = []
        visible_at, due_at = began + visibility_seconds, now + Visibility.until_late(visibility_seconds)
        for message in received:
            age_seconds = max(0.0, since_epoch - sent_at(message, since_epoch))
            receipt = _Receipt(shard, message["ReceiptHandle"], visible_at, due_at, now, now - age_seconds)
            self._held.add(receipt)
            try:
                decoded = envelopes.decode(message["Body"])
            except BadEnvelope as error:
                poison.append((receipt, message["Body"], str(error)))
                continue
            deliveries.append(Delivery(decoded, receipt))
            if int(message.get("Attributes", {}).get("ApproximateReceiveCount", 1)) > 1:
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
        self._log.error("queue {shard} holds what is no envelope: {reason}", shard=receipt.shard, reason=reason)
        await self._set_aside(body, reason)
        self.counters.poison += 1
        await self._delete([receipt])

    # Settling

    def are_leased(self, deliveries: Sequence[Delivery]) -> bool:
        """See :class:`IRoomQueue`."""
        now = self._clock.seconds()
        return all(delivery.receipt.visible_at > now for delivery in deliveries)

    def renew(self, deliveries: Sequence[Delivery]) -> Deferred[None]:
        """See :class:`IRoomQueue`. A call where the answer came so late that little of the visibility is certain."""
        soon = self._clock.seconds() + (seconds := self._visibility.seconds) / 2
        doubtful = [one.receipt for one in deliveries if one.receipt.visible_at < soon]
        return Deferred.fromCoroutine(self._change_visibility(doubtful, seconds))

    def ack(self, deliveries: Sequence[Delivery]) -> Deferred[None]:
        """See :class:`IRoomQueue`. Paced: a room that is held back gathers the messages of every instance."""
        return Deferred.fromCoroutine(self._done([delivery.receipt for delivery in deliveries]))

    def reject(self, delivery: Delivery, reason: NotStored) -> Deferred[None]:
        """See :class:`IRoomQueue`."""
        return Deferred.fromCoroutine(self._delete([delivery.receipt]))

    def nack(self, deliveries: Sequence[Delivery]) -> Deferred[None]:
        """See :class:`IRoomQueue`."""
        return Deferred.fromCoroutine(self._change_visibility([delivery.receipt for delivery in deliveries], 0))

    async def _done(self, receipts: list[_Receipt]) -> None:
        if not receipts:
            return
        shard = self._shards[receipts[0].shard]
        wait = self._pace.wait_seconds(shard.received_at)
        if wait and not (self._closing or shard.backlogged):
            await deferLater(self._clock, wait)
        await self._delete(receipts)

    async def _delete(self, receipts: list[_Receipt]) -> None:
        """Delete, or give up: what stays is delivered again, and the room's head will know it."""
        now = self._clock.seconds()
        self._held.difference_update(receipts)
        self._visibility.observe(max((now - receipt.received_at for receipt in receipts), default=0.0))
        backoff = Backoff(first_seconds=0.1, cap_seconds=2.0)
        for shard, by_handle in _by_lane(receipts).items():
            unsettled = await delete(self._aws, self._clock, self._shards[shard].url, list(by_handle), backoff)
            self.counters.lost_receipts += len(unsettled.lost) + len(unsettled.retryable)
            if count := len(unsettled.retryable):
                self._log.warn("{count} envelopes were not deleted and will come again", count=count)

    async def _change_visibility(self, receipts: list[_Receipt], seconds: int) -> None:
        if seconds == 0:
            self._held.difference_update(receipts)
        began = self._clock.seconds()
        for shard, by_handle in _by_lane(receipts).items():
            unsettled = await settle(
                self._aws,
                "change_message_visibility_batch",
                self._shards[shard].url,
                list(by_handle),
                VisibilityTimeout=seconds,
            )
            if unsettled.retryable:
                self._log.warn("the visibility was not changed: {reason}", reason=unsettled.reason)
            # What SQS no longer knows us to hold is held no more, and never extended again.
            lost = {by_handle[handle] for handle in unsettled.lost}
            # What was deleted while an extension was on its way is not lost.
            self.counters.lost_receipts += len(lost & self._held if seconds else lost)
            self._held -= lost
            for handle in by_handle.keys() - unsettled.retryable:
                receipt = by_handle[handle]
                receipt.visible_at = began + seconds if receipt in self._held else began
                receipt.due_at = began + Visibility.until_late(seconds)

    async def extend_visibility(self) -> None:
        """Keep what is held while the database is slow. Call it several times per ``visibility_seconds``."""
        now = self._clock.seconds()
        due = [receipt for receipt in self._held if receipt.due_at <= now]
        if due and self._may_extend():
            await self._change_visibility(due, self._visibility.seconds)


def _by_lane(receipts: Sequence[_Receipt]) -> dict[int, dict[str, _Receipt]]:
    """Receipts by their handle, by their shard."""
    found: dict[int, dict[str, _Receipt]] = {}
    for receipt in receipts:
        found.setdefault(receipt.shard, {})[receipt.handle] = receipt
    return found
