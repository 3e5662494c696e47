"""The subscription to the fan-out goes by its table, on a simulated clock: whatever happens in whichever state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import Clock

from chatflow.broker import fanout_messages
from chatflow.broker.aws import AwsError, Clients
from chatflow.broker.fanout_messages import FanoutMessage
from chatflow.broker.names import Names
from chatflow.broker.pacing import Pace
from chatflow.broker.probing import ProbeTimes
from chatflow.broker.sns import SnsFanout
from chatflow.broker.subscription import TRANSITIONS, Event, State, transition
from tests.support.chat import make_stored

TIMES = ProbeTimes(repeat_seconds=4, lost_seconds=12, max_lost_seconds=40, check_seconds=6)

_EVENTS = [
    Event.START,
    Event.ATTACHED,
    Event.PROBE_RETURNED,
    Event.PROBE_LOST,
    Event.PROBE_NOT_SENT,
    Event.GAPS_OBSERVED,
    Event.SUBSCRIPTION_LOST,
    Event.DETACH,
]
# The next state; "." for no change.
_TABLE = """
              START      ATTACHED  RETURNED  LOST       NOT_SENT  GAPS      SUB_LOST   DETACH
DETACHED      ATTACHING  .         .         .          .         .         .          .
ATTACHING     .          PROBING   .         .          .         .         .          DETACHED
PROBING       .          .         LIVE      ATTACHING  .         .         ATTACHING  DETACHED
LIVE          .          .         .         .          .         CHECKING  ATTACHING  DETACHED
CHECKING      .          .         LIVE      ATTACHING  LIVE      .         ATTACHING  DETACHED
"""


def _rows() -> list[tuple[State, Event, State]]:
    rows = []
    for line in _TABLE.strip().splitlines()[1:]:
        name, *cells = line.split()
        for event, cell in zip(_EVENTS, cells, strict=True):
            rows.append((State[name], event, State[name if cell == "." else cell]))
    return rows


class World:
    """SQS and SNS as far as one instance's fan-out calls them, and the threads that it calls them in: all at once.

    :ivar echoes: probes come back. :ivar is_away: SNS takes nothing.
    :ivar calls: what was called, without what is repeated all the time.
    """

    def __init__(self) -> None:
        self.clock = Clock()
        self.clients = Clients(self, self, self, self, self)
        self.send_threads = self
        self.echoes = True
        self.is_away = False
        self.calls: list[str] = []
        self.registered: list[str] = []
        self.delivered: list[Any] = []
        self._waiting: list[dict[str, Any]] = []
        self._receiving: Deferred[dict[str, Any]] | None = None
        self._held: list[Callable[[], object]] | None = None
        self.fanout = SnsFanout(
            clock=self.clock,
            now=lambda: 1e9 + self.clock.seconds(),
            aws=self,  # type: ignore[arg-type]
            names=Names("p", 1),
            pace=Pace(clock=self.clock, max_gap_seconds=0, calls_per_second=1e9),
            server_id="a",
            register=self._register,
            register_now=lambda start, queue: self.registered.append(queue),
            deliver=self.delivered.extend,
            probe_times=TIMES,
        )

    async def _register(self, start: str, queue: str) -> None:
        self.registered.append(queue)

    def state(self) -> State:
        """Asked for anew: a type checker holds an attribute to what it was compared with before."""
        return self.fanout.state

    # The threads

    def run(self, function: Callable[..., Any], *arguments: Any) -> Deferred[Any]:
        if self._held is None:
            return maybeDeferred(function, *arguments)
        done: Deferred[Any] = Deferred()
        self._held.append(lambda: maybeDeferred(function, *arguments).chainDeferred(done))
        return done

    def hold(self) -> None:
        """From now on, calls that make and remove queues take their time."""
        self._held = []

    def let_go(self) -> None:
        held, self._held = self._held or [], None
        for call in held:
            call()
        self.clock.advance(0)

    # AWS

    def get_queue_url(self, **_: Any) -> dict[str, Any]:
        return {"QueueUrl": "dead-letters"}

    def get_queue_attributes(self, **_: Any) -> dict[str, Any]:
        return {"Attributes": {"QueueArn": "arn:aws:sqs:eu-west-1:7:p-db-dlq.fifo"}}

    def get_topic_attributes(self, **_: Any) -> dict[str, Any]:
        return {"Attributes": {}}

    def create_queue(self, **asked: Any) -> dict[str, Any]:
        self.calls.append("make")
        return {"QueueUrl": asked["QueueName"]}

    def subscribe(self, **_: Any) -> dict[str, Any]:
        return {"SubscriptionArn": "arn"}

    def unsubscribe(self, **_: Any) -> dict[str, Any]:
        return {}

    def delete_queue(self, **_: Any) -> dict[str, Any]:
        self.calls.append("remove")
        self.lose_queue()
        return {}

    async def receive(self, **_: Any) -> dict[str, Any]:
        receiving = self._receiving = Deferred()
        self._hand_over()
        return await receiving

    async def sqs(self, operation: str, **_: Any) -> dict[str, Any]:
        assert operation == "delete_message_batch"
        return {}

    async def sns(self, operation: str, **asked: Any) -> dict[str, Any]:
        assert operation == "publish_batch"
        self.calls.append("probe")
        if self.is_away:
            raise AwsError(operation, "InternalError", "away", certain=False)
        if self.echoes:
            self.clock.callLater(0, self.echo)
        return {"Successful": [{"Id": entry["Id"]} for entry in asked["PublishBatchRequestEntries"]]}

    # What happens

    def echo(self) -> None:
        """A probe comes back through the present queue."""
        self.arrive(FanoutMessage(0, 0, probe=self.registered[-1]))

    def arrive(self, message: FanoutMessage) -> None:
        self._waiting.append({"Body": fanout_messages.encode(message), "ReceiptHandle": "receipt"})
        self._hand_over()

    def _hand_over(self) -> None:
        if self._receiving is not None and self._waiting:
            receiving, self._receiving = self._receiving, None
            receiving.callback({"Messages": [self._waiting.pop(0)]})

    def lose_queue(self) -> None:
        """The queue is gone: the receive under way says so."""
        self._waiting.clear()
        receiving, self._receiving = self._receiving, None
        if receiving is not None:
            receiving.errback(AwsError("receive_message", "QueueDoesNotExist", "gone", certain=True))

    def gaps(self) -> None:
        self.fanout.gap_observed()
        self.fanout.gap_observed()
        self.pass_seconds(1)  # of which a second try to send a probe needs some

    def pass_seconds(self, seconds: float) -> None:
        self.clock.pump([0.25] * round(seconds * 4))


def reach(state: State) -> World:
    """An instance that is in this state, with nothing noted of how it came there."""
    world = World()
    if state is not State.DETACHED:
        world.echoes = state is not State.PROBING
        world.fanout.start()
        world.pass_seconds(0.5)
    if state is State.ATTACHING:
        world.hold()
        world.fanout.subscription_lost()
    if state is State.CHECKING:
        world.echoes = False
        world.gaps()
    assert world.fanout.state is state
    world.echoes = False
    world.calls.clear()
    return world


def _send_no_probe(world: World) -> None:
    """In a state in which one is under way, this comes before it is answered."""
    world.is_away = True
    if world.fanout.state is State.CHECKING:  # the probe that led here was sent: let another one not be
        world.fanout._prober.probe_once(world.registered[-1])
    world.pass_seconds(2)


#: How each event comes about.
CAUSES: dict[Event, Callable[[World], object]] = {
    Event.START: lambda world: world.fanout.start(),
    Event.ATTACHED: World.let_go,
    Event.PROBE_RETURNED: World.echo,
    Event.PROBE_LOST: lambda world: world.pass_seconds(13),
    Event.PROBE_NOT_SENT: _send_no_probe,
    Event.GAPS_OBSERVED: World.gaps,
    Event.SUBSCRIPTION_LOST: lambda world: world.fanout.subscription_lost(),
    Event.DETACH: lambda world: world.fanout.detach(),
}


@pytest.mark.parametrize(("state", "event", "expected"), _rows(), ids=lambda value: value.name)
def test_the_next_state_is_that_of_the_table(state: State, event: Event, expected: State) -> None:
    assert transition(state, event)[0] is expected


@pytest.mark.parametrize(("state", "event"), TRANSITIONS, ids=lambda value: value.name)
def test_whatever_happens_leads_to_the_state_that_the_table_says(state: State, event: Event) -> None:
    world = reach(state)
    if event not in (Event.ATTACHED, Event.START):
        world.hold()  # what is begun then goes no further
    expected = transition(state, event)[0]
    if (state, event) == (State.DETACHED, Event.START):
        expected = State.PROBING  # since the first queue is made at once
    CAUSES[event](world)
    assert world.fanout.state is expected
    assert world.fanout.is_subscribed is (expected in (State.LIVE, State.CHECKING))


@pytest.mark.parametrize("state", [State.PROBING, State.LIVE, State.CHECKING], ids=lambda state: state.name)
@pytest.mark.parametrize("how", ["told", "missing"])
def test_a_lost_queue_is_removed_and_another_one_is_heard(state: State, how: str) -> None:
    world = reach(state)
    world.echoes = True
    if how == "told":
        world.fanout.subscription_lost()
    else:
        world.lose_queue()
    world.pass_seconds(1)
    assert world.fanout.state is State.LIVE
    assert world.calls == ["remove", "make", "probe"]
    assert len(set(world.registered)) == 2


def test_a_new_queue_is_probed_again_and_again_and_left_when_none_came_back_each_time_later() -> None:
    world = reach(State.PROBING)
    world.pass_seconds(10)
    assert world.calls == ["probe", "probe"], "every four seconds"
    lasted = []
    for _ in range(4):
        world.calls.clear()
        began = world.clock.seconds()
        while "make" not in world.calls:
            world.pass_seconds(0.25)
        lasted.append(world.clock.seconds() - began)
    assert lasted[1:] == [24, 40, 40]
    world.echo()
    assert world.fanout.state is State.LIVE
    world.fanout.subscription_lost()
    world.calls.clear()
    world.pass_seconds(11)
    assert "make" not in world.calls
    world.pass_seconds(1)
    assert "make" in world.calls, "after a probe came back, the next queue is given the usual time"


def test_while_sns_takes_no_probe_a_new_queue_is_not_left() -> None:
    world = World()
    world.is_away = True
    world.fanout.start()
    world.pass_seconds(60)
    assert world.fanout.state is State.PROBING
    assert world.calls.count("make") == 1
    assert world.calls.count("probe") > 10
    world.is_away, world.echoes = False, True
    world.pass_seconds(5)
    assert world.state() is State.LIVE


def test_gaps_cost_one_probe_and_only_when_nothing_arrived_between_them() -> None:
    world = reach(State.LIVE)
    stored = make_stored(1)
    for _ in range(3):
        world.fanout.gap_observed()
        world.arrive(FanoutMessage(1, 1, ((stored.server_id, stored.message),)))
        world.pass_seconds(0.25)
    assert world.delivered == 3 * [stored]
    assert (world.fanout.state, world.calls) == (State.LIVE, [])
    world.gaps()
    world.gaps()
    assert (world.fanout.state, world.calls) == (State.CHECKING, ["probe"])
    world.pass_seconds(3.5)
    assert world.fanout.state is State.CHECKING
    world.hold()
    world.pass_seconds(0.5)
    assert world.state() is State.ATTACHING


def test_when_sns_takes_no_probe_gaps_are_no_reason_to_leave() -> None:
    world = reach(State.LIVE)
    world.is_away = True
    world.gaps()
    assert world.fanout.state is State.LIVE
    world.pass_seconds(60)
    assert world.fanout.state is State.LIVE


def test_a_probe_of_a_queue_that_was_left_proves_nothing() -> None:
    world = reach(State.PROBING)
    world.arrive(FanoutMessage(0, 0, probe="p-fanout-a-0.fifo"))
    assert world.fanout.state is State.PROBING


@pytest.mark.parametrize("state", State, ids=lambda state: state.name)
def test_once_it_stops_nothing_is_left_nor_under_way(state: State) -> None:
    world = reach(state)
    removed: list[bool] = []
    world.fanout.detach().addCallback(removed.append)
    world.let_go()
    world.lose_queue()  # what ends the receive
    world.pass_seconds(2)
    assert removed == [state is not State.ATTACHING], "what is being made may be left"
    assert world.fanout.state is State.DETACHED
    assert world.calls.count("remove") == world.calls.count("make") + (state is not State.DETACHED)
    stopped: list[None] = []
    world.fanout.stop().addCallback(stopped.append)
    assert stopped == [None]
    assert world.clock.getDelayedCalls() == []
