"""What resuming may cost, what it does when somebody leaves or the database fails, and the first seq that is held."""

from __future__ import annotations

import gc
import itertools
import weakref
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred

from chatflow.errors import Unavailable
from tests.rooms.doubles import Member, ResumingMember
from tests.rooms.resuming import ResumerRig


@pytest.fixture
def rig() -> ResumerRig:
    return ResumerRig()


class TestBounds:
    def test_who_reads_slowly_is_given_no_more_until_it_has_read(self) -> None:
        rig = ResumerRig(write_bytes=12)
        rig.deliver(1, 40)
        member = rig.resume(10, slow=True)
        others = rig.resume(10)
        assert member.blocks == [[11, 12, 13, 14]]
        assert others.seqs == list(range(11, 41))
        while member.seqs[-1] < 40:
            member.drain()
            rig.clock.advance(0)
        assert member.seqs == list(range(11, 41))
        assert max(map(len, member.blocks)) <= 5, "four of three bytes, and a block of the replay"

    def test_a_slow_one_has_not_joined_and_the_live_ones_do_not_wait_for_it(self, rig: ResumerRig) -> None:
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

    def test_those_who_need_the_same_page_share_one_read(self, rig: ResumerRig) -> None:
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

    def test_those_who_waited_for_the_same_page_take_turns(self, rig: ResumerRig) -> None:
        rig.deliver(1, 47)
        rig.store.holding = True
        members = [rig.begin(2)[0] for _ in range(100)]
        rig.clock.advance(0)
        rig.store.let_go()
        assert not any(member.log for member in members), "not all in the turn of the reactor that brought the page"
        rig.store.holding = False
        rig.clock.advance(0)

    def test_few_pages_are_read_at_the_same_time_and_the_rest_in_the_order_of_asking(self) -> None:
        rig = ResumerRig(reads=2)
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

    def test_the_next_page_is_read_while_one_is_written(self, rig: ResumerRig) -> None:
        rig.deliver(1, 47)
        rig.resume(0, slow=True)
        assert rig.store.pages == [(1, 1), (1, 11)]

    def test_pages_are_kept_up_to_their_limit(self) -> None:
        for cache, count in ((100_000, 1), (3 * 1300, 2)):
            rig = ResumerRig(cache=cache)
            rig.deliver(1, 54)
            assert rig.resume(0).seqs == rig.resume(0).seqs == list(range(1, 55))
            assert rig.store.pages.count((1, 1)) == count

    def test_of_the_pages_that_are_kept_the_one_used_last_stays_longest(self) -> None:
        rig = ResumerRig(cache=2 * 1300)
        for room in (1, 2, 3):
            rig.store.commit(10, room)
        for room in (1, 2, 1, 3, 1, 2):
            rig.pages.get(room, 5)
        assert rig.store.pages == [(1, 1), (2, 1), (3, 1), (2, 1)]

    def test_the_newest_page_counts_once_however_often_it_is_read(self) -> None:
        rig = ResumerRig(cache=2 * 1300)
        rig.store.commit(10, room=2)
        rig.pages.get(2, 5)
        for head in range(1, 10):
            rig.store.commit(head)
            rig.pages.get(1, head)
        assert len(rig.store.pages) == 10
        rig.pages.get(2, 5)
        assert len(rig.store.pages) == 10

    def test_the_replay_buffer_of_a_room_is_bounded(self) -> None:
        rig = ResumerRig(replay=5)
        rig.deliver(1, 100)
        assert rig.hub.replay(1, 95, 1000) == (b"96 97 98 99 100 ", 100)
        assert rig.hub.replay(1, 94, 1000) is None
        assert rig.hub.replay(1, 95, 4) == (b"96 97 ", 97)

    def test_all_tails_are_bounded_and_the_room_that_is_silent_for_longest_goes_without(self) -> None:
        rig = ResumerRig(replay=5, replays=12)
        for room in (1, 2, 3):
            rig.deliver(1, 4, room)
        rig.deliver(5, 5, 1)
        assert [rig.hub.replay(room, 0, 1000) is None for room in (1, 2, 3)] == [False, True, False]
        rig.deliver(5, 5, 2)
        assert rig.hub.replay(2, 4, 1000) == (b"5 ", 5)
        assert rig.resume(0, room=2).seqs == [1, 2, 3, 4, 5]

    @pytest.mark.parametrize("read_ms", [4, 16])
    def test_while_others_work_pages_are_read_at_a_place_in_two_fifths_of_the_time(self, read_ms: int) -> None:
        rig = ResumerRig(page_messages=100, reads=1, others_work=itertools.count().__next__)
        rig.store.commit(20_000)
        rig.hub.start_at(1, 20_000)
        rig.store.holding = True
        member = rig.resume(0)
        age_ms, given, busy_ms = 0, [0], []
        for _ in range(8):
            busy_ms.append(0)
            for _ in range(100):
                reads = bool(rig.store.held)
                rig.clock.advance(0.001)
                age_ms += reads
                busy_ms[-1] += reads
                if age_ms == read_ms:
                    rig.store.let_go()
                    age_ms = 0
            given.append(len(member.seqs))
        assert busy_ms[3:] == pytest.approx([100 * 2 / 5] * 5, abs=17)
        assert given[8] - given[3] == pytest.approx(500 * 100 / read_ms * 2 / 5, rel=0.25)
        assert member.seqs == list(range(1, len(member.seqs) + 1))

    def test_while_nobody_works_the_next_page_is_read_without_a_pause(self) -> None:
        rig = ResumerRig(page_messages=100, reads=1)
        rig.store.commit(1000)
        rig.hub.start_at(1, 1000)
        rig.store.holding = True
        rig.resume(0)
        for first in range(1, 601, 100):
            assert rig.store.pages[-1] == (1, first)
            rig.clock.advance(0.5)
            rig.store.let_go()
            rig.clock.advance(0)

    def test_what_is_kept_is_given_at_once_however_much_it_is(self) -> None:
        rig = ResumerRig(page_messages=500, cache=10_000_000)
        rig.store.commit(30_000)
        rig.hub.start_at(1, 30_000)
        assert rig.resume(0).seqs == list(range(1, 30_001))
        read = rig.pages.read
        rig.store.holding = True
        assert rig.resume(0).seqs == list(range(1, 30_001))
        assert rig.pages.read == read

    def test_after_many_turns_everybody_has_had_as_many(self) -> None:
        rig = ResumerRig(write_bytes=3)
        rig.deliver(1, 300)
        members = [rig.resume(since, slow=True) for since in (0, 0, 100, 200)]
        for _ in range(20):
            for member in members:
                member.drain()
            rig.clock.advance(0)
        assert len({len(member.blocks) for member in members}) == 1


