"""Who comes back gets all that it missed and then what is live: once each, in order, without holding up anybody."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface.verify import verifyObject

from chatflow.errors import Unavailable
from chatflow.rooms.hub import Hub
from chatflow.rooms.interfaces import IPageHistory, IResumingMember, Reset, Resumed
from chatflow.rooms.pages import Pages
from chatflow.rooms.resume import Resumer
from tests.rooms.doubles import Member, ResumingMember, Store, encode


class Rig:
    """Hub, pages (of ten messages) and a resumer, on a clock of the test's and a store that the test fills."""

    def __init__(
        self,
        *,
        tail: int = 5,
        tails: int = 1000,
        write_bytes: int = 1000,
        reads: int = 2,
        cache: int = 100_000,
        page_messages: int = 10,
    ) -> None:
        self.clock = Clock()
        self.store = Store()
        self.hub = Hub(
            clock=self.clock,
            history=self.store,
            encode=encode,
            max_tail_messages=tail,
            max_tails_messages=tails,
        )
        self.pages = Pages(
            clock=self.clock, history=self.store, concurrent_reads=reads, page_messages=page_messages, cache_bytes=cache
        )
        self.resumer = Resumer(clock=self.clock, hub=self.hub, pages=self.pages, max_write_bytes=write_bytes)

    def deliver(self, first: int, last: int, room: int = 1) -> None:
        """The fan-out brings these messages, one by one; they are stored, since it comes after the commit."""
        self.store.commit(last, room)
        for seq in range(first, last + 1):
            self.hub.deliver(self.store.messages(seq, seq, room))

    def begin(
        self, since: int | None = None, last: int | None = None, *, room: int = 1, slow: bool = False
    ) -> tuple[ResumingMember, Deferred[None]]:
        """Somebody comes; nothing is done yet."""
        member = ResumingMember(slow=slow)
        return member, self.resumer.start(room, member, since=since, last=last)

    def resume(self, since: int | None = None, last: int | None = None, **options: Any) -> ResumingMember:
        """Somebody comes, and is given all that is at hand."""
        member, _ = self.begin(since, last, **options)
        self.clock.advance(0)
        return member


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_the_doubles_are_what_is_asked_for(rig: Rig) -> None:
    assert verifyObject(IPageHistory, rig.store)
    assert verifyObject(IResumingMember, ResumingMember())


class TestWhatIsGiven:
    @pytest.mark.parametrize("since", [0, 1, 9, 10, 11, 29, 30, 46])
    def test_all_that_follows_since_comes_from_history_and_then_live(self, rig: Rig, since: int) -> None:
        rig.deliver(1, 47)
        member = rig.resume(since)
        rig.deliver(48, 50)
        assert member.log == [Resumed(since + 1, 47, 47 - since), *range(since + 1, 51)]
        assert rig.resumer.resuming == 0
        assert rig.hub.members() == {1: 1}

    def test_what_the_hub_still_has_is_not_read(self, rig: Rig) -> None:
        rig.deliver(1, 47)
        member = rig.resume(42)
        assert member.seqs == [43, 44, 45, 46, 47]
        assert rig.store.pages == []

    def test_who_lacks_nothing_is_told_so_and_reads_nothing(self, rig: Rig) -> None:
        rig.deliver(1, 47)
        member = rig.resume(47)
        rig.deliver(48, 48)
        assert member.log == [Resumed(48, 47, 0), 48]
        assert rig.store.pages == []

    @pytest.mark.parametrize(("last", "first"), [(1, 47), (5, 43), (6, 42), (30, 18), (47, 1), (1000, 1)])
    def test_the_last_so_many_come_or_fewer_if_there_are_fewer(self, rig: Rig, last: int, first: int) -> None:
        rig.deliver(1, 47)
        member = rig.resume(last=last)
        rig.deliver(48, 48)
        assert member.log == [Resumed(first, 47, 48 - first), *range(first, 49)]

    @pytest.mark.parametrize("wish", [{"since": 0}, {"last": 10}], ids=str)
    def test_in_a_room_without_messages_all_is_live(self, rig: Rig, wish: dict[str, int]) -> None:
        member = rig.resume(**wish)
        rig.deliver(1, 2)
        assert member.log == [Resumed(1, 0, 0), 1, 2]

    def test_after_a_start_without_a_tail_history_leads_to_the_head(self, rig: Rig) -> None:
        rig.store.commit(25)
        rig.hub.start_at(1, 25)
        member = rig.resume(3)
        rig.deliver(26, 27)
        assert member.log == [Resumed(4, 25, 22), *range(4, 28)]

    def test_what_is_live_while_a_page_is_read_comes_behind_it(self, rig: Rig) -> None:
        rig.deliver(1, 15)
        rig.store.holding = True
        member = rig.resume(3)
        rig.deliver(16, 40)
        while rig.store.held:
            rig.store.let_go()
            rig.clock.advance(0)
        rig.deliver(41, 41)
        assert member.log == [Resumed(4, 15, 12), *range(4, 42)]

    def test_a_page_older_than_what_the_member_has_is_read_again(self) -> None:
        rig = Rig(tail=1)
        rig.deliver(1, 12)
        rig.store.holding = True
        first = rig.resume(10)  # reads 11 and 12
        rig.deliver(13, 18)
        second = rig.resume(15)  # waits for the same page
        assert len(rig.store.held) == 1
        rig.store.holding = False
        rig.store.let_go()
        rig.clock.pump([0.1] * 5)
        assert first.log == [Resumed(11, 12, 2), *range(11, 19)]
        assert second.log == [Resumed(16, 18, 3), 16, 17, 18]

    def test_the_newest_page_is_read_again_by_who_needs_more_than_it_had(self) -> None:
        rig = Rig(tail=1)
        rig.store.commit(15)
        rig.hub.start_at(1, 15)
        assert rig.resume(12).seqs == [13, 14, 15]
        assert rig.resume(13).seqs == [14, 15]
        assert len(rig.store.pages) == 1
        rig.deliver(16, 18)
        assert rig.resume(13).seqs == [14, 15, 16, 17, 18]
        assert len(rig.store.pages) == 2


