"""Every member gets each message of its room once and in order, whatever the fan-out loses, doubles or delays."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from zope.interface.verify import verifyObject

from chatflow.contracts.history import IHistory
from chatflow.contracts.members import IMember
from chatflow.contracts.messages import StoredMessage
from chatflow.errors import Unavailable
from chatflow.rooms.hub import Hub
from tests.rooms.doubles import Member, Store, encode
from tests.support.chat import make_stored


class HubRig:
    """A hub on a clock of the test's and a store that the test fills, with a member in room 1."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.store = Store()
        self.encoded: list[int] = []
        self.hub = Hub(clock=self.clock, history=self.store, encode=self._encode)
        self.member = self.join()

    def _encode(self, messages: Sequence[StoredMessage]) -> bytes:
        self.encoded.append(len(messages))
        return encode(messages)

    def join(self, room: int = 1, on_deliver: Callable[[], object] = lambda: None) -> Member:
        member = Member(on_deliver)
        self.hub.join(room, member)
        return member

    def deliver(self, first: int, last: int, room: int = 1) -> None:
        """The fan-out brings these messages; they are stored, since it comes after the commit."""
        self.store.commit(last, room)
        self.hub.deliver(self.store.messages(first, last, room))

    def compare(self) -> Deferred[bool]:
        return Deferred.fromCoroutine(self.hub.compare_with_database())


@pytest.fixture
def rig() -> HubRig:
    return HubRig()


def test_the_doubles_of_this_test_are_what_a_hub_asks_for(rig: HubRig) -> None:
    assert verifyObject(IHistory, rig.store)
    assert verifyObject(IMember, rig.member)


class TestDelivery:
    def test_the_next_messages_go_to_every_member_in_one_block_encoded_once(self, rig: HubRig) -> None:
        other = rig.join()
        rig.deliver(1, 3)
        rig.deliver(4, 4)
        assert rig.member.blocks == other.blocks == [[1, 2, 3], [4]]
        assert rig.encoded == [3, 1]
        assert rig.store.reads == []
        assert rig.hub.last_seq(1) == 4
        assert rig.hub.delivered == 8

    def test_each_room_gets_only_its_own_messages(self, rig: HubRig) -> None:
        other = rig.join(room=2)
        rig.deliver(1, 2, room=2)
        rig.deliver(1, 1, room=1)
        assert (rig.member.blocks, other.blocks) == ([[1]], [[1, 2]])

    def test_what_was_seen_is_dropped(self, rig: HubRig) -> None:
        rig.deliver(1, 3)
        rig.deliver(1, 3)
        rig.deliver(2, 2)
        assert rig.member.blocks == [[1, 2, 3]]
        assert rig.hub.duplicates_dropped == 4

    def test_of_what_overlaps_only_the_new_is_delivered(self, rig: HubRig) -> None:
        rig.deliver(1, 3)
        rig.deliver(2, 5)
        assert rig.member.blocks == [[1, 2, 3], [4, 5]]
        assert rig.hub.duplicates_dropped == 2

    def test_a_room_without_members_costs_no_encoding_and_keeps_its_place(self, rig: HubRig) -> None:
        rig.deliver(1, 5, room=2)
        assert rig.encoded == []
        late = rig.join(room=2)
        rig.deliver(6, 6, room=2)
        assert late.blocks == [[6]]

    def test_messages_of_before_the_start_are_history(self, rig: HubRig) -> None:
        rig.store.commit(10)
        rig.hub.start_at(1, 10)
        rig.hub.deliver(rig.store.messages(9, 10))
        rig.deliver(11, 11)
        assert rig.member.blocks == [[11]]
        assert rig.store.reads == []


