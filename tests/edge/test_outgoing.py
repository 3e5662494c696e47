"""What waits to be sent to one client is bounded, and not what was ever written; without a socket."""

from __future__ import annotations

import pytest
from twisted.internet.task import Clock

from chatflow.edge.outgoing import Outgoing, waiting_bytes
from tests.support.transport import Transport

_MAX_BYTES = 1000


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def transport() -> Transport:
    return Transport()


@pytest.fixture
def outgoing(transport: Transport, clock: Clock) -> Outgoing:
    outgoing = Outgoing(transport, _MAX_BYTES, clock.seconds)
    outgoing.start()
    return outgoing


def test_a_client_that_keeps_up_is_written_to_without_a_limit(outgoing: Outgoing, transport: Transport) -> None:
    assert all(outgoing.write(b"x" * 900) for _ in range(10))
    assert len(transport.value()) == 9000


def test_of_one_that_stands_still_only_so_much_is_kept(outgoing: Outgoing, transport: Transport) -> None:
    transport.stalls()
    assert [outgoing.write(b"x" * 400) for _ in range(3)] == [True, True, False]
    assert transport.value() == b"x" * 800, "what is too much is not written"


def test_one_that_takes_as_much_as_comes_may_always_have_something_waiting(
    outgoing: Outgoing, transport: Transport
) -> None:
    transport.stalls()
    assert outgoing.write(b"x" * 800)
    for _ in range(100):
        transport.takes(150)
        assert outgoing.write(b"x" * 150)
    assert waiting_bytes(transport) == 800


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
