"""The states of this instance's subscription to the fan-out, as a table.

Only a probe that came back through the present queue proves that what others publish arrives here.
"""

from __future__ import annotations

from enum import Enum


class State(Enum):
    """Where the subscription stands."""

    DETACHED = "there is no queue: before the start, and once this instance stops"
    ATTACHING = "a queue is being made and subscribed, as often as it takes"
    PROBING = "a queue is subscribed, and no probe has come back through it yet"
    LIVE = "a probe came back: what others publish arrives"
    CHECKING = "live, as far as is known; but gaps were observed, and one probe is to show whether it still is"

    @property
    def is_subscribed(self) -> bool:
        """Whether what others publish arrives here, as far as is known."""
        return self in (State.LIVE, State.CHECKING)


class Event(Enum):
    """What may happen to a subscription."""

    START = "the daemon starts, and makes the first queue"
    ATTACHED = "a queue is made and subscribed"
    PROBE_RETURNED = "a probe came back through the present queue"
    PROBE_LOST = "a probe that SNS took did not come back in time"
    PROBE_NOT_SENT = "SNS did not take the probe"
    GAPS_OBSERVED = "messages turned out to be stored that did not arrive, more often than by chance"
    SUBSCRIPTION_LOST = "the queue is missing, or this instance was taken for dead"
    DETACH = "this instance stops"


class Action(Enum):
    """What is done in a transition, after what has begun in the former state was ended."""

    NOTHING = "nothing"
    PROBE = "receive from the queue, and probe until a probe comes back"
    CHECK = "send one probe"
    REPLACE = "leave the queue and remove it, make another"
    REMOVE = "leave the queue and remove it, if there is one"


_S, _E, _A = State, Event, Action

#: State and event: the next state, and what is done. Whatever is not listed changes nothing.
TRANSITIONS: dict[tuple[State, Event], tuple[State, Action]] = {
    # There is no queue.
    (_S.DETACHED, _E.START): (_S.ATTACHING, _A.NOTHING),
    (_S.DETACHED, _E.ATTACHED): (_S.DETACHED, _A.REMOVE),  # it was being made when this instance stopped
    (_S.DETACHED, _E.DETACH): (_S.DETACHED, _A.REMOVE),
    # A queue is being made. That the former one is lost is known already.
    (_S.ATTACHING, _E.ATTACHED): (_S.PROBING, _A.PROBE),
    (_S.ATTACHING, _E.DETACH): (_S.DETACHED, _A.REMOVE),
    # No probe has come back yet. They are repeated here, so one that SNS refuses is no event.
    (_S.PROBING, _E.PROBE_RETURNED): (_S.LIVE, _A.NOTHING),
    (_S.PROBING, _E.PROBE_LOST): (_S.ATTACHING, _A.REPLACE),
    (_S.PROBING, _E.SUBSCRIPTION_LOST): (_S.ATTACHING, _A.REPLACE),
    (_S.PROBING, _E.DETACH): (_S.DETACHED, _A.REMOVE),
    # What others publish arrives.
    (_S.LIVE, _E.GAPS_OBSERVED): (_S.CHECKING, _A.CHECK),
    (_S.LIVE, _E.SUBSCRIPTION_LOST): (_S.ATTACHING, _A.REPLACE),
    (_S.LIVE, _E.DETACH): (_S.DETACHED, _A.REMOVE),
    # It is doubted. If SNS takes no probe nobody is heard, and another queue would receive no more.
    (_S.CHECKING, _E.PROBE_RETURNED): (_S.LIVE, _A.NOTHING),
    (_S.CHECKING, _E.PROBE_NOT_SENT): (_S.LIVE, _A.NOTHING),
    (_S.CHECKING, _E.PROBE_LOST): (_S.ATTACHING, _A.REPLACE),
    (_S.CHECKING, _E.SUBSCRIPTION_LOST): (_S.ATTACHING, _A.REPLACE),
    (_S.CHECKING, _E.DETACH): (_S.DETACHED, _A.REMOVE),
}


def transition(state: State, event: Event) -> tuple[State, Action]:
    """The next state, and what is done."""
    return TRANSITIONS.get((state, event), (state, Action.NOTHING))