class TestGaps:
    def test_a_gap_is_read_from_the_database_before_what_comes_after_it(self, rig: HubRig) -> None:
        rig.deliver(1, 2)
        rig.deliver(5, 6)
        assert rig.member.seqs == [1, 2, 3, 4, 5, 6]
        assert rig.hub.gaps_filled == 1
        rig.deliver(7, 7)
        assert rig.store.reads == [(1, 2)]

    def test_what_comes_while_a_gap_is_read_comes_in_its_place(self, rig: HubRig) -> None:
        rig.store.holding = True
        rig.deliver(3, 3)
        rig.deliver(4, 6)
        rig.deliver(1, 1)
        rig.hub.announce(1, 6)
        assert rig.member.seqs == [1]
        assert len(rig.store.held) == 1, "one read at a time"
        rig.store.let_go()  # as of message 3
        assert rig.member.seqs == [1, 2, 3, 4, 5, 6]
        rig.deliver(7, 7)
        assert rig.member.seqs == [1, 2, 3, 4, 5, 6, 7]
        assert rig.store.held == []

    def test_a_gap_that_closes_by_itself_in_time_is_not_read(self, rig: HubRig) -> None:
        clock = Clock()
        hub = Hub(clock=clock, history=rig.store, encode=rig._encode, gap_timeout_seconds=lambda: 0.5)
        member = Member()
        hub.join(1, member)
        rig.store.commit(9)
        for first, last in ((5, 6), (3, 4), (8, 9), (1, 2), (7, 7)):
            hub.deliver(rig.store.messages(first, last))
        assert member.seqs == list(range(1, 10))
        clock.advance(0.5)
        assert rig.store.reads == []
        hub.deliver(rig.store.messages(9, 9))
        assert member.seqs == list(range(1, 10))

    def test_a_gap_that_stays_open_is_read_after_the_patience(self, rig: HubRig) -> None:
        clock = Clock()
        hub = Hub(clock=clock, history=rig.store, encode=rig._encode, gap_timeout_seconds=lambda: 0.5)
        member = Member()
        hub.join(1, member)
        rig.store.commit(6)
        hub.deliver(rig.store.messages(1, 1))
        hub.deliver(rig.store.messages(4, 6))
        clock.advance(0.4)
        assert member.seqs == [1]
        clock.advance(0.1)
        assert member.seqs == [1, 2, 3, 4, 5, 6]
        assert rig.store.reads == [(1, 1)]

    def test_what_is_held_behind_a_gap_is_bounded_and_the_rest_read(self, rig: HubRig) -> None:
        clock = Clock()
        hub = Hub(clock=clock, history=rig.store, encode=rig._encode, gap_timeout_seconds=lambda: 0.5)
        member = Member()
        hub.join(1, member)
        rig.store.commit(8001)
        hub.deliver(rig.store.messages(2, 4001))
        hub.deliver(rig.store.messages(4002, 8001))
        clock.advance(0.5)
        assert member.seqs == list(range(1, 8002))
        assert len(rig.store.reads) == 5

    def test_a_large_gap_is_read_in_pages(self, rig: HubRig) -> None:
        rig.deliver(2500, 2500)
        assert rig.member.seqs == list(range(1, 2501))
        assert rig.store.reads == [(1, 0), (1, 1000), (1, 2000)]

    def test_the_gap_of_one_room_holds_up_no_other(self, rig: HubRig) -> None:
        rig.store.holding = True
        other = rig.join(room=2)
        rig.deliver(5, 5, room=1)
        rig.deliver(1, 1, room=2)
        assert other.seqs == [1]

    def test_a_database_that_does_not_answer_is_asked_again(self, rig: HubRig) -> None:
        rig.store.error = Unavailable("away")
        rig.deliver(2, 2)
        for _ in range(5):
            rig.clock.advance(1.0)
        rig.deliver(3, 3)
        assert rig.member.seqs == []
        assert len(rig.store.reads) == 6
        rig.store.error = None
        rig.clock.advance(1.0)
        assert rig.member.seqs == [1, 2, 3]
        assert rig.clock.getDelayedCalls() == []

    def test_after_a_read_that_failed_for_good_the_next_message_tries_again(self, rig: HubRig) -> None:
        rig.store.error = RuntimeError("a defect")
        rig.deliver(2, 2)
        rig.store.error = None
        rig.deliver(3, 3)
        assert rig.member.seqs == [1, 2, 3]

    def test_messages_that_retention_took_are_passed_over(self, rig: HubRig) -> None:
        rig.store.commit(5)
        rig.store.drop(1, 3)
        rig.hub.deliver(rig.store.messages(5, 5))
        assert rig.member.seqs == [4, 5]
        rig.store.commit(9)
        rig.store.drop(1, 9)
        rig.hub.announce(1, 9)
        assert rig.hub.last_seq(1) == 9
        rig.hub.deliver([make_stored(10)])
        assert rig.member.seqs == [4, 5, 10]

    def test_what_is_read_around_a_hole_comes_once_each(self, rig: HubRig) -> None:
        rig.store.commit(10)
        rig.store.drop(3, 6)
        rig.store.drop(8, 8)
        rig.store.holding = True
        rig.hub.deliver(rig.store.messages(10, 10))
        rig.hub.deliver(rig.store.messages(1, 3))
        rig.store.holding = False
        rig.store.let_go()
        assert rig.member.seqs == [1, 2, 3, 7, 9, 10]