class TestAheadOfTheHub:
    def test_who_has_more_than_was_delivered_here_gets_only_what_is_new_to_it(self, rig: Rig) -> None:
        rig.deliver(1, 5)
        rig.store.commit(9)
        member = rig.resume(7)
        other = rig.resume(9)
        for seq in range(6, 12):
            rig.deliver(seq, seq)
        assert member.log == [Resumed(8, 9, 2), 8, 9, 10, 11]
        assert other.log == [Resumed(10, 9, 0), 10, 11]
        assert rig.hub.members() == {1: 2}

    def test_so_it_does_when_what_is_new_comes_in_the_middle_of_a_block(self, rig: Rig) -> None:
        rig.store.commit(9)
        member = rig.resume(7)
        rig.store.commit(12)
        rig.hub.deliver(rig.store.messages(1, 12))
        assert member.log == [Resumed(8, 9, 2), 8, 9, 10, 11, 12]

    def test_it_may_leave_before_the_hub_has_reached_it(self, rig: Rig) -> None:
        rig.store.commit(9)
        member = rig.resume(9)
        assert rig.hub.members() == {1: 1}
        rig.hub.leave(1, member)
        rig.deliver(1, 12)
        assert member.seqs == []
        assert rig.hub.members() == {}

    def test_nothing_is_left_out_when_the_hub_passes_over_what_is_gone(self, rig: Rig) -> None:
        rig.deliver(1, 5)
        rig.store.commit(20)
        members = [rig.resume(since) for since in (18, 19, 20)]
        rig.store.drop(1, 20)
        rig.hub.announce(1, 20)
        rig.store.commit(23)
        rig.hub.deliver(rig.store.messages(21, 23))
        assert [member.seqs[-3:] for member in members] == [[21, 22, 23]] * 3

    def test_the_head_is_one_that_was_read_after_it_came(self, rig: Rig) -> None:
        rig.store.holding = True
        rig.store.commit(3)
        first = rig.resume(3)  # reads the head as of 3
        rig.store.commit(4)
        second = rig.resume(4)
        while rig.store.held:
            rig.store.let_go()
            rig.clock.advance(0)
        assert first.log == [Resumed(4, 3, 0)]
        assert second.log == [Resumed(5, 4, 0)]


