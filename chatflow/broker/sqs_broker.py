"""The broker of one instance of many: room queues and dead letters on SQS, fan-out through SNS, members in a table."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from zope.interface import implementer

from chatflow.broker.aws import Aws
from chatflow.broker.deadletters import SqsDeadLetters
from chatflow.broker.depth import SqsDepths
from chatflow.broker.membership import Membership, beat_seconds
from chatflow.broker.names import Names
from chatflow.broker.pacing import Pace
from chatflow.broker.readings import cluster_readings
from chatflow.broker.reaping import Reaper
from chatflow.broker.sns import SnsFanout
from chatflow.broker.sqs import SqsRoomQueue
from chatflow.contracts.broker import IBroker
from chatflow.contracts.membership import IMembershipTable
from chatflow.contracts.messages import StoredMessage
from chatflow.lifecycle import PeriodicService
from chatflow.lifecycle.callback_service import CallbackService
from chatflow.lifecycle.clocks import WallTime
from chatflow.readings import Reading

_BODY_BYTES = (256, 1024, 4096, 16_384, 32_768, 65_536)
_LATENCY_SECONDS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 60)

#: Name, help and buckets of a histogram; what it returns takes an observation.
MakeHistogram = Callable[[str, str, Sequence[float]], Callable[[float], None]]


class SqsOptions(Protocol):
    """The options of the daemon that this needs; their help says what each is for."""

    @property
    def server_id(self) -> str: ...
    @property
    def rooms(self) -> int: ...
    @property
    def queue_prefix(self) -> str: ...
    @property
    def room_queues(self) -> int | None: ...
    @property
    def publishing_threads(self) -> int: ...
    @property
    def max_calls_per_second(self) -> float: ...
    @property
    def max_linger_ms(self) -> float: ...
    @property
    def publish_seconds(self) -> float: ...
    @property
    def visibility_seconds(self) -> int: ...
    @property
    def long_poll_seconds(self) -> int: ...
    @property
    def reap_after_seconds(self) -> float: ...


@implementer(IBroker)
class SqsBroker:
    """Constructs and owns the parts and their timers.

    :param table: of the cluster's runs; ``connection`` starts and stops what it needs.
    :param open_table: see :class:`~chatflow.broker.membership.Membership`.
    :param is_steady: see :class:`~chatflow.broker.reaping.Reaper`.
    :param database_away_seconds: for how long the database that stores messages has not answered.
    :param histogram: shows one more histogram.
    """

    def __init__(
        self,
        *,
        reactor: Any,
        now: WallTime,
        options: SqsOptions,
        table: IMembershipTable,
        connection: Service,
        open_table: Callable[[], AbstractContextManager[IMembershipTable]],
        is_steady: Callable[[float], Awaitable[bool]],
        database_away_seconds: Callable[[], float],
        histogram: MakeHistogram,
    ) -> None:
        self._reactor = reactor
        self._options = options
        self._connection = connection
        self._deliver: Callable[[Sequence[StoredMessage]], object] = lambda messages: None
        names = Names(options.queue_prefix, options.rooms, options.room_queues)
        self._pace = Pace(
            clock=reactor,
            max_gap_seconds=options.max_linger_ms / 1000,
            calls_per_second=options.max_calls_per_second,
        )
        self._aws = Aws(
            reactor=reactor,
            polls=len(names.shards) + 1,
            sends=options.publishing_threads,
            observe=self._pace.observe,
            on_failure=self._pace.failed,
        )
        self.dead_letters = SqsDeadLetters(clock=reactor, now=now, aws=self._aws, names=names)
        self.room_queue = SqsRoomQueue(
            clock=reactor,
            now=now,
            aws=self._aws,
            names=names,
            pace=self._pace,
            set_aside=self.dead_letters.keep_body,
            publish_seconds=options.publish_seconds,
            visibility_seconds=options.visibility_seconds,
            long_poll_seconds=options.long_poll_seconds,
            # An instance that alone has lost the database must not keep the rooms' heads from the others.
            may_extend=lambda: database_away_seconds() < 2 * options.visibility_seconds,
            observe_bytes=histogram("chatflow_envelope_bytes", "Body of an envelope that SQS took", _BODY_BYTES),
        )
        self.depths = SqsDepths(clock=reactor, calls=self._aws, names=names, urls=self.room_queue.urls)
        self._membership = self.presence = Membership(
            clock=reactor,
            table=table,
            open_table=open_table,
            server_id=options.server_id,
            silent_seconds=options.reap_after_seconds,
            on_taken_for_dead=self._taken_for_dead,
        )
        self.beat_seconds = beat_seconds(options.reap_after_seconds)
        self._reaper = Reaper(
            clock=reactor,
            calls=self._aws,
            names=names,
            table=table,
            membership=self._membership,
            silent_seconds=options.reap_after_seconds,
            is_steady=is_steady,
        )
        self.fanout = SnsFanout(
            clock=reactor,
            now=now,
            aws=self._aws,
            names=names,
            pace=self._pace,
            server_id=options.server_id,
            register=self._membership.register,
            register_now=self._membership.register_now,
            deliver=lambda messages: self._deliver(messages),
            observe_latency=histogram(
                "chatflow_fanout_latency_seconds", "From a fan-out message's publish to its receipt", _LATENCY_SECONDS
            ),
            long_poll_seconds=options.long_poll_seconds,
        )

    @property
    def transport(self) -> Sequence[tuple[str, Service]]:
        """See :class:`IBroker`."""
        queue, visibility_seconds = self.room_queue, self._options.visibility_seconds
        return [
            ("beats' connection", self._connection),
            ("AWS calls", CallbackService(self._aws.start, self._aws.stop)),
            ("dead letters", CallbackService(self.dead_letters.start)),
            ("room queue", CallbackService(queue.start, queue.stop)),
            (
                "visibility",
                PeriodicService(self._reactor, "visibility", visibility_seconds / 8, queue.extend_visibility),
            ),
            ("fan-out", CallbackService(self.fanout.start, self.fanout.stop)),
        ]

    @property
    def subscription(self) -> Sequence[tuple[str, Service]]:
        """See :class:`IBroker`."""
        reap_seconds = self._options.reap_after_seconds / 2
        return [
            ("fan-out queue", CallbackService(stop=lambda: Deferred.fromCoroutine(self._leave()))),
            ("reaper", PeriodicService(self._reactor, "reaper", reap_seconds, self._reaper.reap)),
        ]

    def subscribe(self, deliver: Callable[[Sequence[StoredMessage]], object]) -> None:
        """See :class:`IBroker`."""
        self._deliver = deliver

    def is_subscribed(self) -> bool:
        """See :class:`IBroker`."""
        return self.fanout.is_subscribed

    def gap_observed(self) -> None:
        """See :class:`IBroker`."""
        self.fanout.gap_observed()

    def gap_timeout_seconds(self) -> float:
        """See :class:`IBroker`."""
        return self.fanout.gap_timeout_seconds()

    def begin_drain(self) -> None:
        """See :class:`IBroker`."""
        self.room_queue.close()
        self.fanout.begin_drain()

    def abort_pending(self) -> None:
        """See :class:`IBroker`. SQS may have taken what is pending: only an answer can tell."""

    def readings(self) -> Sequence[Reading]:
        """See :class:`IBroker`."""
        return cluster_readings(self._aws, self.room_queue, self.fanout, self._pace, self._reaper)

    def _taken_for_dead(self) -> None:
        self.fanout.subscription_lost()  # beats go on while another queue is attached

    async def _leave(self) -> None:
        if await self.fanout.detach():  # otherwise the entry is what makes the others remove the queue
            await self._membership.leave()