class TestAnnouncements:
    def test_what_members_lack_of_an_announced_head_is_read(self, rig: HubRig) -> None:
        rig.deliver(1, 2)
        rig.store.commit(4)
        rig.hub.announce(1, 4)
        assert rig.member.seqs == [1, 2, 3, 4]

    def test_an_announced_head_that_was_delivered_is_not_read(self, rig: HubRig) -> None:
        rig.deliver(1, 2)
        rig.hub.announce(1, 2)
        rig.hub.announce(1, 1)
        assert rig.store.reads == []

    def test_a_head_announced_while_a_gap_is_read_is_reached_by_the_same_reading(self, rig: HubRig) -> None:
        rig.store.holding = True
        rig.deliver(2, 2)
        rig.store.commit(4)
        rig.hub.announce(1, 4)
        rig.store.let_go()  # up to 2
        rig.store.let_go()  # up to 4
        assert rig.member.seqs == [1, 2, 3, 4]


class TestComparison:
    def test_a_lost_last_message_is_found_in_a_room_that_stands_still(self, rig: HubRig) -> None:
        rig.deliver(1, 2)
        rig.store.commit(3)
        rig.compare()
        rig.compare()
        assert rig.member.seqs == [1, 2, 3]

    def test_so_is_a_room_whose_every_message_was_lost(self, rig: HubRig) -> None:
        rig.store.commit(3)
        rig.compare()
        rig.compare()
        assert rig.member.seqs == [1, 2, 3]

    def test_a_busy_room_is_not_read_since_its_news_are_on_their_way(self, rig: HubRig) -> None:
        for seq in range(1, 6):
            rig.deliver(seq, seq)
            rig.store.commit(seq + 1)
            rig.compare()
        assert rig.store.reads == []
        assert rig.member.seqs == [1, 2, 3, 4, 5]
        rig.compare()
        assert rig.member.seqs == [1, 2, 3, 4, 5, 6]

    def test_a_room_that_is_up_to_date_is_not_read(self, rig: HubRig) -> None:
        rig.deliver(1, 2)
        rig.compare()
        rig.compare()
        assert rig.store.reads == []

    def test_it_tells_whether_anything_was_missing_since_the_last_one(self, rig: HubRig) -> None:
        def told() -> bool:
            return rig.compare().result  # type: ignore[return-value]

        rig.deliver(1, 2)
        assert not told()
        assert not told(), "nothing is missing"
        rig.store.commit(3)
        assert told(), "the last message of a quiet room"
        told()
        rig.deliver(4, 4)
        assert not told()
        rig.store.commit(6)
        rig.deliver(7, 7)
        assert rig.member.seqs == [1, 2, 3, 4, 5, 6, 7]
        assert told(), "a gap in a busy room"
        assert not told()

    def test_news_that_come_while_the_heads_are_read_are_delivered_once(self, rig: HubRig) -> None:
        rig.compare()
        rig.store.commit(2)
        rig.store.holding = True
        rig.compare()
        rig.deliver(1, 3)
        while rig.store.held:
            rig.store.let_go()
        assert rig.member.seqs == [1, 2, 3]

    def test_when_the_database_is_away_it_fails_and_the_next_comparison_heals(self, rig: HubRig) -> None:
        rig.store.commit(1)
        rig.compare()
        rig.store.error = Unavailable("away")
        failures: list[Any] = []
        rig.compare().addErrback(failures.append)
        assert [failure.value for failure in failures] == [rig.store.error]
        rig.store.error = None
        rig.compare()
        assert rig.member.seqs == [1]


