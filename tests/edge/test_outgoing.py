"""What waits to be sent to one client is bounded, and not what was ever written; without a socket."""

from __future__ import annotations

from collections import Counter

import pytest
from twisted.internet.task import Clock

from chatflow.edge.backlog import Backlog
from chatflow.edge.frames import text_frame
from chatflow.edge.limits import EdgeLimits, LimitsInForce
from chatflow.edge.outgoing import SLICE_BYTES, Outgoing
from chatflow.edge.transports import waiting_bytes
from tests.support.reactor import LoggedFailures
from tests.support.transport import Transport

_MAX_BYTES = 1000

# Of a room, for whoever is in it: 20 frames of 10,000 bytes.
_BLOCK = b"".join(text_frame(bytes([65 + number]) * 9996) for number in range(20))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def transport() -> Transport:
    return Transport()


def make_backlog(clock: Clock, max_buffered_bytes: int = 0) -> Backlog:
    limits = EdgeLimits(16384, 100, 100, _MAX_BYTES, 60, max_buffered_bytes=max_buffered_bytes)
    return Backlog(clock, LimitsInForce(limits), Counter())


@pytest.fixture
def outgoing(transport: Transport, clock: Clock) -> Outgoing:
    outgoing = Outgoing(transport, _MAX_BYTES, clock.seconds, make_backlog(clock))
    outgoing.start()
    return outgoing


class Crowd:
    """Clients of one room that take nothing, and what waits for them."""

    def __init__(self, clock: Clock, count: int, max_buffered_bytes: int = 0, max_bytes: int = 10_000_000) -> None:
        self.backlog = make_backlog(clock, max_buffered_bytes)
        self.given_up: list[int] = []
        self.transports = [Transport() for _ in range(count)]
        self.clients = [
            Outgoing(transport, max_bytes, clock.seconds, self.backlog, lambda at=at: self._give_up(at))  # type: ignore[misc]
            for at, transport in enumerate(self.transports)
        ]
        for client, transport in zip(self.clients, self.transports, strict=True):
            client.start()
            transport.stalls()

    def _give_up(self, at: int) -> None:
        self.given_up.append(at)
        self.clients[at].cut()

    def write(self, *blocks: bytes) -> None:
        for block in blocks:
            assert all(client.write(block) for client in self.clients)


def test_a_client_that_keeps_up_is_written_to_without_a_limit(
    outgoing: Outgoing, transport: Transport, clock: Clock
) -> None:
    assert all(outgoing.write(b"x" * 900) for _ in range(10))
    clock.advance(0)
    assert len(transport.value()) == 9000


def test_of_one_that_stands_still_only_so_much_is_kept(outgoing: Outgoing, transport: Transport) -> None:
    transport.stalls()
    assert [outgoing.write(b"x" * 400) for _ in range(3)] == [True, True, False]
    transport.takes(0)
    assert transport.value() == b"x" * 800, "what is too much is not written"


def test_one_that_takes_as_much_as_comes_may_always_have_something_waiting(
    outgoing: Outgoing, transport: Transport
) -> None:
    transport.stalls()
    assert outgoing.write(b"x" * 800)
    for _ in range(100):
        transport.takes(150)
        assert outgoing.write(b"x" * 150)
    assert waiting_bytes(transport) + outgoing.backlog_bytes == 800


def test_one_that_takes_less_than_comes_is_at_the_limit_in_the_end(outgoing: Outgoing, transport: Transport) -> None:
    transport.stalls()
    assert outgoing.write(b"x" * 500)
    written = 0
    while outgoing.write(b"x" * 100):
        written += 1
        transport.takes(50)
    assert 8 <= written <= 10


def test_the_limit_holds_however_often_the_transport_says_that_it_is_full(
    outgoing: Outgoing, transport: Transport
) -> None:
    transport.stalls()
    outgoing.write(b"x" * 900)
    outgoing.pauseProducing()
    assert not outgoing.write(b"x" * 200)


def test_what_was_taken_whole_does_not_count(outgoing: Outgoing, transport: Transport) -> None:
    for _ in range(3):
        transport.stalls()
        assert outgoing.write(b"x" * 900)
        transport.takes(900)


class _Broken(Transport):
    def write(self, data: bytes) -> None:
        raise RuntimeError("broken")