class TestLeaving:
    @pytest.mark.parametrize("holding", [True, False])
    def test_who_leaves_on_the_way_is_given_nothing_more_and_does_not_join(
        self, rig: ResumerRig, holding: bool
    ) -> None:
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
        rig = ResumerRig(reads=1)
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

    def test_who_leaves_when_it_is_given_the_replay_buffer_has_left(self, rig: ResumerRig) -> None:
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
    def test_while_the_database_is_away_it_waits_and_misses_nothing(self, rig: ResumerRig) -> None:
        rig.deliver(1, 20)
        rig.store.error = Unavailable("away")
        waiting = [rig.resume(since) for since in (2, 19, 25)]
        rig.deliver(21, 26)
        rig.clock.pump([0.5] * 10)
        assert [member.seqs for member in waiting] == [[], list(range(20, 27)), []]
        rig.store.error = None
        rig.clock.pump([0.5, 0.5])
        assert [member.seqs for member in waiting] == [list(range(3, 27)), list(range(20, 27)), [26]]

    def test_who_waits_for_a_head_and_leaves_is_forgotten_and_the_others_are_answered(self, rig: ResumerRig) -> None:
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

    def test_nobody_asks_on_for_one_who_has_left(self, rig: ResumerRig) -> None:
        rig.deliver(1, 20)
        rig.store.error = Unavailable("away")
        _, resume = rig.begin(2)
        rig.clock.advance(0)
        resume.addErrback(lambda failure: failure.trap(CancelledError))
        resume.cancel()
        rig.clock.pump([0.5] * 10)
        assert len(rig.store.pages) <= 2
        assert rig.clock.getDelayedCalls() == []

    def test_a_defect_ends_the_resumes_that_need_what_cannot_be_read_and_no_others(self, rig: ResumerRig) -> None:
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
    def test_it_is_read_once_for_some_seconds(self, rig: ResumerRig) -> None:
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

    def test_without_messages_or_database_it_is_what_was_known_or_one(self, rig: ResumerRig) -> None:
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

    def test_a_database_that_hangs_is_not_waited_for(self, rig: ResumerRig) -> None:
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
