"""What one address, one connection and one user may send, at the edge of each limit; without sockets."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from chatflow.config import TABLE
from chatflow.contracts.identity import Identity
from chatflow.edge.accounts import BURST_SECONDS, LOOKS_PER_MESSAGE, LOOKS_PER_SECOND, Accounts, Bucket
from chatflow.edge.admission import LONG_RESUME_MESSAGES, Admission
from chatflow.edge.connect_parameters import ConnectParameters
from chatflow.edge.limits import EdgeLimits, LimitsInForce
from chatflow.edge.pace import READ_AT_ONCE_BYTES, READ_BYTES, SHORTEST_REST_SECONDS
from chatflow.edge.quota import MAX_REFUSALS_IN_A_ROW
from chatflow.edge.refusals import RequestRefused
from chatflow.errors import StartupError
from chatflow.networks import site_of
from testbed.client import BINARY, CLOSE, PING, TEXT, client_frame, message
from tests.edge.rig import EdgeRig, Peer, rigged

_BURST = int(BURST_SECONDS)
_IP, _OTHER = "192.0.2.1", "198.51.100.1"


def accepted(peer: Peer, count: int) -> list[bool]:
    """Which of so many messages are not refused as too many. A plain connection is told nothing else at once."""
    found = []
    for _ in range(count):
        peer.say("x")
        found.append(not [frame for frame in peer.frames() if frame.get("code") in ("rate_limited", "overloaded")])
    return found


def reads_paused(rig: EdgeRig) -> int:
    """How often somebody is not read any more."""
    return rig.edge.counters.reads_paused


@contextmanager
def limited(**limits: Any) -> Iterator[EdgeRig]:
    with rigged(**limits) as rig:
        yield rig


class TestBucket:
    @given(rate=st.floats(0.01, 1000), steps=st.lists(st.tuples(st.floats(0, 5), st.floats(0.01, 20)), max_size=60))
    def test_it_never_lets_through_more_than_a_burst_and_the_rate(
        self, rate: float, steps: list[tuple[float, float]]
    ) -> None:
        bucket, now, taken = Bucket(), 1000.0, 0.0
        for pause, cost in steps:
            now += pause
            wait = bucket.take(now, rate, cost)
            if not wait:
                taken += cost
            else:
                assert not bucket.take(now + wait, rate, cost), "after the wait it is there"
                return
            assert taken <= rate * (BURST_SECONDS + now - 1000) * 1.001 + cost

    def test_what_costs_more_than_it_holds_needs_a_full_one(self) -> None:
        bucket = Bucket()
        assert bucket.take(0, 1, 50) == 0
        assert bucket.take(0, 1, 50) == pytest.approx(50)
        assert bucket.take(50, 1, 50) == 0


class TestMessages:
    def test_of_one_connection_a_burst_passes_and_one_more_is_refused(self) -> None:
        with limited(messages_per_second=2) as rig:
            peer = rig.peer(v2=False, ip=_IP)
            assert accepted(peer, 2 * _BURST + 1) == [True] * 2 * _BURST + [False]
            peer.say("x")
            (refused,) = peer.frames()
            assert (refused["code"], refused["retryAfterMs"]) == ("rate_limited", 500)
            assert rig.edge.accounts.limited["message_rate"] == 2
            assert accepted(rig.peer(v2=False, ip=_IP), 1) == [True], "another connection has a rate of its own"

    def test_when_it_was_said_to_it_passes(self) -> None:
        with limited(messages_per_second=2) as rig:
            peer = rig.peer(v2=False, ip=_IP)
            accepted(peer, 2 * _BURST + 1)
            assert reads_paused(rig) == 1
            rig.clock.advance(0.5)
            assert accepted(peer, 2) == [True, False]

    def test_of_many_that_come_at_once_one_is_refused_and_the_others_wait_for_their_turn(self) -> None:
        with limited(messages_per_second=2) as rig:
            peer = rig.peer(v2=False, ip=_IP)
            frame = client_frame(TEXT, json.dumps(message("x")).encode())
            peer.protocol.dataReceived(frame * (2 * _BURST + 4) + client_frame(PING, b"x") + frame[:9])
            assert [one["code"] for one in peer.frames()] == ["rate_limited"]
            assert rig.edge.ingress.accepted == 2 * _BURST
            peer.protocol.dataReceived(frame[9:])
            for _ in range(9):
                rig.clock.advance(0.5)
            assert rig.edge.ingress.accepted + rig.edge.counters.messages_refused == 2 * _BURST + 5
            assert rig.edge.counters.messages_refused <= 4
            assert b"\x8a\x01x" in peer.transport.value()

    def test_who_closes_amid_what_waits_is_closed(self) -> None:
        with limited(messages_per_second=2) as rig:
            peer = rig.peer(v2=False, ip=_IP)
            frame = client_frame(TEXT, json.dumps(message("x")).encode())
            peer.protocol.dataReceived(frame * (2 * _BURST + 4) + client_frame(CLOSE, b"\x03\xe8"))
            assert peer.protocol.is_live
            peer.protocol.leave(1012, "the server restarts")
            assert peer.transport.disconnecting or peer.transport.aborted

    def test_all_connections_of_an_address_share_its_rate(self) -> None:
        with limited(messages_per_second_per_address=1) as rig:
            one, two = rig.peer(v2=False, ip="2001:db8::1"), rig.peer(v2=False, ip="2001:db8::2:1")
            assert accepted(one, _BURST - 1) + accepted(two, 2) == [True] * _BURST + [False]
            assert accepted(rig.peer(v2=False, ip="2001:db8:0:1::1"), 1) == [True], "another network of 64 bits"
            assert rig.edge.accounts.limited["address_message_rate"] == 1

    def test_of_an_address_everybody_who_was_refused_has_his_turn_and_is_refused_no_more_often(self) -> None:
        with limited(messages_per_second_per_address=10) as rig:
            crowd = [rig.peer(v2=False, ip=_IP) for _ in range(30)]
            frame = client_frame(TEXT, json.dumps(message("x")).encode())
            for peer in crowd:
                peer.protocol.dataReceived(frame * 50)
            counters, ingress = rig.edge.counters, rig.edge.ingress
            rig.clock.pump([1 / LOOKS_PER_SECOND] * 20)  # one after the other, see below
            rig.clock.advance(0.005)
            assert (ingress.accepted, counters.messages_refused) == (10 * _BURST + 2, 30 + 2), "after 0.2 s"
            for _ in range(100):
                rig.clock.advance(0.1)
                rig.store_published(1)
            # With each message that is accepted one is refused: not one for each of the connections.
            assert (ingress.accepted, counters.messages_refused) == (10 * _BURST + 102, 30 + 102)
            refused = [
                [frame["retryAfterMs"] for frame in peer.frames() if frame.get("code") == "rate_limited"]
                for peer in crowd
            ]
            assert all(4 <= len(times) <= 5 for times in refused)
            assert max(refused[-1]) == pytest.approx(3000, abs=5)

    def test_of_what_comes_on_many_connections_at_once_a_little_is_read_at_a_time_and_everything_in_its_order(
        self,
    ) -> None:
        with limited(messages_per_second_per_address=100) as rig:
            crowd = [rig.peer(v2=False, ip=_IP) for _ in range(30)]
            for peer in crowd:
                peer.say("one")
                peer.protocol.dataReceived(
                    client_frame(TEXT, json.dumps(message("two")).encode()) + client_frame(PING, b"x")
                )
            rate = 100 * LOOKS_PER_MESSAGE
            assert rig.edge.ingress.accepted < 30, "the first few at once"
            assert rig.edge.counters.messages_refused == 0
            for _ in range(100):
                before = rig.edge.ingress.accepted
                rig.clock.advance(4 / rate)
                assert rig.edge.ingress.accepted - before <= 4 * 2
                rig.store_published(1)
            assert rig.edge.ingress.accepted == 60
            assert not any(peer.protocol._in_flight.paused for peer in crowd)
            assert all(peer.transport.value().count(b"\x8a\x01x") == 1 for peer in crowd)

    def test_who_closes_while_it_waits_for_its_turn_is_answered_at_once(self) -> None:
        with limited(messages_per_second_per_address=100) as rig:
            crowd = [rig.peer(v2=False, ip=_IP) for _ in range(30)]
            for peer in crowd:
                peer.protocol.dataReceived(client_frame(TEXT, json.dumps(message("x")).encode()))
            assert crowd[-1].protocol._in_flight.paused
            crowd[-1].protocol.leave(1012, "the server restarts")
            crowd[-1].protocol.dataReceived(client_frame(CLOSE, b"\x03\xf4"))
            crowd[-2].protocol.connectionLost(Failure(ConnectionDone()))
            rig.clock.advance(2)
            assert rig.edge.ingress.accepted == 28
            assert crowd[-1].transport.disconnecting or crowd[-1].transport.aborted

    def test_who_does_not_wait_for_his_turn_has_not_lost_it_and_does_not_have_it_earlier(self) -> None:
        with limited(messages_per_second_per_address=1) as rig:
            peer = rig.peer(v2=False, ip=_IP)
            assert accepted(peer, _BURST + 3) == [True] * _BURST + [False] * 3
            rig.clock.advance(0.5)
            assert accepted(peer, 1) == [False]
            rig.clock.advance(0.5)
            assert accepted(peer, 2) == [True, False]

    def test_a_user_whom_a_token_names_has_one_wherever_it_is(self) -> None:
        with limited(messages_per_second_per_user=5) as rig:
            somebody = Identity(user_id=7)
            peers = [rig.peer(v2=False, ip=ip, identity=somebody) for ip in (_IP, _OTHER, "203.0.113.1")]
            assert [accepted(peer, 4) for peer in peers] == [[True] * 4, [True] * 4, [True] * 2 + [False] * 2]
            assert accepted(rig.peer(v2=False, ip=_IP), 1) == [True], "whom only messages name has none"

    def test_who_goes_on_is_closed_with_1008(self) -> None:
        with limited(messages_per_second=1) as rig:
            peer = rig.peer(v2=False, ip=_IP)
            accepted(peer, _BURST + MAX_REFUSALS_IN_A_ROW - 1)
            assert peer.protocol.is_live
            peer.say("x")
            assert [frame.get("closed") for frame in peer.frames()] == [None, 1008]

    @pytest.mark.parametrize("ip", [None, "127.0.0.1", "10.1.2.3"])
    def test_who_is_unlimited_has_no_rate(self, ip: str | None) -> None:
        with limited(messages_per_second=1, unlimited_address=("127.0.0.1", "10.0.0.0/8")) as rig:
            assert all(accepted(rig.peer(v2=False, ip=ip), 50))

    @pytest.mark.parametrize("ip", [None, "127.0.0.1"])
    def test_nor_has_a_user_who_comes_from_there(self, ip: str | None) -> None:
        with limited(messages_per_second_per_user=1, unlimited_address=("127.0.0.1",)) as rig:
            assert all(accepted(rig.peer(v2=False, ip=ip, identity=Identity(user_id=7)), 50))
            elsewhere = rig.peer(v2=False, ip=_IP, identity=Identity(user_id=7))
            assert accepted(elsewhere, _BURST + 1) == [True] * _BURST + [False], "it used up nothing there"

    def test_none_is_unlimited_if_nobody_is_to_be(self) -> None:
        with limited(messages_per_second=1, unlimited_address=("none",)) as rig:
            assert accepted(rig.peer(v2=False, ip="127.0.0.1"), _BURST + 1)[-1] is False

    def test_a_rate_that_is_changed_holds_for_those_who_are_here(self) -> None:
        with limited(messages_per_second=1) as rig:
            peer = rig.peer(v2=False, ip=_IP)
            assert accepted(peer, _BURST + 1)[-1] is False
            rig.in_force.changes()["messages-per-second"](1000)
            rig.clock.advance(1)
            assert all(accepted(peer, 30))


class TestFrames:
    def test_pings_and_what_is_no_message_cost_what_messages_do_and_are_answered(self) -> None:
        with limited(messages_per_second=1) as rig:
            peer = rig.peer(v2=False, ip=_IP)
            peer.protocol.dataReceived(client_frame(PING, b"x") * _BURST)
            assert reads_paused(rig) == 0
            peer.protocol.dataReceived(client_frame(BINARY, b"x"))
            assert reads_paused(rig) == 1
            assert rig.edge.accounts.limited["control_frames"] == 1
            assert peer.transport.value().count(b"\x8a\x01x") == _BURST
            assert b"binary_frame" in peer.sent()

    def test_so_do_fragments_beyond_the_first(self) -> None:
        with limited(messages_per_second=1) as rig:
            peer = rig.peer(v2=False, ip=_IP)
            begin = client_frame(TEXT, b"", fin=False)
            peer.protocol.dataReceived(begin + client_frame(0, b"", fin=False) * _BURST)
            assert reads_paused(rig) == 0
            peer.protocol.dataReceived(client_frame(0, b"", fin=False))
            assert reads_paused(rig) == 1


class TestBytes:
    def test_beyond_a_burst_nothing_is_read_until_it_is_paid_for(self) -> None:
        frame = client_frame(TEXT, json.dumps(message("x" * 500)).encode())
        assert len(frame) < READ_BYTES, "it counts as many"
        with limited(bytes_per_second=READ_BYTES) as rig:
            peer = rig.peer(v2=False, ip=_IP)
            for _ in range(_BURST):
                peer.protocol.dataReceived(frame)
            assert reads_paused(rig) == 0
            peer.protocol.dataReceived(frame)
            assert reads_paused(rig) == 1
            assert peer.transport.producerState == "paused"
            rig.clock.advance(1.001 + SHORTEST_REST_SECONDS)
            assert peer.transport.producerState == "producing"
            assert not [frame for frame in peer.frames() if "code" in frame], "nothing was refused"
            assert rig.edge.accounts.limited["bytes"] == 1

    def test_of_a_stranger_little_is_read_at_a_time(self) -> None:
        with limited(unlimited_address=("127.0.0.1",)) as rig:
            assert rig.peer(ip=_IP).transport.bufferSize == READ_AT_ONCE_BYTES
            assert not hasattr(rig.peer(ip="127.0.0.1").transport, "bufferSize"), "Twisted's own stays"

    @pytest.mark.parametrize("of_address", [False, True])
    def test_each_read_counts_as_many_however_little_it_brings(self, of_address: bool) -> None:
        limit = "bytes_per_second_per_address" if of_address else "bytes_per_second"
        with limited(**{limit: 10 * READ_BYTES}) as rig:
            peer = rig.peer(v2=False, ip=_IP)
            byte = iter(client_frame(TEXT, json.dumps(message("x")).encode()))
            for _ in range(10 * _BURST):
                peer.protocol.dataReceived(bytes([next(byte)]))
            assert reads_paused(rig) == 0
            peer.protocol.dataReceived(bytes([next(byte)]))
            assert reads_paused(rig) == 1

    def test_what_a_connection_owes_its_address_owes_too(self) -> None:
        with limited(bytes_per_second=1000, bytes_per_second_per_address=10_000) as rig:
            crowd = [rig.peer(v2=False, ip=_IP) for _ in range(11)]
            for peer in crowd:
                peer.protocol.dataReceived(client_frame(TEXT, b"x" * 4000))
            rig.clock.advance(2.3)
            # One after the other, although all came at the same moment.
            assert [peer.transport.producerState for peer in crowd] == ["producing"] * 10 + ["paused"]
            rig.clock.advance(0.4)
            assert crowd[-1].transport.producerState == "producing"


class TestShares:
    def test_an_address_may_have_as_many_under_way_as_it_leaves_for_others(self) -> None:
        with limited() as rig:  # 100 messages may be pending
            greedy = [rig.peer(v2=False, ip=_IP) for _ in range(4)]
            assert sum(sum(accepted(peer, 30)) for peer in greedy) == 50
            assert sum(accepted(rig.peer(v2=False, ip=_OTHER), 40)) == 25
            assert sum(accepted(rig.peer(v2=False, ip="203.0.113.1"), 40)) == 13
            assert rig.edge.accounts.limited["pending"] == 70 + 15 + 27

    def test_what_is_answered_is_given_back_also_of_who_is_gone(self) -> None:
        with limited() as rig:
            peer = rig.peer(v2=False, ip=_IP)
            assert sum(accepted(peer, 60)) == 50
            peer.protocol.connectionLost()
            rig.store_published(1)
            assert sum(accepted(rig.peer(v2=False, ip=_IP), 60)) == 50


class TestAdmission:
    def test_of_connections_an_address_has_only_so_many(self) -> None:
        with limited(max_connections_per_address=2) as rig:
            admission, peers = Admission(rig.edge), []
            for _ in range(2):
                admission.connect(_IP)
                peers.append(rig.peer(ip=_IP))
            with pytest.raises(RequestRefused, match="there are 2 connections") as refused:
                admission.connect(_IP)
            assert (refused.value.status, refused.value.code) == (429, "rate_limited")
            admission.connect(_OTHER)
            peers[0].protocol.connectionLost()
            admission.connect(_IP)
            assert rig.edge.accounts.limited["connections"] == 1

    def test_and_opens_them_only_so_often(self) -> None:
        with limited(connections_per_second_per_address=3) as rig:
            admission = Admission(rig.edge)
            for _ in range(3 * _BURST):
                admission.connect(_IP)
            with pytest.raises(RequestRefused) as refused:
                admission.connect(_IP)
            assert refused.value.retry_after_ms == 334
            assert refused.value.headers == {"retry-after": "1"}
            rig.clock.advance(0.334)
            admission.connect(_IP)

    def test_who_owes_for_what_it_sent_does_not_come_in_by_another_connection(self) -> None:
        with limited(bytes_per_second_per_address=100) as rig:
            peer = rig.peer(ip=_IP)
            Admission(rig.edge).connect(_IP)
            peer.protocol.dataReceived(client_frame(TEXT, b"x" * 1200))
            peer.protocol.connectionLost()
            with pytest.raises(RequestRefused):
                Admission(rig.edge).connect(_IP)

    @pytest.mark.parametrize(
        ("since", "counts"),
        [(0, True), (1, True), (None, False), (LONG_RESUME_MESSAGES, False), (LONG_RESUME_MESSAGES - 1, True)],
    )
    def test_much_history_is_asked_for_only_so_often(self, since: int | None, counts: bool) -> None:
        with limited(resumes_per_second_per_address=1) as rig:
            rig.hub.start_at(1, 2 * LONG_RESUME_MESSAGES)
            admission = Admission(rig.edge)
            for _ in range(_BURST):
                admission.resume(_IP, 1, ConnectParameters(since=since))
            if not counts:
                admission.resume(_IP, 1, ConnectParameters(since=since))
                return
            with pytest.raises(RequestRefused, match="much history"):
                admission.resume(_IP, 1, ConnectParameters(since=since))

    def test_of_requests_statistics_count_as_ten_and_health_is_always_answered(self) -> None:
        with limited(requests_per_second_per_address=15) as rig:
            admission = Admission(rig.edge)
            for _ in range(2):
                admission.request(_IP, b"/api/metrics/summary")
            assert admission.request(_IP, b"/health")
            for _ in range(15 * _BURST - 21):
                admission.request(_IP, b"/api/rooms")
            with pytest.raises(RequestRefused, match="asks too often"):
                admission.request(_IP, b"/api/rooms")
            for path in (b"/health", b"/health/ready", b"/health/live"):
                assert not admission.request(_IP, path), "the connection ends with the answer"
            with pytest.raises(RequestRefused):
                admission.request(_IP, b"/healthy")
            admission.request(_OTHER, b"/api/rooms")

    @pytest.mark.parametrize(
        ("query", "cost"),
        [
            ({}, 1),
            ({b"limit": [b"1"]}, 1),
            ({b"limit": [b"100"]}, 1),
            ({b"limit": [b"101"]}, 2),
            ({b"limit": [b"1000"]}, 10),
            ({b"limit": [b"1", b"1000"]}, 10),
            ({b"limit": [b"000000000000001000"]}, 10),
            ({b"limit": [b"9" * 5000]}, 10),
        ],
    )
    @pytest.mark.parametrize("path", [b"/api/rooms/1/messages", b"/api/users/7/messages"])
    def test_a_page_of_history_counts_by_its_length(
        self, path: bytes, query: dict[bytes, list[bytes]], cost: int
    ) -> None:
        with limited(requests_per_second_per_address=10) as rig:
            admission = Admission(rig.edge)
            for _ in range(10 * _BURST // cost):
                admission.request(_IP, path, query)
            with pytest.raises(RequestRefused, match="asks too often"):
                admission.request(_IP, path, query)


class TestAccounts:
    def test_who_was_quiet_is_forgotten_and_who_is_here_is_not(self) -> None:
        clock = Clock()
        accounts = Accounts(clock, LimitsInForce(EdgeLimits(1, 1, 1, 1, 1)))
        here = accounts.of_address("10.0.0.1")
        assert here is not None
        here.connections += 1
        for number in range(50_000):
            clock.advance(0.01)
            account = accounts.of_address(f"10.{1 + number // 65536}.{number // 256 % 256}.{number % 256}")
            assert account is not None
            account.requests.take(clock.seconds(), 10)
        assert len(accounts) < 3000
        assert accounts.of_address("10.0.0.1") is here

    @given(st.ip_addresses(v=6), st.integers(0, 2**64 - 1))
    def test_addresses_of_one_network_of_64_bits_are_one(self, address: Any, host: int) -> None:
        other = type(address)(int(address) >> 64 << 64 | host)
        assert site_of(str(address)) == site_of(str(other))


def test_each_limit_can_be_changed_by_the_name_of_its_option() -> None:
    in_force = LimitsInForce(EdgeLimits(16384, 100, 100, 1, 60))
    changes = in_force.changes()
    changes["messages-per-second"](7.0)
    assert in_force.limits.messages_per_second == 7
    with pytest.raises(StartupError):
        changes["max-buffered-bytes"](10**15)
    assert in_force.limits.max_buffered_bytes < 10**12, "the old one stays"
    assert set(changes) <= {option.name for option in TABLE.own_options}
