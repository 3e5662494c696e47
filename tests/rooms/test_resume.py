"""Who comes back gets all that it missed and then what is live: once each, in order, without holding up anybody."""

from __future__ import annotations

import pytest
from zope.interface.verify import verifyObject

from chatflow.contracts.history import IPageHistory
from chatflow.contracts.members import IResumingMember, Reset, Resumed
from tests.rooms.doubles import ResumingMember
from tests.rooms.resuming import ResumerRig


@pytest.fixture
def rig() -> ResumerRig:
    return ResumerRig()


def test_the_doubles_are_what_is_asked_for(rig: ResumerRig) -> None:
    assert verifyObject(IPageHistory, rig.store)
    assert verifyObject(IResumingMember, ResumingMember())


class TestWhatIsGiven:
    @pytest.mark.parametrize("since", [0, 1, 9, 10, 11, 29, 30, 46])
    def test_all_that_follows_since_comes_from_history_and_then_live(self, rig: ResumerRig, since: int) -> None:
        rig.deliver(1, 47)
        member = rig.resume(since)
        rig.deliver(48, 50)
        assert member.log == [Resumed(since + 1, 47, 47 - since), *range(since + 1, 51)]
        assert rig.resumer.resuming == 0
        assert rig.hub.members() == {1: 1}

    def test_what_the_hub_still_has_is_not_read(self, rig: ResumerRig) -> None:
        rig.deliver(1, 47)
        member = rig.resume(42)
        assert member.seqs == [43, 44, 45, 46, 47]
        assert rig.store.pages == []

    def test_who_lacks_nothing_is_told_so_and_reads_nothing(self, rig: ResumerRig) -> None:
        rig.deliver(1, 47)
        member = rig.resume(47)
        rig.deliver(48, 48)
        assert member.log == [Resumed(48, 47, 0), 48]
        assert rig.store.pages == []

    @pytest.mark.parametrize(("last", "first"), [(1, 47), (5, 43), (6, 42), (30, 18), (47, 1), (1000, 1)])
    def test_the_last_so_many_come_or_fewer_if_there_are_fewer(self, rig: ResumerRig, last: int, first: int) -> None:
        rig.deliver(1, 47)
        member = rig.resume(last=last)
        rig.deliver(48, 48)
        assert member.log == [Resumed(first, 47, 48 - first), *range(first, 49)]

    @pytest.mark.parametrize("wish", [{"since": 0}, {"last": 10}], ids=str)
    def test_in_a_room_without_messages_all_is_live(self, rig: ResumerRig, wish: dict[str, int]) -> None:
        member = rig.resume(**wish)
        rig.deliver(1, 2)
        assert member.log == [Resumed(1, 0, 0), 1, 2]

    def test_after_a_start_without_a_replay_buffer_history_leads_to_the_head(self, rig: ResumerRig) -> None:
        rig.store.commit(25)
        rig.hub.start_at(1, 25)
        member = rig.resume(3)
        rig.deliver(26, 27)
        assert member.log == [Resumed(4, 25, 22), *range(4, 28)]

    def test_what_is_live_while_a_page_is_read_comes_behind_it(self, rig: ResumerRig) -> None:
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
        rig = ResumerRig(replay=1)
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
        rig = ResumerRig(replay=1)
        rig.store.commit(15)
        rig.hub.start_at(1, 15)
        assert rig.resume(12).seqs == [13, 14, 15]
        assert rig.resume(13).seqs == [14, 15]
        assert len(rig.store.pages) == 1
        rig.deliver(16, 18)
        assert rig.resume(13).seqs == [14, 15, 16, 17, 18]
        assert len(rig.store.pages) == 2


