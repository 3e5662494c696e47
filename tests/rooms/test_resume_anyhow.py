"""History and live messages are joined without a seam, under every interleaving of what may happen meanwhile."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from chatflow.contracts.members import Reset, Resumed
from chatflow.errors import Unavailable
from tests.rooms.doubles import ResumingMember
from tests.rooms.resuming import ResumerRig

Event = tuple[str, int, int]

_EVENTS = ["announce", "compare", "fail", "heal", "hold", "answer", "answer", "turn", "turn", "wait", "drain", "leave"]


@st.composite
def plans(draw: st.DrawFn) -> tuple[int, ResumerRig, list[Event]]:
    """How many messages a room gets, and what happens meanwhile to those who come back."""
    rig = ResumerRig(
        replay=draw(st.sampled_from([1, 4, 20])),
        write_bytes=draw(st.sampled_from([3, 15, 1000])),
        cache=draw(st.sampled_from([0, 2500, 100_000])),
    )
    total = draw(st.integers(1, 60))
    seq = st.integers(1, total)
    pairs = st.tuples(seq, seq)
    deliveries = pairs.map(lambda pair: ("deliver", min(pair), max(pair)))
    drops = pairs.map(lambda pair: ("drop", min(pair), max(pair)))
    resumes = st.tuples(st.sampled_from(["since", "since", "slow", "last"]), st.integers(0, total + 3), seq)
    next_ones = st.tuples(st.just("next"), st.integers(1, 10), seq)
    others = st.tuples(st.sampled_from(_EVENTS), seq, seq)
    event: st.SearchStrategy[Event] = st.one_of(next_ones, deliveries, resumes, others, others)
    return total, rig, draw(st.lists(st.one_of(event, drops) if draw(st.booleans()) else event, max_size=60))


def ignore_that_it_is_away(failure: Failure) -> None:
    failure.trap(Unavailable)


class Trial:
    """Carries out a plan, and knows who came with what."""

    def __init__(self, total: int, rig: ResumerRig) -> None:
        self.total = total
        self.rig = rig
        self.came: list[tuple[ResumingMember, Deferred[None], int]] = []
        self.gone: list[tuple[ResumingMember, list[Any]]] = []

    def do(self, event: str, first: int, last: int) -> None:
        rig, store = self.rig, self.rig.store
        if event == "next":
            first = rig.hub.last_seq(1) + 1
            self.do("deliver", first, min(self.total, first + last // 6))
        elif event == "deliver" and first <= last:
            store.commit(last)
            rig.hub.deliver(store.messages(first, last))
        elif event == "announce":
            store.commit(last)
            rig.hub.announce(1, last)
        elif event == "compare":
            Deferred.fromCoroutine(rig.hub.compare_with_database()).addErrback(ignore_that_it_is_away)
        elif event == "drop":
            store.drop(first, last)
        elif event in {"fail", "heal"}:
            store.error = Unavailable("away") if event == "fail" else None
        elif event == "hold":
            store.holding = True
        elif event == "answer" and store.held:
            store.let_go()
        elif event in {"turn", "wait"}:
            rig.clock.advance(0 if event == "turn" else 1.0)
        elif event in {"since", "slow", "last"}:
            self.come(event, first)
        elif event == "drain" and self.came:
            self.came[first % len(self.came)][0].drain()
        elif event == "leave" and self.came:
            member, resume, _ = self.came.pop(first % len(self.came))
            resume.addErrback(lambda failure: failure.trap(CancelledError))
            resume.cancel()
            rig.hub.leave(1, member)
            self.gone.append((member, list(member.log)))

    def come(self, how: str, number: int) -> None:
        begins_at = max(0, self.rig.hub.last_seq(1) - number) if how == "last" else number
        wish = {"last": max(1, number)} if how == "last" else {"since": number}
        if how == "last":
            begins_at = max(0, self.rig.hub.last_seq(1) - wish["last"])
        member, resume = self.rig.begin(**wish, slow=how == "slow")
        self.came.append((member, resume, begins_at))

    def settle(self) -> None:
        """The room stands still, the database answers, everybody reads."""
        rig, store = self.rig, self.rig.store
        store.commit(self.total)
        store.error, store.holding = None, False
        while store.held:
            store.let_go()
        for _ in range(100):
            rig.clock.advance(1.0)
            for member, _, _ in self.came:
                member.drain()
            if rig.hub.last_seq(1) < self.total:
                self.do("compare", 0, 0)

    def check(self, member: ResumingMember, begins_at: int) -> None:
        """Nothing twice, nothing out of order, and nothing left out but what retention took."""
        expected = begins_at + 1
        counted: int | None = None
        for one in member.log:
            if isinstance(one, Reset):
                assert one.reason == "expired" or expected == begins_at + 1 > one.first
                if one.reason == "beyond_head":
                    expected = one.first
                self.skipped(expected, one.first)
                expected = one.first
            elif isinstance(one, Resumed):
                self.skipped(expected, one.first)
                assert one.count == one.last - one.first + 1
                expected = one.first
                counted = one.last
            else:
                self.skipped(expected, one)
                expected = one + 1
        assert counted is None or expected > counted or expected > self.total

    def skipped(self, expected: int, found: int) -> None:
        assert found >= expected, "once and in order"
        assert set(range(expected, found)) <= self.rig.store.dropped, "only what is gone is left out"


@given(plans())
def test_all_who_come_get_each_message_once_and_in_order_whatever_happens(
    plan: tuple[int, ResumerRig, list[Event]],
) -> None:
    total, rig, events = plan
    trial = Trial(total, rig)
    for event in events:
        trial.do(*event)
    trial.settle()
    dropped = trial.rig.store.dropped
    for member, _, begins_at in trial.came:
        trial.check(member, begins_at)
        reaches = max(member.seqs, default=None)
        left = range((reaches or min(begins_at, total)) + 1, total + 1)
        if reaches is None and member.results and isinstance(member.results[-1], Reset):
            left = range(member.results[-1].first, total + 1)
        assert set(left) <= dropped, "everybody ends at the head"
    for member, log in trial.gone:
        assert member.log == log, "who has left gets nothing"
    assert trial.rig.resumer.resuming == 0
    assert trial.rig.hub.members() == ({1: len(trial.came)} if trial.came else {})
