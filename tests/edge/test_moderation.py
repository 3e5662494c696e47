"""What bans and mutes do to those who are connected, and to those who connect meanwhile."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from attrs import evolve

from chatflow.edge.close_codes import BANNED, DISCONNECTED
from chatflow.edge.enforcement import Enforcement, close_reason
from chatflow.edge.speakers import MAX_CHANGES, Speakers
from chatflow.rooms.rules import Rules
from tests.edge.rig import EdgeRig, Peer, rigged
from tests.rooms.test_rules import order


@pytest.fixture
def rig() -> Iterator[EdgeRig]:
    with rigged() as rig:
        yield rig


@pytest.fixture
def enforcement(rig: EdgeRig) -> Enforcement:
    return Enforcement(clock=rig.clock, connections=rig.edge.connections)


def codes(peer: Peer) -> list[object]:
    """Of errors and of a close frame."""
    return [frame.get("code") or frame["closed"] for frame in peer.frames() if "code" in frame or "closed" in frame]


def test_a_muted_user_is_refused_on_every_connection_and_others_are_not(rig: EdgeRig) -> None:
    here, there = rig.peer(), rig.peer("?userId=9&username=nobody")
    rig.edge.moderator.rules = Rules([order("mute", 7)])
    for peer in (here, there):
        peer.frames()
        peer.say("no", userId="7")
        peer.say("yes", userId="8")
        assert codes(peer) == ["muted"]
    rig.store_published(1)
    assert [frame["message"] for frame in here.frames() if "seq" in frame and "message" in frame] == ["yes", "yes"]


def test_what_was_accepted_before_is_stored_and_acknowledged(rig: EdgeRig) -> None:
    peer = rig.peer(v2=False)
    peer.say("just in time", userId="7")
    rig.edge.moderator.rules = Rules([order("mute", 7)])
    rig.store_published(1)
    assert peer.kinds() == ["SUCCESS", 1]


def test_a_ban_closes_who_said_to_be_the_user_and_leaves_who_speaks_for_many(
    rig: EdgeRig, enforcement: Enforcement
) -> None:
    named, spoken = rig.peer("?userId=7&username=somebody"), rig.peer()
    spoken.say("hello", userId="7")
    rig.store_published(1)
    ban = order("ban", 7, reason="spam")
    rig.edge.moderator.rules = Rules([ban])
    enforcement.carry_out([ban])
    assert codes(named) == [BANNED] and codes(spoken) == []
    spoken.say("hello", userId="7")
    spoken.say("hello", userId="8")
    assert codes(spoken) == ["banned"]
    assert enforcement.closed == {"ban": 1, "disconnect": 0}


def test_a_disconnection_closes_who_has_spoken_as_the_user_too_and_nobody_else(
    rig: EdgeRig, enforcement: Enforcement
) -> None:
    named, spoken, other = rig.peer("?userId=7&username=somebody"), rig.peer(), rig.peer()
    spoken.say("hello", userId="7")
    other.say("hello", userId="8")
    rig.clock.advance(1)
    enforcement.carry_out([order("disconnect", 7, reason="now")])
    assert codes(named) == [DISCONNECTED] and codes(spoken) == [DISCONNECTED] and codes(other) == []
    assert enforcement.closed == {"ban": 0, "disconnect": 2}


def test_who_came_after_a_disconnection_was_ordered_stays(rig: EdgeRig, enforcement: Enforcement) -> None:
    before = rig.peer("?userId=7&username=somebody")
    rig.clock.advance(3)
    after = rig.peer("?userId=7&username=somebody")
    rig.clock.advance(1)
    enforcement.carry_out([evolve(order("disconnect", 7), age_seconds=2.0)])
    assert codes(before) == [DISCONNECTED] and codes(after) == []


def test_a_ban_that_comes_while_a_handshake_is_under_way_closes_it_when_that_is_done(rig: EdgeRig) -> None:
    rig.edge.moderator.rules = Rules([order("ban", 7)])  # after its request was judged, which is not in this rig
    peer = rig.peer("?userId=7&username=somebody")
    assert peer.frames() == [{"closed": BANNED}]
    assert len(rig.edge.connections) == 0


def test_a_room_is_closed_in_slices_and_all_are_gone_in_the_end(rig: EdgeRig, enforcement: Enforcement) -> None:
    peers = [rig.peer() for _ in range(450)]
    for peer in peers:
        peer.frames()
    enforcement.carry_out([order("ban", room=1)])
    assert sum(BANNED in codes(peer) for peer in peers) == 200
    rig.clock.pump([0.02, 0.02])
    assert enforcement.closed["ban"] == 450


def test_a_connection_remembers_the_users_that_came_last_and_no_more() -> None:
    speakers = Speakers(5)
    for user in range(1, 1000):
        speakers.spoke(user)
        speakers.spoke(user)
    assert speakers.named == (5,)
    assert speakers.all == {5, *range(1000 - MAX_CHANGES, 1000)}


def test_a_long_reason_fits_the_close_frame_and_ends_with_a_whole_character() -> None:
    assert close_reason("short") == "short"
    assert close_reason("x" + "é" * 100) == "x" + "é" * 61