class TestMembers:
    def test_a_member_gets_what_comes_after_it_joined_and_before_it_leaves(self, rig: HubRig) -> None:
        rig.deliver(1, 1)
        late = rig.join()
        rig.deliver(2, 2)
        rig.hub.leave(1, late)
        rig.hub.leave(1, late)
        rig.hub.leave(9, late)
        rig.deliver(3, 3)
        assert late.seqs == [2]
        assert rig.member.seqs == [1, 2, 3]

    def test_joining_twice_is_joining_once(self, rig: HubRig) -> None:
        rig.hub.join(1, rig.member)
        rig.deliver(1, 1)
        assert rig.member.seqs == [1]

    def test_a_member_that_fails_does_not_keep_others_from_their_messages(self, rig: HubRig) -> None:
        def fail_to_write() -> None:
            raise OSError("a defect")

        bad = rig.join(on_deliver=fail_to_write)
        after = rig.join()
        rig.deliver(1, 2)
        rig.deliver(3, 3)
        assert rig.member.seqs == after.seqs == bad.seqs == [1, 2, 3]
        assert rig.hub.failed == 3

    def test_a_member_may_leave_while_it_is_given_something(self, rig: HubRig) -> None:
        once = rig.join(on_deliver=lambda: rig.hub.leave(1, once))
        after = rig.join()
        rig.deliver(1, 1)
        rig.deliver(2, 2)
        assert once.seqs == [1]
        assert after.seqs == [1, 2]

    def test_a_member_that_another_makes_leave_gets_nothing_after_the_delivery_under_way(self, rig: HubRig) -> None:
        rig.join(on_deliver=lambda: rig.hub.leave(1, gone))
        gone = rig.join()
        after = rig.join()
        rig.deliver(1, 1)
        rig.deliver(2, 2)
        assert 2 not in gone.seqs
        assert after.seqs == [1, 2]

    def test_who_joins_while_another_is_given_something_gets_what_comes_next(self, rig: HubRig) -> None:
        joined: list[Member] = []
        rig.join(on_deliver=lambda: joined.append(rig.join()) if not joined else None)
        rig.deliver(1, 1)
        rig.deliver(2, 2)
        assert joined[0].seqs == [2]

    def test_rooms_with_members_are_counted(self, rig: HubRig) -> None:
        rig.join()
        rig.join(room=2)
        rig.hub.leave(2, rig.join(room=2))
        rig.hub.leave(3, rig.join(room=3))
        assert rig.hub.members() == {1: 2, 2: 1}


async def compare_if_possible(hub: Hub) -> None:
    with contextlib.suppress(Unavailable):
        await hub.compare_with_database()


@st.composite
def fan_outs(draw: st.DrawFn) -> tuple[int, list[tuple[str, int, int]]]:
    """How many messages a room gets, and what an unreliable fan-out and an unreliable database do meanwhile."""
    total = draw(st.integers(1, 30))
    seq = st.integers(1, total)
    deliveries = st.tuples(seq, seq).map(lambda pair: ("deliver", min(pair), max(pair)))
    others = st.sampled_from(["announce", "compare", "fail", "heal", "hold", "answer", "wait", "join"])
    return total, draw(st.lists(deliveries | st.tuples(others, seq, seq), max_size=40))


@given(fan_outs())
def test_members_get_each_message_once_and_in_order_whatever_happens(
    plan: tuple[int, list[tuple[str, int, int]]],
) -> None:
    total, events = plan
    rig = HubRig()
    members: list[tuple[Member, int]] = []
    for event, first, last in events:
        if event == "deliver":
            rig.deliver(first, last)
        elif event == "announce":
            rig.store.commit(last)
            rig.hub.announce(1, last)
        elif event == "compare":
            Deferred.fromCoroutine(compare_if_possible(rig.hub))
        elif event in {"fail", "heal"}:
            rig.store.error = Unavailable("away") if event == "fail" else None
        elif event == "hold":
            rig.store.holding = True
        elif event == "answer" and rig.store.held:
            rig.store.let_go()
        elif event == "wait":
            rig.clock.advance(1.0)
        elif event == "join":
            members.append((rig.join(), rig.hub.last_seq(1)))
        assert rig.member.seqs == list(range(1, len(rig.member.seqs) + 1)), f"out of order after {event}"
    # The room stands still, and the database answers.
    rig.store.commit(total)
    rig.store.error, rig.store.holding = None, False
    while rig.store.held:
        rig.store.let_go()
    for _ in range(3):
        rig.clock.advance(1.0)
        rig.compare()
    assert rig.member.seqs == list(range(1, total + 1))
    for member, joined_at in members:
        assert member.seqs == list(range(joined_at + 1, total + 1))
