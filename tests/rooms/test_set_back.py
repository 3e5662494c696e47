"""A room that the database has set back begins anew from there, and members are told before anything of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from chatflow.rooms.hub import Hub
from tests.rooms.doubles import Member, Store, encode


class SetBackRig:
    """A hub whose room 1 has 20 messages, all delivered to a member."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.store = Store()
        self.hub = Hub(clock=self.clock, history=self.store, encode=encode)
        self.told: list[tuple[int, int]] = []
        self.hub.on_set_back = lambda room, first: self.told.append((room, first))
        self.member = Member(lambda: None)
        self.hub.join(1, self.member)
        self.deliver(1, 20)
        self.member.blocks.clear()

    def deliver(self, first: int, last: int) -> None:
        self.store.commit(last)
        self.hub.deliver(self.store.messages(first, last))

    def restore(self, last: int) -> None:
        """The database is as it was when this was the room's last message."""
        del self.store.rooms[1][last:]

    def compare(self) -> None:
        Deferred.fromCoroutine(self.hub.compare_with_database())
        self.clock.pump([0.0, 0.0, 0.0])


@pytest.fixture
def rig() -> Iterator[SetBackRig]:
    yield SetBackRig()


def test_a_comparison_finds_it_and_what_comes_then_is_delivered(rig: SetBackRig) -> None:
    rig.restore(10)
    rig.compare()
    assert rig.told == [(1, 11)]
    assert (rig.hub.last_seq(1), rig.hub.head(1)) == (10, 10)
    rig.deliver(11, 12)
    assert rig.member.blocks == [[11, 12]]
    rig.compare()
    assert rig.told == [(1, 11)]
    assert rig.hub.rooms_set_back == 1


@pytest.mark.parametrize(("first", "last"), [(11, 11), (11, 20), (11, 25), (13, 14)])
def test_another_message_under_a_seq_that_was_seen_shows_it_at_once(rig: SetBackRig, first: int, last: int) -> None:
    rig.restore(10)
    rig.store.commit(last)
    rig.hub.deliver(rig.store.messages(first, last))
    assert rig.told == [(1, first)]
    assert rig.member.blocks == [list(range(first, last + 1))]
    assert rig.hub.last_seq(1) == last


def test_messages_that_were_seen_and_come_again_show_nothing(rig: SetBackRig) -> None:
    rig.hub.deliver(rig.store.messages(5, 20))
    rig.store.commit(22)
    rig.hub.deliver(rig.store.messages(15, 22))
    rig.compare()
    assert rig.told == []
    assert rig.member.blocks == [[21, 22]]


def test_what_was_dropped_as_seen_before_anybody_knew_is_delivered_after_all(rig: SetBackRig) -> None:
    small = Hub(clock=rig.clock, history=rig.store, encode=encode, max_replay_messages=2)
    small.on_set_back = lambda room, first: rig.told.append((room, first))
    member = Member(lambda: None)
    small.join(1, member)
    for seq in range(1, 21):
        small.deliver(rig.store.messages(seq, seq))
    member.blocks.clear()
    rig.restore(10)
    rig.store.commit(12)
    small.deliver(rig.store.messages(11, 12))  # nothing here says what was seen under these seqs
    Deferred.fromCoroutine(small.compare_with_database())
    rig.clock.pump([0.0, 0.0])
    assert rig.told == [(1, 11)]
    assert member.blocks == [[11, 12]]


def test_a_room_that_is_gone_begins_with_its_first_message(rig: SetBackRig) -> None:
    del rig.store.rooms[1]
    rig.compare()
    assert rig.told == [(1, 1)]
    rig.deliver(1, 1)
    assert rig.member.blocks == [[1]]


def test_a_member_that_is_ahead_follows_too(rig: SetBackRig) -> None:
    ahead: Any = Member(lambda: None)
    rig.hub.join(1, ahead, after=25)
    rig.restore(10)
    rig.compare()
    rig.deliver(11, 11)
    assert ahead.blocks == rig.member.blocks == [[11]]


def test_messages_that_come_while_heads_are_read_are_no_sign_of_it(rig: SetBackRig) -> None:
    rig.store.holding = True
    Deferred.fromCoroutine(rig.hub.compare_with_database())  # reads 20
    rig.deliver(21, 30)
    rig.store.holding = False
    for answer in rig.store.held:
        answer()
    assert rig.told == []
    assert rig.hub.last_seq(1) == 30


def test_a_head_that_jumps_forward_is_followed(rig: SetBackRig) -> None:
    rig.store.commit(40)
    rig.compare()
    rig.compare()
    assert rig.told == []
    assert rig.hub.last_seq(1) == 40


class Tailless(SetBackRig):
    """Room 1 has 20 messages; what was delivered is forgotten, but for the last one."""

    def __init__(self) -> None:
        super().__init__()
        self.hub = Hub(clock=self.clock, history=self.store, encode=encode, max_replays_messages=1)
        self.hub.on_set_back = lambda room, first: self.told.append((room, first))
        self.hub.join(1, self.member)
        self.deliver(1, 20)
        self.store.commit(1, room=2)
        self.hub.deliver(self.store.messages(1, 1, room=2))  # the room that was silent for longest loses its replay
        self.member.blocks.clear()

    def say(self, first: int, last: int) -> None:
        """What comes one by one, as it does at a usual pace."""
        for seq in range(first, last + 1):
            self.hub.deliver(self.store.messages(seq, seq))


def test_a_room_that_has_overtaken_what_was_seen_is_found_by_the_last_message_that_was() -> None:
    rig = Tailless()
    rig.restore(10)
    rig.store.commit(25)
    rig.say(11, 25)
    assert rig.told == [(1, 11)]
    rig.compare()
    assert rig.told == [(1, 11)]
    assert rig.member.seqs == list(range(11, 26))


def test_what_overtook_it_unseen_is_found_by_the_comparison() -> None:
    rig = Tailless()
    rig.restore(10)
    rig.store.commit(25)
    rig.say(11, 19)
    rig.say(21, 25)  # 20, which is another one now, is lost on its way
    assert rig.told == []
    rig.compare()
    assert rig.told == [(1, 11)]
    assert rig.member.seqs == [*range(21, 26), *range(11, 26)]


def test_what_is_dropped_as_seen_and_was_is_no_sign_of_it() -> None:
    rig = Tailless()
    rig.say(1, 20)
    rig.deliver(21, 22)
    rig.say(5, 21)
    rig.compare()
    assert rig.told == []
    assert rig.member.seqs == [21, 22]