def test_a_transport_that_fails_does_not_keep_the_others_from_what_was_written_to_them(clock: Clock) -> None:
    backlog, transports = make_backlog(clock), [Transport(), _Broken(), Transport()]
    clients = [Outgoing(transport, _MAX_BYTES, clock.seconds, backlog) for transport in transports]
    failures = LoggedFailures()
    failures.start()
    for _ in range(2):
        assert all(client.write(b"block") for client in clients)
        clock.advance(0)
    failures.stop()
    assert [transport.value() for transport in transports] == [b"blockblock", b"", b"blockblock"]
    assert len(failures.events) == 2


class TestStalled:
    def test_it_grows_while_nothing_is_taken_and_begins_anew_when_something_is(
        self, outgoing: Outgoing, transport: Transport, clock: Clock
    ) -> None:
        assert outgoing.stalled_seconds() == 0
        transport.stalls()
        outgoing.write(b"x" * 500)
        clock.advance(10)
        assert outgoing.stalled_seconds() == 10
        transport.takes(1)
        assert outgoing.stalled_seconds() == 0
        clock.advance(7)
        assert outgoing.stalled_seconds() == 7

    def test_what_is_written_meanwhile_is_no_progress(
        self, outgoing: Outgoing, transport: Transport, clock: Clock
    ) -> None:
        transport.stalls()
        for _ in range(5):
            outgoing.write(b"x" * 100)
            clock.advance(1)
            outgoing.stalled_seconds()
        assert outgoing.stalled_seconds() == 5

    def test_progress_is_seen_although_more_was_written_than_taken(
        self, outgoing: Outgoing, transport: Transport, clock: Clock
    ) -> None:
        transport.stalls()
        outgoing.write(b"x" * 100)
        clock.advance(5)
        outgoing.write(b"x" * 500)
        transport.takes(10)
        assert outgoing.stalled_seconds() == 0

    def test_who_takes_everything_does_not_stand_still(
        self, outgoing: Outgoing, transport: Transport, clock: Clock
    ) -> None:
        transport.stalls()
        outgoing.write(b"x")
        clock.advance(5)
        transport.takes(1)
        clock.advance(5)
        assert outgoing.stalled_seconds() == 0


class TestHeld:
    def test_it_comes_behind_what_it_waited_for(self, outgoing: Outgoing, transport: Transport) -> None:
        outgoing.hold()
        outgoing.write(b"b")
        outgoing.write(b"c")
        assert (outgoing.holds, transport.value()) == (True, b"")
        outgoing.release(b"a")
        assert (outgoing.holds, transport.value()) == (False, b"abc")

    def test_it_is_limited_and_does_not_count_later(self, outgoing: Outgoing, transport: Transport) -> None:
        outgoing.hold()
        assert [outgoing.write(b"x" * 600) for _ in range(2)] == [True, False]
        outgoing.release(b"")
        transport.stalls()
        assert outgoing.write(b"x" * 900)


def test_drained_fires_at_once_or_when_everything_was_taken(outgoing: Outgoing, transport: Transport) -> None:
    assert outgoing.drained().called
    transport.stalls()
    outgoing.write(b"xx")
    drained = outgoing.drained()
    transport.takes(1)
    assert not drained.called
    transport.takes(1)
    assert drained.called


class TestBlocks:
    def test_what_many_wait_for_is_kept_once(self, clock: Clock) -> None:
        crowd = Crowd(clock, 100)
        blocks = [bytes([number]) * 50_000 for number in range(10)]
        crowd.write(*blocks)
        assert crowd.backlog.waiting_bytes == 500_000
        assert crowd.backlog.clients == 100
        for transport in crowd.transports[1:]:
            transport.takes(1_000_000)
        assert crowd.backlog.clients == 1
        assert all(transport.value() == b"".join(blocks) for transport in crowd.transports[1:])
        crowd.transports[0].takes(60_000)
        assert crowd.backlog.waiting_bytes <= 450_000
        crowd.clients[0].lost()
        assert (crowd.backlog.waiting_bytes, crowd.backlog.clients) == (0, 0)

    def test_a_transport_is_given_no_more_than_a_slice_beyond_what_it_holds(
        self, outgoing: Outgoing, transport: Transport
    ) -> None:
        transport.stalls()
        transport.takes(0)
        transport.stalls()
        outgoing = Outgoing(transport, 10_000_000, float, make_backlog(Clock()))
        outgoing.start()
        assert outgoing.write(_BLOCK * 5)
        while waiting_bytes(transport):
            assert waiting_bytes(transport) <= SLICE_BYTES
            transport.takes(10_000)
        assert transport.value() == _BLOCK * 5

    def test_who_has_taken_everything_may_be_given_a_block_beyond_the_limit(
        self, outgoing: Outgoing, transport: Transport
    ) -> None:
        assert outgoing.write(_BLOCK)
        assert transport.value() == _BLOCK


