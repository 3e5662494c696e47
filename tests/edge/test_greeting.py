"""From the handshake to the live messages: the welcome is first, and all that is beyond its head follows."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from twisted.internet.defer import Deferred

from chatflow.edge.sweep import Sweep
from chatflow.edge.v2 import HEARTBEAT_SECONDS
from tests.edge.rig import EdgeRig, Peer, rigged


@pytest.fixture
def rig() -> Iterator[EdgeRig]:
    with rigged() as rig:
        yield rig


def slow_welcome(rig: EdgeRig, query: str = "") -> Peer:
    """Somebody whose welcome waits for the database."""
    rig.store.holding = True
    peer = rig.peer(query)
    assert peer.frames() == []
    return peer


def test_what_is_delivered_while_the_welcome_waits_follows_it(rig: EdgeRig) -> None:
    rig.deliver(1, 5)
    peer = slow_welcome(rig)
    rig.deliver(6, 7)
    rig.store.let_go()
    rig.deliver(8, 8)
    welcome, *others = peer.frames()
    assert (welcome["type"], welcome["head"], welcome["first"]) == ("welcome", 5, 1)
    assert [frame["seq"] for frame in others] == [6, 7, 8]


def test_what_a_client_says_while_its_welcome_waits_it_hears_too(rig: EdgeRig) -> None:
    peer = slow_welcome(rig)
    peer.say("mine", clientMessageId="own")
    rig.store_published(1)
    rig.store.let_go()
    welcome, *others = peer.frames()
    assert (welcome["type"], welcome["head"]) == ("welcome", 0)
    ack, *rest = others
    assert ack["status"] == "SUCCESS"
    assert sorted(frame.get("type", "broadcast") for frame in rest) == ["broadcast", "stored"]


def test_what_is_known_to_be_stored_and_not_here_yet_is_not_live(rig: EdgeRig) -> None:
    rig.deliver(1, 5)
    rig.store.commit(7)
    rig.store.holding = True
    rig.hub.announce(1, 7)
    peer = rig.peer()
    for _ in range(2):
        rig.store.let_go()
    rig.deliver(8, 8)
    welcome, *others = peer.frames()
    assert (welcome["head"], [frame["seq"] for frame in others]) == (7, [8])


def test_a_room_that_is_set_back_while_the_welcome_waits_has_its_new_head_in_it(rig: EdgeRig) -> None:
    rig.deliver(1, 5)
    peer = slow_welcome(rig)
    rig.edge.connections.set_back(1, 3)
    rig.store.let_go()
    welcome, reset = peer.frames()
    assert (welcome["type"], welcome["head"]) == ("welcome", 2)
    assert reset == {"type": "reset", "reason": "restored", "from": 3}


def test_what_waits_behind_a_welcome_is_limited() -> None:
    with rigged(max_client_buffer_bytes=2000) as rig:
        peer = slow_welcome(rig)
        rig.deliver(1, 30)
        kinds = peer.kinds()
        assert kinds[0] == "welcome"
        assert kinds[1:-1] == list(range(1, len(kinds) - 1))
        assert 2 < len(kinds) < 15
        assert kinds[-1] == 1013
        assert rig.hub.members() == {}
        assert rig.edge.counters.slow_clients_closed == 1


def test_what_waited_behind_a_welcome_does_not_count_later() -> None:
    with rigged(max_client_buffer_bytes=2000) as rig:
        peer = slow_welcome(rig)
        rig.deliver(1, 5)
        rig.store.let_go()
        peer.transport.stalls()
        rig.deliver(6, 10)
        peer.transport.takes(100_000)
        assert peer.kinds() == ["welcome", *range(1, 11)]


def test_a_drain_while_the_welcome_waits_loses_neither_answers_nor_the_goodbye(rig: EdgeRig) -> None:
    peer = slow_welcome(rig)
    peer.say("mine")
    rig.store_published(1)
    Deferred.fromCoroutine(rig.edge.connections.close_all())
    kinds = peer.kinds()
    assert kinds[0] == "welcome"
    assert kinds[-2:] == ["goodbye", 1012]
    assert "SUCCESS" in kinds


class TestHeartbeats:
    @pytest.fixture
    def sweep(self, rig: EdgeRig) -> Iterator[Sweep]:
        sweep = Sweep(
            clock=rig.clock,
            connections=rig.edge.connections,
            interval_seconds=HEARTBEAT_SECONDS,
            visit=lambda each: each.tell_head(),
        )
        sweep.start()
        yield sweep
        sweep.stop()

    def turn(self, rig: EdgeRig) -> None:
        """Everybody has had a turn, and a half."""
        rig.clock.pump([0.5] * round(HEARTBEAT_SECONDS * 3))

    @pytest.mark.usefixtures("sweep")
    def test_they_tell_what_was_delivered(self, rig: EdgeRig) -> None:
        peer, plain = rig.peer(), rig.peer(v2=False)
        rig.deliver(1, 3)
        self.turn(rig)
        *_, heartbeat = peer.frames()
        assert heartbeat == {"type": "heartbeat", "head": 3}
        assert plain.kinds() == [1, 2, 3]

    @pytest.mark.usefixtures("sweep")
    def test_none_comes_ahead_of_the_welcome(self, rig: EdgeRig) -> None:
        peer = slow_welcome(rig)
        peer.protocol.tell_head()
        rig.store.let_go()
        assert peer.kinds() == ["welcome"]
        self.turn(rig)
        assert set(peer.kinds()) == {"heartbeat"}

    def test_none_comes_while_history_does(self, rig: EdgeRig) -> None:
        rig.deliver(1, 3)
        peer = slow_welcome(rig, "?since=1")
        peer.protocol.tell_head()
        rig.store.let_go()
        peer.protocol.tell_head()
        rig.clock.advance(0)
        peer.protocol.tell_head()
        assert peer.kinds() == ["welcome", "resumed", 2, 3, "heartbeat"]


class TestLeavingWhileResuming:
    @pytest.mark.parametrize("since", [0, 3])
    def test_who_is_closed_by_what_it_is_given_itself_is_a_member_no_more(self, since: int) -> None:
        with rigged(max_client_buffer_bytes=30) as rig:
            rig.deliver(1, 3)
            peer = rig.peer(f"?since={since}")
            peer.transport.stalls()  # it does not read
            rig.clock.pump([0] * 5)
            assert peer.kinds() == ["welcome", 1013]
            assert (rig.hub.members(), rig.resumer.resuming) == ({}, 0)

    def test_so_it_is_when_history_comes_from_the_database(self) -> None:
        with rigged(max_client_buffer_bytes=100) as rig:
            rig.store.commit(2000)
            rig.hub.start_at(1, 2000)
            peer = rig.peer("?since=0")
            peer.transport.stalls()
            rig.clock.pump([0] * 5)
            assert peer.kinds() == ["welcome", 1013], "what waits for who does not read is dropped"
            assert (rig.hub.members(), rig.resumer.resuming) == ({}, 0)

    def test_whose_room_is_set_back_in_the_midst_of_it_has_to_come_back(self, rig: EdgeRig) -> None:
        rig.deliver(1, 3)
        peer = rig.peer("?since=1")
        rig.edge.connections.set_back(1, 2)
        rig.clock.pump([0] * 5)
        assert peer.kinds() == ["welcome", 1012]
        assert (rig.hub.members(), rig.resumer.resuming) == ({}, 0)

    def test_who_leaves_in_the_midst_of_it_is_a_member_no_more(self, rig: EdgeRig) -> None:
        rig.deliver(1, 3)
        peer = rig.peer("?since=1")
        peer.protocol.leave(1012, "so")
        rig.clock.pump([0] * 5)
        assert peer.kinds() == ["welcome", 1012]
        assert (rig.hub.members(), rig.resumer.resuming) == ({}, 0)