class TestAheadOfTheHub:
    def test_who_has_more_than_was_delivered_here_gets_only_what_is_new_to_it(self, rig: ResumerRig) -> None:
        rig.deliver(1, 5)
        rig.store.commit(9)
        member = rig.resume(7)
        other = rig.resume(9)
        for seq in range(6, 12):
            rig.deliver(seq, seq)
        assert member.log == [Resumed(8, 9, 2), 8, 9, 10, 11]
        assert other.log == [Resumed(10, 9, 0), 10, 11]
        assert rig.hub.members() == {1: 2}

    def test_so_it_does_when_what_is_new_comes_in_the_middle_of_a_block(self, rig: ResumerRig) -> None:
        rig.store.commit(9)
        member = rig.resume(7)
        rig.store.commit(12)
        rig.hub.deliver(rig.store.messages(1, 12))
        assert member.log == [Resumed(8, 9, 2), 8, 9, 10, 11, 12]

    def test_it_may_leave_before_the_hub_has_reached_it(self, rig: ResumerRig) -> None:
        rig.store.commit(9)
        member = rig.resume(9)
        assert rig.hub.members() == {1: 1}
        rig.hub.leave(1, member)
        rig.deliver(1, 12)
        assert member.seqs == []
        assert rig.hub.members() == {}

    def test_nothing_is_left_out_when_the_hub_passes_over_what_is_gone(self, rig: ResumerRig) -> None:
        rig.deliver(1, 5)
        rig.store.commit(20)
        members = [rig.resume(since) for since in (18, 19, 20)]
        rig.store.drop(1, 20)
        rig.hub.announce(1, 20)
        rig.store.commit(23)
        rig.hub.deliver(rig.store.messages(21, 23))
        assert [member.seqs[-3:] for member in members] == [[21, 22, 23]] * 3

    def test_the_head_is_one_that_was_read_after_it_came(self, rig: ResumerRig) -> None:
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
    def test_since_beyond_the_head_is_told_and_what_is_live_follows(self, rig: ResumerRig) -> None:
        rig.deliver(1, 47)
        member = rig.resume(48)
        rig.deliver(48, 49)
        assert member.log == [Reset("beyond_head", 48), 48, 49]

    def test_what_was_stored_while_that_was_found_out_is_live_too(self, rig: ResumerRig) -> None:
        rig.deliver(1, 5)
        rig.store.holding = True
        member = rig.resume(99)
        rig.deliver(6, 7)
        rig.store.let_go()
        rig.clock.advance(0)
        rig.deliver(8, 8)
        assert member.log == [Reset("beyond_head", 6), 6, 7, 8]

    def test_so_is_what_was_stored_before_that_was_asked(self, rig: ResumerRig) -> None:
        rig.deliver(1, 5)
        member, _ = rig.begin(99)
        rig.deliver(6, 7)
        rig.clock.advance(0)
        assert member.log == [Reset("beyond_head", 6), 6, 7]

    @pytest.mark.parametrize("dropped", [12, 19, 20, 25, 30, 39])
    def test_since_before_what_is_held_is_told_and_history_from_there_on_follows(
        self, rig: ResumerRig, dropped: int
    ) -> None:
        rig.deliver(1, 47)
        rig.store.drop(1, dropped)
        member = rig.resume(5)
        rig.deliver(48, 48)
        first = dropped + 1
        assert member.log == [Reset("expired", first), Resumed(first, 47, 48 - first), *range(first, 49)]

    def test_however_much_is_gone_few_pages_are_read(self, rig: ResumerRig) -> None:
        rig.deliver(1, 5000)
        rig.store.drop(1, 4950)
        assert rig.resume(5).seqs == list(range(4951, 5001))
        assert len(rig.store.pages) <= 7

    @pytest.mark.parametrize("wish", [{"since": 0}, {"last": 40}], ids=str)
    def test_who_wants_what_there_is_is_not_told_what_there_was(self, rig: ResumerRig, wish: dict[str, int]) -> None:
        rig.deliver(1, 47)
        rig.store.drop(1, 23)
        member = rig.resume(**wish)
        assert member.log == [Resumed(24, 47, 24), *range(24, 48)]

    def test_when_nothing_is_held_all_is_live(self) -> None:
        rig = ResumerRig()
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

    def test_a_hole_in_the_middle_is_told_where_it_is(self, rig: ResumerRig) -> None:
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
        rig = ResumerRig(replay=1000)
        rig.deliver(1, 3)
        rig.store.commit(9)
        rig.store.drop(4, 6)
        rig.hub.announce(1, 9)
        assert rig.resume(7).seqs == [8, 9]
        assert rig.resume(2).log == [Resumed(3, 9, 7), 3, Reset("expired", 7), Resumed(7, 9, 3), 7, 8, 9]

    def test_a_hole_at_the_head_is_told(self, rig: ResumerRig) -> None:
        rig.store.commit(47)
        rig.store.drop(44, 47)
        rig.hub.start_at(1, 47)
        member = rig.resume(40)
        rig.deliver(48, 49)
        assert member.log == [Resumed(41, 47, 7), 41, 42, 43, Reset("expired", 48), Resumed(48, 47, 0), 48, 49]

    def test_what_retention_takes_while_it_is_given_is_told(self, rig: ResumerRig) -> None:
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
