"""What is written in one turn of the reactor is sent in one piece at the end of it, over real sockets."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from attrs import define
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock
from twisted.internet.tcp import Connection
from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure

from chatflow.edge.backlog import SEND_SECONDS, SENDS_PER_TURN, Backlog
from chatflow.edge.limits import EdgeLimits, LimitsInForce
from chatflow.edge.outgoing import SLICE_BYTES, Outgoing
from chatflow.edge.transports import waiting_bytes

_MAX_BYTES = 10_000_000


@define
class Line:
    """A connection whose other end is the test's, on a reactor that waits for the test."""

    reactor: Any
    transport: Any
    outgoing: Outgoing
    client: socket.socket

    def turn_ends(self) -> None:
        self.reactor.advance(0)

    def system_takes(self) -> object:
        """The reactor finds that the transport may send again. What doWrite says then."""
        return self.transport.doWrite()

    @property
    def asks(self) -> bool:
        """Whether the transport asks to be told when it may send."""
        return self.transport in self.reactor.getWriters()

    def piece(self) -> bytes | None:
        """The next piece that was sent; None if there is none yet."""
        try:
            return self.client.recv(1 << 20)
        except BlockingIOError:
            return None

    def pieces(self) -> list[bytes]:
        found = []
        while piece := self.piece():
            found.append(piece)
        return found


def connect(kind: socket.SocketKind) -> Iterator[Line]:
    reactor: Any = MemoryReactorClock()
    ours, client = socket.socketpair(socket.AF_UNIX, kind)
    with ours, client:
        client.setblocking(False)
        transport: Any = Connection(ours, Protocol(), reactor)
        transport.connected = True
        limits = LimitsInForce(EdgeLimits(16384, 100, 100, _MAX_BYTES, 60))
        backlog = Backlog(reactor, limits, Counter())
        outgoing = Outgoing(transport, _MAX_BYTES, reactor.seconds, backlog)
        outgoing.start()
        yield Line(reactor, transport, outgoing, client)


@pytest.fixture
def line() -> Iterator[Line]:
    """Its client sees where one piece ends and the next begins."""
    yield from connect(socket.SOCK_SEQPACKET)


@pytest.fixture
def stream() -> Iterator[Line]:
    """One of which the system may take a part."""
    yield from connect(socket.SOCK_STREAM)


def test_what_is_written_in_one_turn_is_one_piece_and_the_reactor_is_not_asked(line: Line) -> None:
    for block in (b"broadcast", b"ack"):
        assert line.outgoing.write(block)
    assert line.piece() is None, "the turn is not over"
    line.turn_ends()
    assert line.pieces() == [b"broadcastack"]
    assert not line.asks
    line.outgoing.write(b"next")
    line.turn_ends()
    assert line.pieces() == [b"next"]


class Crowd:
    """Clients to whom sending takes so long, and a reactor whose turns are the test's.

    :ivar told: the names of those that were sent something.
    """

    def __init__(self, count: int, send_seconds: float = 0.0) -> None:
        self.clock = Clock()
        self.told: list[object] = []
        self._send_seconds = send_seconds
        self.backlog = Backlog(self.clock, LimitsInForce(EdgeLimits(16384, 100, 100, _MAX_BYTES, 60)), Counter())
        for number in range(count):
            self.client(number)

    def client(self, name: object, *, asked: bool = False) -> None:
        """One more, to whom something was written."""
        crowd = self

        @define(eq=False)
        class Client:
            backlog_bytes: int = 0
            give_up: Callable[[], object] = int

            def send(self) -> None:
                crowd.told.append(name)
                crowd.clock.rightNow += crowd._send_seconds

            def stalled_seconds(self) -> float:
                return 0.0

        client = Client()
        self.backlog.send_soon(client)
        if asked:
            self.backlog.hurry(client)

    def turn(self) -> None:
        """Call what a reactor calls in a turn, which a Clock goes beyond: nothing that was asked for meanwhile."""
        calls: list[Any] = list(self.clock.getDelayedCalls())
        self.clock.calls = []
        for call in calls:
            call.func()


def test_what_very_many_are_sent_takes_several_turns_and_who_waits_for_an_answer_is_the_first_in_each() -> None:
    crowd = Crowd(2 * SENDS_PER_TURN + 1)
    crowd.client("asked", asked=True)
    crowd.turn()
    assert crowd.told == ["asked", *range(SENDS_PER_TURN)]
    crowd.client("asked later", asked=True)
    crowd.turn()
    assert crowd.told[SENDS_PER_TURN + 1 :] == ["asked later", *range(SENDS_PER_TURN, 2 * SENDS_PER_TURN)]
    crowd.turn()
    assert set(crowd.told) == {*range(2 * SENDS_PER_TURN + 1), "asked", "asked later"}
    assert not crowd.clock.getDelayedCalls()


