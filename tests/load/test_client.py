"""One connection: handshake, window, acks, control frames; all in memory."""

from __future__ import annotations

import json

import pytest
from twisted.internet.error import ConnectionLost
from twisted.python.failure import Failure

from benchmarks.null_server import frame
from chatflow.load import wire
from tests.load.memory import Room, ack, broadcast, handshake_response


def test_the_handshake_may_come_in_any_pieces() -> None:
    room = Room(0, handshake=False)
    (connection,) = room.connections
    response = handshake_response(connection)
    opened: list[None] = []
    room.clients[0].opened.addCallback(opened.append)
    for at in range(len(response)):
        assert not opened
        connection.dataReceived(response[at : at + 1])
    assert opened == [None]


def test_what_comes_with_the_handshake_is_received() -> None:
    room = Room(0, handshake=False)
    (connection,) = room.connections
    message = Room(1)
    message.clients[0].send()
    connection.dataReceived(handshake_response(connection) + broadcast(5, 1, message.sent()[0]))
    assert room.sessions[0].arrivals.next == 6


def test_what_comes_before_all_are_there_makes_nobody_send() -> None:
    room = Room(1, 0, begun=False)
    talker = Room(1, first_client=2)
    talker.clients[0].send()
    room.connections[0].dataReceived(broadcast(5, 1, talker.sent()[0]))
    assert room.sent() == [], "the others of its room may not hear it"
    room.recorder.begin(room.now_us)
    room.clients[0].send()
    assert len(room.sent()) == 1


def test_a_refused_handshake_fails_and_closes_the_connection() -> None:
    room = Room(0, handshake=False)
    (connection,) = room.connections
    complaints: list[str] = []
    room.clients[0].opened.addErrback(lambda failure: complaints.append(failure.getErrorMessage()))
    connection.dataReceived(b"HTTP/1.1 404 Not Found\r\n\r\n")
    assert complaints == ["the server answered 'HTTP/1.1 404 Not Found' to the handshake"]
    assert room.clients[0].closed.called
    assert room.tally.connections_lost == 0


def test_a_handshake_that_does_not_end_fails() -> None:
    room = Room(0, handshake=False)
    (connection,) = room.connections
    complaints: list[str] = []
    room.clients[0].opened.addErrback(lambda failure: complaints.append(failure.getErrorMessage()))
    connection.dataReceived(b"x" * 20_000)
    assert "does not end" in complaints[0]


def test_no_more_than_the_window_is_in_flight() -> None:
    room = Room(10, in_flight=4)
    room.clients[0].send()
    assert len(room.sent()) == 4
    room.clients[0].send()
    assert room.sent() == []


def test_as_many_are_sent_as_were_acknowledged_in_one_write() -> None:
    room = Room(10, in_flight=4)
    room.clients[0].send()
    first = room.sent()
    room.connections[0].dataReceived(ack(1, first[2]) + ack(2, first[0]) + ack(3, first[1]))
    assert len(room.sent()) == 3
    assert room.tally.acked == 3
    assert room.tally.owed == 7


def test_no_more_than_its_share_is_sent() -> None:
    room = Room(5, in_flight=4)
    room.clients[0].send()
    for number, message in enumerate(room.sent()):
        room.connections[0].dataReceived(ack(number, message))
    assert len(room.sent()) == 1
    assert room.sessions[0].unsent == 0


def test_an_error_frame_frees_its_place_in_the_window_and_is_counted() -> None:
    room = Room(10, in_flight=4)
    room.clients[0].send()
    room.sent()
    room.connections[0].dataReceived(frame(b'{"status":"ERROR","code":"overloaded","errorMessage":"x"}'))
    assert len(room.sent()) == 1
    assert (room.tally.refused, room.tally.refusals) == (1, {"overloaded": 1})


def test_latency_is_taken_from_the_send_to_the_ack_and_to_each_delivery() -> None:
    room = Room(1, 0)
    room.clients[0].send()
    (message,) = room.sent()
    room.now_us += 2_000
    room.connections[0].dataReceived(ack(1, message))
    room.now_us += 1_500
    room.connections[0].dataReceived(broadcast(1, 1, message))
    room.now_us += 500
    room.connections[1].dataReceived(broadcast(1, 1, message))
    room.recorder.close()
    assert room.tally.ack_ticks == {20: 1}
    assert room.tally.delivery_ticks == {35: 1, 40: 1}


def test_with_a_schedule_latency_counts_from_when_the_message_was_due() -> None:
    room = Room(2, rate=1.0, in_flight=1)
    (connection,) = room.connections
    start_us = room.now_us
    room.sessions[0].due(start_us)
    room.sessions[0].due(start_us + 1_000)  # has to wait for the window
    room.clients[0].send()
    (first,) = room.sent()
    room.now_us = start_us + 5_000
    connection.dataReceived(ack(1, first))
    (second,) = room.sent()
    room.now_us = start_us + 8_000
    connection.dataReceived(ack(2, second))
    room.recorder.close()
    assert room.tally.ack_ticks == {50: 1, 70: 1}


def test_with_a_schedule_nothing_is_sent_before_it_is_due() -> None:
    room = Room(2, rate=1.0)
    room.clients[0].send()
    assert room.sent() == []