class TestReset:
    def test_since_beyond_the_head_is_told_and_what_is_live_follows(self, rig: Rig) -> None:
        rig.deliver(1, 47)
        member = rig.resume(48)
        rig.deliver(48, 49)
        assert member.log == [Reset("beyond_head", 48), 48, 49]

    def test_what_was_stored_while_that_was_found_out_is_live_too(self, rig: Rig) -> None:
        rig.deliver(1, 5)
        rig.store.holding = True
        member = rig.resume(99)
        rig.deliver(6, 7)
        rig.store.let_go()
        rig.clock.advance(0)
        rig.deliver(8, 8)
        assert member.log == [Reset("beyond_head", 6), 6, 7, 8]

    def test_so_is_what_was_stored_before_that_was_asked(self, rig: Rig) -> None:
        rig.deliver(1, 5)
        member, _ = rig.begin(99)
        rig.deliver(6, 7)
        rig.clock.advance(0)
        assert member.log == [Reset("beyond_head", 6), 6, 7]

    @pytest.mark.parametrize("dropped", [12, 19, 20, 25, 30, 39])
    def test_since_before_what_is_held_is_told_and_history_from_there_on_follows(self, rig: Rig, dropped: int) -> None:
        rig.deliver(1, 47)
        rig.store.drop(1, dropped)
        member = rig.resume(5)
        rig.deliver(48, 48)
        first = dropped + 1
        assert member.log == [Reset("expired", first), Resumed(first, 47, 48 - first), *range(first, 49)]

    def test_however_much_is_gone_few_pages_are_read(self, rig: Rig) -> None:
        rig.deliver(1, 5000)
        rig.store.drop(1, 4950)
        assert rig.resume(5).seqs == list(range(4951, 5001))
        assert len(rig.store.pages) <= 7

    @pytest.mark.parametrize("wish", [{"since": 0}, {"last": 40}], ids=str)
    def test_who_wants_what_there_is_is_not_told_what_there_was(self, rig: Rig, wish: dict[str, int]) -> None:
        rig.deliver(1, 47)
        rig.store.drop(1, 23)
        member = rig.resume(**wish)
        assert member.log == [Resumed(24, 47, 24), *range(24, 48)]

    def test_when_nothing_is_held_all_is_live(self) -> None:
        rig = Rig()
        rig.store.commit(47)
        rig.store.drop(1, 47)
        rig.hub.start_at(1, 47)
        members = [rig.resume(3), rig.resume(0), rig.resume(44)]
        rig.deliver(48, 48)
        assert [member.log for member in members] == [
            [Reset("expired", 48), Resumed(48, 47, 0), 48],
            [Resumed(48, 47, 0), 48],
            [Reset("expired", 48), Resumed(48, 47, 0), 48],
        ]

    def test_a_hole_in_the_middle_is_told_where_it_is(self, rig: Rig) -> None:
        rig.deliver(1, 47)
        rig.store.drop(14, 16)
        rig.store.drop(28, 33)
        member = rig.resume(11)
        assert member.log == [
            *(Resumed(12, 47, 36), 12, 13),
            *(Reset("expired", 17), Resumed(17, 47, 31), *range(17, 28)),
            *(Reset("expired", 34), Resumed(34, 47, 14), *range(34, 48)),
        ]

    def test_a_hole_that_the_hub_has_passed_over_is_told(self) -> None:
        rig = Rig(tail=1000)
        rig.deliver(1, 3)
        rig.store.commit(9)
        rig.store.drop(4, 6)
        rig.hub.announce(1, 9)
        assert rig.resume(7).seqs == [8, 9]
        assert rig.resume(2).log == [Resumed(3, 9, 7), 3, Reset("expired", 7), Resumed(7, 9, 3), 7, 8, 9]

    def test_a_hole_at_the_head_is_told(self, rig: Rig) -> None:
        rig.store.commit(47)
        rig.store.drop(44, 47)
        rig.hub.start_at(1, 47)
        member = rig.resume(40)
        rig.deliver(48, 49)
        assert member.log == [Resumed(41, 47, 7), 41, 42, 43, Reset("expired", 48), Resumed(48, 47, 0), 48, 49]

    def test_what_retention_takes_while_it_is_given_is_told(self, rig: Rig) -> None:
        rig.deliver(1, 60)
        member = rig.resume(0, slow=True)
        while 12 not in member.seqs:
            member.drain()
            rig.clock.advance(0)
        rig.store.drop(1, 45)
        while 60 not in member.seqs:
            member.drain()
            rig.clock.advance(0)
        first = member.seqs[member.seqs.index(46) - 1] + 1
        assert first < 46
        assert member.log[-17:-15] == [Reset("expired", 46), Resumed(46, 60, 15)]
        assert member.seqs == [*range(1, first), *range(46, 61)]