def test_where_sending_takes_long_a_turn_ends_sooner() -> None:
    crowd = Crowd(6, send_seconds=SEND_SECONDS / 2.5)
    crowd.turn()
    assert crowd.told == [0, 1, 2]
    crowd.turn()
    assert crowd.told == [0, 1, 2, 3, 4, 5]
    assert not crowd.clock.getDelayedCalls()


def test_no_more_than_a_slice_waits_for_the_end_of_a_turn(line: Line) -> None:
    block = b"x" * (SLICE_BYTES // 2)
    for _ in range(3):
        line.outgoing.write(block)
    assert line.pieces() == [block * 2]
    line.turn_ends()
    assert line.pieces() == [block]


def test_what_is_larger_than_a_slice_follows_what_was_written_before(stream: Line) -> None:
    large = b"y" * (3 * SLICE_BYTES)
    stream.outgoing.write(b"x")
    stream.outgoing.write(large)
    received = b""
    while len(received) < 1 + len(large):
        if (piece := stream.piece()) is None:
            stream.system_takes()
        else:
            received += piece
    assert received == b"x" + large


def test_a_ping_goes_ahead_of_what_waits_for_the_end_of_the_turn(line: Line) -> None:
    line.outgoing.write(b"message")
    line.outgoing.write_control(b"ping")
    line.turn_ends()
    assert line.pieces() == [b"ping", b"message"]


def test_the_close_frame_is_the_last(line: Line) -> None:
    line.outgoing.write(b"message")
    line.outgoing.finish(b"close")
    assert line.pieces() == [b"message", b"close"]
    line.turn_ends()
    assert line.pieces() == []


def test_what_is_held_back_follows_what_was_not_sent_yet(line: Line) -> None:
    line.outgoing.write(b"before")
    line.outgoing.hold()
    line.outgoing.write(b"held")
    line.outgoing.release(b"welcome")
    line.turn_ends()
    assert b"".join(line.pieces()) == b"beforewelcomeheld"


def test_who_waits_until_all_is_given_or_taken_need_not_wait_for_the_end_of_the_turn(line: Line) -> None:
    told: list[str] = []
    line.outgoing.write(b"first")
    line.outgoing.when_given(lambda: told.append("given"))
    assert (line.pieces(), told) == ([b"first"], ["given"])
    line.outgoing.write(b"second")
    assert line.outgoing.drained().called
    assert line.pieces() == [b"second"]


def test_of_what_the_system_does_not_take_the_transport_keeps_the_rest_in_order(stream: Line) -> None:
    sent = b""
    while not stream.asks:  # until the system's buffer is full
        block = bytes([65 + len(sent) // SLICE_BYTES % 26]) * SLICE_BYTES
        stream.outgoing.write(block)
        stream.turn_ends()
        sent += block
    assert 0 < waiting_bytes(stream.transport) <= SLICE_BYTES
    stream.outgoing.write(b"last")
    stream.turn_ends()
    received = b""
    while len(received) < len(sent) + 4:
        if (piece := stream.piece()) is None:
            stream.system_takes()
        else:
            received += piece
    assert received == sent + b"last"
    assert not stream.asks


def test_while_the_transport_holds_something_nothing_overtakes_it(line: Line) -> None:
    line.transport.write(b"of Twisted")
    line.outgoing.write(b"later")
    line.turn_ends()
    assert line.pieces() == []
    line.system_takes()
    assert line.pieces() == [b"of Twistedlater"]


def test_a_broken_connection_is_found_out_by_the_transport(line: Line) -> None:
    line.client.close()
    line.outgoing.write(b"to nobody")
    line.turn_ends()
    assert line.asks
    assert isinstance(line.system_takes(), Exception)


def test_one_that_is_lost_in_the_turn_is_sent_nothing(line: Line) -> None:
    line.outgoing.write(b"late")
    line.outgoing.lost()
    line.turn_ends()
    assert line.pieces() == []
    assert not line.asks


def test_a_transport_that_has_lost_its_socket_is_asked_for_nothing(line: Line) -> None:
    line.transport.connectionLost(Failure(ConnectionDone()))
    line.outgoing.write_control(b"pong")
    line.outgoing.write(b"late")
    line.turn_ends()
    assert line.piece() == b"", "the end"


def test_a_transport_that_is_paused_in_the_turn_is_given_all_in_order(line: Line) -> None:
    line.outgoing.write(b"first")
    line.outgoing.pauseProducing()  # as one with TLS does for reasons of its own
    line.outgoing.write(b"second")
    line.outgoing.resumeProducing()
    line.turn_ends()
    assert b"".join(line.pieces()) == b"firstsecond"
