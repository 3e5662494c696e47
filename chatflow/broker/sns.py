"""The fan-out: one SNS FIFO topic, to which each running instance's own SQS FIFO queue is subscribed.

That a subscription is lost shows in three ways: the queue is missing; a new queue's probe does not come back; or
messages turn out to be stored that did not arrive. In each case this instance attaches another queue, and is not ready
until a probe came back through it. :mod:`~chatflow.broker.subscription` has the states as a table.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from chatflow.broker.attaching import Attacher, Register
from chatflow.broker.attachment import Attachment
from chatflow.broker.aws import Aws
from chatflow.broker.calls import BlockingCalls, ControlCalls
from chatflow.broker.fanout_messages import FanoutMessage
from chatflow.broker.listening import FanoutListener
from chatflow.broker.names import Names
from chatflow.broker.pacing import Pace
from chatflow.broker.probing import USUAL_TIMES, Prober, ProbeTimes
from chatflow.broker.publishing import FanoutCounters, Publisher
from chatflow.broker.subscription import Action, Event, State, transition
from chatflow.contracts.fanout import IFanout
from chatflow.contracts.messages import StoredMessage
from chatflow.lifecycle import Outstanding
from chatflow.lifecycle.clocks import WallTime

#: So many gaps in a row, with nothing received between them, are no longer chance.
_GAPS_IN_A_ROW = 2


@implementer(IFanout)
class SnsFanout:
    """Tells the others, and is told by them. Runs on the reactor thread; calls run in the threads of ``aws``.

    :param register: see :class:`~chatflow.broker.attaching.Attacher`; ``register_now`` is the same for the start of the
        daemon, and blocks.
    :param deliver: takes the messages of one room, as they arrive.
    :param observe_latency: called with the seconds that fan-out messages took from the publish to the receipt.
    :ivar state: of the subscription; ``is_subscribed`` is what readiness asks for.
    """

    def __init__(
        self,
        *,
        clock: IReactorTime,
        now: WallTime,
        aws: Aws,
        names: Names,
        pace: Pace,
        server_id: str,
        register: Register,
        register_now: Callable[[str, str], object],
        deliver: Callable[[Sequence[StoredMessage]], object],
        observe_latency: Callable[[float], object] = lambda seconds: None,
        long_poll_seconds: int = 20,
        probe_times: ProbeTimes = USUAL_TIMES,
    ) -> None:
        self._aws = aws
        self._register_now = register_now
        self._deliver = deliver
        self._outstanding = Outstanding()
        self._attachment: Attachment | None = None
        self._removed: Deferred[bool] = succeed(True)
        self._gaps = 0
        self.state = State.DETACHED
        self.counters = FanoutCounters()
        self._publisher = Publisher(clock=clock, calls=aws, counters=self.counters, outstanding=self._outstanding)
        self._attacher = Attacher(
            clock=clock, now=now, calls=ControlCalls(aws), names=names, server_id=server_id, register=register
        )
        self._listener = FanoutListener(
            clock=clock,
            now=now,
            calls=aws,
            pace=pace,
            on_message=self._received,
            on_missing=self.subscription_lost,
            observe_latency=observe_latency,
            outstanding=self._outstanding,
            long_poll_seconds=long_poll_seconds,
        )
        self._prober = Prober(
            clock=clock,
            send=self._publisher.probe,
            on_lost=lambda: self._handle(Event.PROBE_LOST),
            on_not_sent=lambda: self._handle(Event.PROBE_NOT_SENT),
            outstanding=self._outstanding,
            times=probe_times,
        )
        self._actions: dict[Action, Callable[[], None]] = {
            Action.NOTHING: lambda: None,
            Action.PROBE: self._probe,
            Action.CHECK: self._check,
            Action.REPLACE: self._replace,
            Action.REMOVE: self._remove,
        }

    @property
    def is_subscribed(self) -> bool:
        """Whether what others publish arrives here, as far as is known."""
        return self.state.is_subscribed

    def start(self) -> None:
        """Attach the first queue, blocking, and then listen.

        :raises StartupError: AWS refuses, or the objects are not there.
        """
        self._handle(Event.START)
        blocking = BlockingCalls(self._aws.clients)
        self._publisher.topic_arn, attachment = self._attacher.attach_first(blocking, self._register_now)
        self._attached(attachment)
        self._listener.start()

    def begin_drain(self) -> None:
        """Do not wait long for messages any more: this instance is about to stop."""
        self._listener.begin_drain()

    def detach(self) -> Deferred[bool]:
        """Receive nothing more: unsubscribe and delete the queue.

        Fires with whether certainly nothing is left, which cannot be said while a queue is being made; never fails.
        """
        is_attaching = self.state is State.ATTACHING
        self._handle(Event.DETACH)
        return self._removed.addCallback(lambda nothing_left: nothing_left and not is_attaching)

    def stop(self) -> Deferred[None]:
        """Fires when nothing is under way; a long poll may take its time."""
        return self._outstanding.drain()

    def publish(self, messages: Sequence[StoredMessage]) -> Deferred[None]:
        """See :class:`IFanout`."""
        return self._publisher.publish(messages)

    def gap_timeout_seconds(self) -> float:
        """How long messages that are due are likely to be on their way."""
        return self._listener.gap_timeout_seconds()

    # What may happen to the subscription

    def subscription_lost(self) -> None:
        """Leave this queue and make another, as often as it takes. Until a probe came back, this is not ready."""
        self._handle(Event.SUBSCRIPTION_LOST)

    def gap_observed(self) -> None:
        """Messages turned out to be stored that did not arrive here: they were lost, or the subscription is.

        The second time in a row a probe tells which; it costs calls, so not before.
        """
        self._gaps += 1
        if self._gaps >= _GAPS_IN_A_ROW and self.state is State.LIVE:
            self._handle(Event.GAPS_OBSERVED)

    def _attached(self, attachment: Attachment) -> None:
        self._attachment = attachment
        self._handle(Event.ATTACHED)

    def _received(self, message: FanoutMessage) -> None:
        if message.probe:
            if self._attachment is not None and message.probe == self._attachment.queue_name:
                self._prober.returned()
                self._handle(Event.PROBE_RETURNED)
        elif message.messages:
            self._gaps = 0
            self.counters.received += len(message.messages)
            self._deliver(message.stored())

    def _handle(self, event: Event) -> None:
        state, action = transition(self.state, event)
        if state is not self.state:
            self.state = state
            self._gaps = 0  # what was observed before says nothing of this state
            self._prober.stop()
        self._actions[action]()

    # What is done about it

    def _probe(self) -> None:
        assert self._attachment is not None
        self.counters.attachments += 1
        self._publisher.sender = self._attachment.queue_name
        self._listener.listen(self._attachment.queue_url)
        self._prober.probe_until_returned(self._attachment.queue_name)

    def _check(self) -> None:
        assert self._attachment is not None
        self._prober.probe_once(self._attachment.queue_name)

    def _replace(self) -> None:
        self._outstanding.add("attaching again", Deferred.fromCoroutine(self._attach_another(self._leave())))

    async def _attach_another(self, gone: Attachment | None) -> None:
        attachment = await self._attacher.replace(gone)
        if attachment is not None:
            self._attached(attachment)

    def _remove(self) -> None:
        self._listener.stop()
        self._attacher.abandon()
        self._removed = Deferred()
        removing = Deferred.fromCoroutine(self._attacher.remove(self._leave()))
        self._outstanding.add("detaching", removing.addCallback(self._removed.callback))

    def _leave(self) -> Attachment | None:
        """The present queue is the present one no more."""
        self._listener.leave()
        gone, self._attachment = self._attachment, None
        return gone