class TestBounds:
    def test_who_reads_slowly_is_given_no_more_until_it_has_read(self) -> None:
        rig = Rig(write_bytes=12)
        rig.deliver(1, 40)
        member = rig.resume(10, slow=True)
        others = rig.resume(10)
        assert member.blocks == [[11, 12, 13, 14]]
        assert others.seqs == list(range(11, 41))
        while member.seqs[-1] < 40:
            member.drain()
            rig.clock.advance(0)
        assert member.seqs == list(range(11, 41))
        assert max(map(len, member.blocks)) <= 5, "four of three bytes, and a block of the tail"

    def test_a_slow_one_has_not_joined_and_the_live_ones_do_not_wait_for_it(self, rig: Rig) -> None:
        rig.deliver(1, 47)
        live = Member()
        rig.hub.join(1, live)
        slow = rig.resume(5, slow=True)
        rig.deliver(48, 90)
        assert live.seqs == list(range(48, 91))
        assert slow.seqs == [6, 7, 8, 9, 10]
        while slow.seqs[-1] < 90:
            slow.drain()
            rig.clock.advance(0)
        assert slow.seqs == list(range(6, 91))

    def test_those_who_need_the_same_page_share_one_read(self, rig: Rig) -> None:
        rig.deliver(1, 47)
        rig.store.holding = True
        members = [rig.begin(since)[0] for since in range(1, 10)] * 10
        rig.clock.advance(0)
        assert rig.store.pages == [(1, 1)]
        rig.store.holding = False
        rig.store.let_go()
        rig.clock.advance(0)
        assert [len(member.seqs) for member in members] == [47 - since for since in range(1, 10)] * 10
        assert len(rig.store.pages) == 5
        assert rig.pages.read == 5
        assert rig.pages.shared > 8

    def test_those_who_waited_for_the_same_page_take_turns(self, rig: Rig) -> None:
        rig.deliver(1, 47)
        rig.store.holding = True
        members = [rig.begin(2)[0] for _ in range(100)]
        rig.clock.advance(0)
        rig.store.let_go()
        assert not any(member.log for member in members), "not all in the turn of the reactor that brought the page"
        rig.store.holding = False
        rig.clock.advance(0)

    def test_few_pages_are_read_at_the_same_time_and_the_rest_in_the_order_of_asking(self) -> None:
        rig = Rig(reads=2)
        for room in range(1, 7):
            rig.deliver(1, 20, room)
        rig.store.holding = True
        members = [rig.resume(2, room=room) for room in range(1, 7)]
        assert rig.store.pages == [(1, 1), (2, 1)]
        rig.store.let_go()
        rig.clock.advance(0)
        assert rig.store.pages == [(1, 1), (2, 1), (3, 1)], "nobody reads ahead while others wait"
        while rig.store.held:
            rig.store.let_go()
            rig.clock.advance(0)
        assert all(member.seqs == list(range(3, 21)) for member in members)

    def test_the_next_page_is_read_while_one_is_written(self, rig: Rig) -> None:
        rig.deliver(1, 47)
        rig.resume(0, slow=True)
        assert rig.store.pages == [(1, 1), (1, 11)]

    def test_pages_are_kept_up_to_their_limit(self) -> None:
        for cache, count in ((100_000, 1), (3 * 1300, 2)):
            rig = Rig(cache=cache)
            rig.deliver(1, 54)
            assert rig.resume(0).seqs == rig.resume(0).seqs == list(range(1, 55))
            assert rig.store.pages.count((1, 1)) == count

    def test_of_the_pages_that_are_kept_the_one_used_last_stays_longest(self) -> None:
        rig = Rig(cache=2 * 1300)
        for room in (1, 2, 3):
            rig.store.commit(10, room)
        for room in (1, 2, 1, 3, 1, 2):
            rig.pages.get(room, 5)
        assert rig.store.pages == [(1, 1), (2, 1), (3, 1), (2, 1)]

    def test_the_newest_page_counts_once_however_often_it_is_read(self) -> None:
        rig = Rig(cache=2 * 1300)
        rig.store.commit(10, room=2)
        rig.pages.get(2, 5)
        for head in range(1, 10):
            rig.store.commit(head)
            rig.pages.get(1, head)
        assert len(rig.store.pages) == 10
        rig.pages.get(2, 5)
        assert len(rig.store.pages) == 10

    def test_the_tail_of_a_room_is_bounded(self) -> None:
        rig = Rig(tail=5)
        rig.deliver(1, 100)
        assert rig.hub.tail(1, 95, 1000) == (b"96 97 98 99 100 ", 100)
        assert rig.hub.tail(1, 94, 1000) is None
        assert rig.hub.tail(1, 95, 4) == (b"96 97 ", 97)

    def test_all_tails_are_bounded_and_the_room_that_is_silent_for_longest_goes_without(self) -> None:
        rig = Rig(tail=5, tails=12)
        for room in (1, 2, 3):
            rig.deliver(1, 4, room)
        rig.deliver(5, 5, 1)
        assert [rig.hub.tail(room, 0, 1000) is None for room in (1, 2, 3)] == [False, True, False]
        rig.deliver(5, 5, 2)
        assert rig.hub.tail(2, 4, 1000) == (b"5 ", 5)
        assert rig.resume(0, room=2).seqs == [1, 2, 3, 4, 5]

    def test_nobody_is_given_more_than_so_many_in_a_second(self) -> None:
        rig = Rig(page_messages=500)
        rig.store.commit(30_000)
        rig.hub.start_at(1, 30_000)
        member = rig.resume(0)
        counts = [len(member.seqs)]
        for _ in range(5):
            rig.clock.pump([0.001] * 100)
            counts.append(len(member.seqs))
        assert counts == pytest.approx([3000, 9000, 15_000, 21_000, 27_000, 30_000], abs=600)
        assert member.seqs == list(range(1, 30_001))

    def test_after_many_turns_everybody_has_had_as_many(self) -> None:
        rig = Rig(write_bytes=3)
        rig.deliver(1, 300)
        members = [rig.resume(since, slow=True) for since in (0, 0, 100, 200)]
        for _ in range(20):
            for member in members:
                member.drain()
            rig.clock.advance(0)
        assert len({len(member.blocks) for member in members}) == 1