class TestBufferedBytes:
    def test_at_the_limit_all_stay_and_beyond_it_the_largest_goes(self, clock: Clock) -> None:
        crowd = Crowd(clock, 3, max_buffered_bytes=30_000)
        crowd.clients[1].write(b"x" * 9_000)
        crowd.write(b"y" * 21_000)
        clock.advance(0)
        assert not crowd.given_up
        crowd.write(b"z")
        assert not crowd.given_up, "nobody is ended while others are written to"
        clock.advance(0)
        assert crowd.given_up == [1]

    def test_of_the_same_size_the_slowest_goes(self, clock: Clock) -> None:
        crowd = Crowd(clock, 3, max_buffered_bytes=100_000)
        crowd.write(b"x" * 40_000)
        for client, transport in zip(crowd.clients, crowd.transports, strict=True):
            transport.takes(1)
            client.stalled_seconds()
        clock.advance(5)
        for at in (0, 2):
            crowd.transports[at].takes(1)
            crowd.clients[at].stalled_seconds()
        crowd.clients[0].write(b"a" * 60_000)
        crowd.clients[1].write(b"b" * 60_000)
        crowd.clients[2].write(b"c" * 60_000)
        clock.advance(0)
        assert crowd.given_up[0] == 1
        assert crowd.backlog.waiting_bytes <= 100_000


class TestControlFrames:
    def test_they_go_between_frames_and_ahead_of_what_waits(self, transport: Transport, clock: Clock) -> None:
        outgoing = Outgoing(transport, 10_000_000, clock.seconds, make_backlog(clock))
        outgoing.start()
        transport.stalls()
        outgoing.write(_BLOCK)
        outgoing.write(_BLOCK)
        transport.takes(1)  # the first slice is on its way, and ends amid a frame
        for number in range(1000):
            outgoing.write_control(bytes([0x8A, 1, number % 256]))
        outgoing.write_control(b"\x89\x00")
        transport.takes(1_000_000)
        assert transport.value() == _BLOCK + b"\x8a\x01\xe7" + b"\x89\x00" + _BLOCK, "of each kind the newest one"

    def test_they_do_not_count(self, outgoing: Outgoing, transport: Transport) -> None:
        transport.stalls()
        assert outgoing.write(b"x" * (_MAX_BYTES - 1))
        outgoing.write_control(b"\x8a\x00")
        assert outgoing.write(b"x")
        assert not outgoing.write(b"x")


class TestTheEnd:
    def test_the_close_frame_comes_behind_all_that_waits(self, transport: Transport, clock: Clock) -> None:
        outgoing = Outgoing(transport, 10_000_000, clock.seconds, make_backlog(clock))
        outgoing.start()
        transport.stalls()
        outgoing.write(_BLOCK)
        outgoing.finish(b"\x88\x00")
        assert transport.producer is not None, "or what waits would never be asked for"
        transport.takes(1_000_000)
        assert transport.value() == _BLOCK + b"\x88\x00"
        assert transport.producer is None, "or the connection would never be closed"

    @pytest.mark.parametrize("taken", [0, 1, 10_000, 65_536, 70_000])
    def test_who_is_too_slow_gets_the_rest_of_a_frame_and_then_the_close_frame(
        self, transport: Transport, clock: Clock, taken: int
    ) -> None:
        backlog = make_backlog(clock)
        outgoing = Outgoing(transport, 10_000_000, clock.seconds, backlog)
        outgoing.start()
        transport.stalls()
        outgoing.write(_BLOCK)
        transport.takes(taken)
        outgoing.cut()
        outgoing.finish(b"\x88\x00")
        sent = transport.value()
        assert sent.endswith(b"\x88\x00")
        assert (len(sent) - 2) % 10_000 == 0
        assert _BLOCK.startswith(sent[:-2])
        assert len(sent) <= taken + SLICE_BYTES + 10_002
        assert backlog.waiting_bytes == 0