def test_a_ping_is_answered_at_once_even_if_it_is_empty() -> None:
    room = Room(0)
    for payload in (b"", b"are you there"):
        room.connections[0].dataReceived(frame(payload, wire.PING))
        assert room.frames() == [(wire.PONG, payload)]


def test_a_pong_is_ignored() -> None:
    room = Room(0)
    room.connections[0].dataReceived(frame(b"", wire.PONG))
    assert room.frames() == []
    assert room.tally.unexpected_frames == 0


def test_a_message_in_fragments_is_received_with_control_frames_between() -> None:
    room = Room(1)
    room.clients[0].send()
    (message,) = room.sent()
    whole = ack(1, message)[4:]
    pieces = [b"\x01" + wire.text_frame(whole[:100])[1:], frame(b"", wire.PING)]
    pieces += [b"\x00" + wire.text_frame(whole[100:200])[1:], b"\x80" + wire.text_frame(whole[200:])[1:]]
    for byte in b"".join(pieces) + broadcast(1, 1, message):
        room.connections[0].dataReceived(bytes((byte,)))
    assert room.tally.acked == 1
    assert room.sessions[0].arrivals.next == 2


@pytest.mark.parametrize(
    "sent",
    [
        frame(b'{"hello":"there"}'),
        frame(b"[1,2]"),
        frame(b"no JSON"),
        frame(b""),
        frame(b'{"status":"SUCCESS","messageId":"x"}'),
        frame(b'{"seq":"one","messageId":"x","roomId":"7"}'),
        frame(b'{"status":"ERROR","code":"for nothing that was sent"}'),
        frame(b"\xff\xfe"),
        frame(b"[" * 100_00),
        frame(b"binary", wire.BINARY),
    ],
)
def test_any_other_frame_is_unexpected(sent: bytes) -> None:
    room = Room(0)
    room.connections[0].dataReceived(sent)
    assert room.tally.unexpected_frames == 1
    assert not room.sessions[0].lost


@pytest.mark.parametrize("sent", [b"\x81\x85abcdhello", b"\xc1\x05hello", frame(b"", 0xB)])
def test_a_frame_that_no_server_may_send_loses_the_connection(sent: bytes) -> None:
    room = Room(3)
    room.connections[0].dataReceived(sent)
    assert room.sessions[0].lost
    assert room.clients[0].closed.called
    assert (room.tally.connections_lost, room.tally.owed) == (1, 0)


def test_the_servers_close_frame_is_answered_and_the_connection_lost() -> None:
    room = Room(3)
    room.connections[0].dataReceived(frame((1013).to_bytes(2, "big") + b"too slow", wire.CLOSE))
    assert room.frames() == [(wire.CLOSE, (1000).to_bytes(2, "big"))]
    assert room.tally.connections_lost == 1
    assert room.tally.causes == ["connection 0 (room 7): the server closed it: 1013 too slow"]


def test_what_came_before_the_close_frame_counts() -> None:
    room = Room(3)
    room.clients[0].send()
    first, second, _ = room.sent()
    goodbye = frame((1012).to_bytes(2, "big"), wire.CLOSE)
    room.connections[0].dataReceived(ack(1, first) + broadcast(1, 1, first) + ack(2, second) + goodbye + b"?")
    assert (room.tally.acked, room.tally.delivered, room.tally.owed) == (2, 1, 0)
    assert room.sessions[0].ledger.waiting == 1
    assert room.sessions[0].lost


def test_what_came_before_a_frame_that_no_server_may_send_counts() -> None:
    room = Room(3)
    room.clients[0].send()
    room.connections[0].dataReceived(ack(1, room.sent()[0]) + b"\xc1\x05hello")
    assert (room.tally.acked, room.tally.owed) == (1, 0)


def test_a_connection_that_breaks_is_lost_once_and_owes_nothing_any_more() -> None:
    room = Room(10, 10, in_flight=4)
    room.clients[0].send()
    room.connections[0].dataReceived(ack(1, room.sent()[0]))
    room.connections[0].connectionLost(Failure(ConnectionLost()))
    assert room.tally.connections_lost == 1
    assert room.tally.owed == 10, "what the other one still has to send"
    assert room.clients[0].closed.called


def test_a_close_of_our_own_is_no_loss() -> None:
    room = Room(3)
    room.clients[0].close()
    assert room.frames() == [(wire.CLOSE, (1000).to_bytes(2, "big"))]
    room.connections[0].connectionLost(Failure(ConnectionLost()))
    assert room.tally.connections_lost == 0


def test_an_ack_of_what_is_not_in_flight_is_unexpected() -> None:
    room = Room(2, 1)
    for client in room.clients:
        client.send()
    first, second = room.sent(0)
    (of_another,) = room.sent(1)
    never_sent = first.replace(b" ~run.0.0.", b" ~run.0.9.")
    other_run = first.replace(b" ~run.", b" ~fun.")
    for number, message in enumerate((first, first, of_another, never_sent, other_run, second)):
        room.connections[0].dataReceived(ack(number, message))
    assert room.tally.unexpected_acks == 4
    assert room.tally.owed == 1, "the other connection's"
    assert room.log.acked == 2


def test_each_acknowledged_id_is_kept_and_each_line() -> None:
    room = Room(2)
    room.clients[0].send()
    for number, message in enumerate(room.sent()):
        assert json.loads(message)["messageType"]
        room.connections[0].dataReceived(ack(number, message))
    assert len(room.kept.ids[7]) == 32