class TestLeaving:
    @pytest.mark.parametrize("holding", [True, False])
    def test_who_leaves_on_the_way_is_given_nothing_more_and_does_not_join(self, rig: Rig, holding: bool) -> None:
        rig.deliver(1, 47)
        rig.store.holding = holding
        member, resume = rig.begin(3, slow=True)
        stays, _ = rig.begin(3)
        rig.clock.advance(0)
        given = list(member.log)
        failures: list[Any] = []
        resume.addErrback(failures.append)
        resume.cancel()
        assert failures[0].check(CancelledError)
        rig.store.holding = False
        while rig.store.held:
            rig.store.let_go()
        member.drain()
        rig.deliver(48, 48)
        rig.clock.advance(1)
        assert member.log == given
        assert stays.seqs == list(range(4, 49))
        assert rig.hub.members() == {1: 1}
        assert rig.resumer.resuming == 0

    def test_a_page_that_nobody_waits_for_any_more_is_not_read(self) -> None:
        rig = Rig(reads=1)
        rig.deliver(1, 20, 1)
        rig.deliver(1, 20, 2)
        rig.store.holding = True
        rig.resume(3, room=1)
        _, resume = rig.begin(3, room=2)
        rig.clock.advance(0)
        resume.addErrback(lambda failure: failure.trap(CancelledError))
        resume.cancel()
        rig.store.let_go()
        rig.clock.advance(0)
        assert {room for room, _ in rig.store.pages} == {1}

    def test_who_leaves_when_it_is_given_the_tail_has_left(self, rig: Rig) -> None:
        class Leaving(ResumingMember):
            def deliver(self, block: bytes) -> None:
                super().deliver(block)
                rig.hub.leave(1, self)

        rig.deliver(1, 5)
        member = Leaving()
        rig.resumer.start(1, member, since=3, last=None)
        rig.clock.advance(0)
        rig.deliver(6, 6)
        assert member.seqs == [4, 5]
        assert rig.hub.members() == {}


class TestFailures:
    def test_while_the_database_is_away_it_waits_and_misses_nothing(self, rig: Rig) -> None:
        rig.deliver(1, 20)
        rig.store.error = Unavailable("away")
        waiting = [rig.resume(since) for since in (2, 19, 25)]
        rig.deliver(21, 26)
        rig.clock.pump([0.5] * 10)
        assert [member.seqs for member in waiting] == [[], list(range(20, 27)), []]
        rig.store.error = None
        rig.clock.pump([0.5, 0.5])
        assert [member.seqs for member in waiting] == [list(range(3, 27)), list(range(20, 27)), [26]]

    def test_who_waits_for_a_head_and_leaves_is_forgotten_and_the_others_are_answered(self, rig: Rig) -> None:
        rig.store.error = Unavailable("away")
        staying: list[int] = []
        leaving = [rig.pages.head(1) for _ in range(5)]
        rig.pages.head(1).addCallback(staying.append)
        leaving += [rig.pages.head(1) for _ in range(5)]
        left = [weakref.ref(one) for one in leaving]
        while leaving:
            one = leaving.pop()
            one.addErrback(lambda failure: failure.trap(CancelledError))
            one.cancel()
        del one
        gc.collect()
        assert [reference() for reference in left] == [None] * 10
        rig.store.error = None
        rig.clock.advance(1)
        assert staying == [0]
        assert rig.clock.getDelayedCalls() == []

    def test_nobody_asks_on_for_one_who_has_left(self, rig: Rig) -> None:
        rig.deliver(1, 20)
        rig.store.error = Unavailable("away")
        _, resume = rig.begin(2)
        rig.clock.advance(0)
        resume.addErrback(lambda failure: failure.trap(CancelledError))
        resume.cancel()
        rig.clock.pump([0.5] * 10)
        assert len(rig.store.pages) <= 2
        assert rig.clock.getDelayedCalls() == []

    def test_a_defect_ends_the_resumes_that_need_what_cannot_be_read_and_no_others(self, rig: Rig) -> None:
        rig.deliver(1, 20)
        rig.store.error = RuntimeError("a defect")
        failures: list[Any] = []
        for since in (2, 50):
            rig.begin(since)[1].addErrback(failures.append)
        other = rig.resume(18)
        rig.clock.advance(0)
        assert [failure.value for failure in failures] == [rig.store.error] * 2
        assert other.seqs == [19, 20]
        rig.store.error = None
        assert rig.resume(2).seqs == list(range(3, 21))


class TestFirstSeq:
    def test_it_is_read_once_for_some_seconds(self, rig: Rig) -> None:
        rig.deliver(1, 20)
        rig.store.drop(1, 7)
        found: list[int] = []
        rig.store.holding = True
        for _ in range(3):
            Deferred.fromCoroutine(rig.resumer.first_seq(1)).addCallback(found.append)
        assert len(rig.store.held) == 1
        rig.store.let_go()
        rig.store.holding = False
        rig.store.drop(1, 9)
        Deferred.fromCoroutine(rig.resumer.first_seq(1)).addCallback(found.append)
        assert found == [8, 8, 8, 8]
        rig.clock.advance(11)
        Deferred.fromCoroutine(rig.resumer.first_seq(1)).addCallback(found.append)
        assert found[-1] == 10

    def test_without_messages_or_database_it_is_what_was_known_or_one(self, rig: Rig) -> None:
        found: list[int] = []
        Deferred.fromCoroutine(rig.resumer.first_seq(3)).addCallback(found.append)
        rig.deliver(1, 20)
        rig.store.drop(1, 7)
        Deferred.fromCoroutine(rig.resumer.first_seq(1)).addCallback(found.append)
        rig.clock.advance(11)
        rig.store.error = Unavailable("away")
        Deferred.fromCoroutine(rig.resumer.first_seq(1)).addCallback(found.append)
        Deferred.fromCoroutine(rig.resumer.first_seq(2)).addCallback(found.append)
        assert found == [1, 8, 8, 1]

    def test_a_database_that_hangs_is_not_waited_for(self, rig: Rig) -> None:
        rig.deliver(1, 20)
        rig.store.drop(1, 7)
        rig.store.holding = True
        found: list[int] = []
        for _ in range(2):
            Deferred.fromCoroutine(rig.resumer.first_seq(1)).addCallback(found.append)
        rig.clock.advance(2)
        assert found == [1, 1]
        # Who comes now waits for the same read, as long as the others did.
        Deferred.fromCoroutine(rig.resumer.first_seq(1)).addCallback(found.append)
        assert len(rig.store.held) == 1
        rig.clock.advance(2)
        assert found == [1, 1, 1]
        Deferred.fromCoroutine(rig.resumer.first_seq(1)).addCallback(found.append)
        rig.store.let_go()
        Deferred.fromCoroutine(rig.resumer.first_seq(1)).addCallback(found.append)
        assert found == [1, 1, 1, 8, 8]
        assert rig.clock.getDelayedCalls() == []


Event = tuple[str, int, int]

_EVENTS = ["announce", "compare", "fail", "heal", "hold", "answer", "answer", "turn", "turn", "wait", "drain", "leave"]


@st.composite
def plans(draw: st.DrawFn) -> tuple[int, Rig, list[Event]]:
    """How many messages a room gets, and what happens meanwhile to those who come back."""
    rig = Rig(
        tail=draw(st.sampled_from([1, 4, 20])),
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

    def __init__(self, total: int, rig: Rig) -> None:
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
    plan: tuple[int, Rig, list[Event]],
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
