"""What connections receive, however it is cut into pieces and whatever is wrong with it, is judged right."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatflow.load import roomlog
from tests.load.memory import Room, ack, broadcast
from tests.support.examples import at_least

_CONNECTIONS = 3
_FAULTS = st.sampled_from(["drop", "double", "swap"])


@st.composite
def _received(draw: st.DrawFn) -> tuple[int, list[list[int]]]:
    """How many messages there are, and the seqs that each connection receives: nearly all, nearly in order."""
    count = draw(st.integers(1, 25))
    index = st.integers(0, count - 1)
    streams = []
    for _ in range(_CONNECTIONS):
        seqs = list(range(1, count + 1))
        for fault, one, other in draw(
            st.lists(st.tuples(st.sampled_from(["drop", "double", "swap"]), index, index), max_size=3)
        ):
            at, to = one % max(len(seqs), 1), other % max(len(seqs), 1)
            if not seqs:
                break
            if fault == "drop":
                del seqs[at]
            elif fault == "double":
                seqs.insert(to, seqs[at])
            else:
                seqs[at], seqs[to] = seqs[to], seqs[at]
        streams.append(seqs)
    return count, streams


@given(_received(), st.data())
@at_least(300)
def test_the_judgement_is_that_of_a_list_of_seqs(received: tuple[int, list[list[int]]], data: st.DataObject) -> None:
    count, streams = received
    room = Room(count, 0, 0, in_flight=count)
    room.clients[0].send()
    messages = room.sent()
    acks = [ack(seq, message) for seq, message in enumerate(messages, 1)]

    # Each connection's bytes, cut anywhere, the connections taking turns as it happens; acks between the broadcasts.
    to_receive: list[list[bytes]] = []
    for index, seqs in enumerate(streams):
        frames = [broadcast(seq, seq, messages[seq - 1]) for seq in seqs]
        if index == 0:
            for each in acks:
                frames.insert(data.draw(st.integers(0, len(frames))), each)
        stream = b"".join(frames)
        cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
        to_receive.append([stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)])
    duplicated, out_of_order = [0] * _CONNECTIONS, [0] * _CONNECTIONS
    while any(to_receive):
        index = data.draw(st.sampled_from([index for index, pieces in enumerate(to_receive) if pieces]))
        before = room.tally.duplicated, room.tally.out_of_order
        room.connections[index].dataReceived(to_receive[index].pop(0))
        duplicated[index] += room.tally.duplicated - before[0]
        out_of_order[index] += room.tally.out_of_order - before[1]

    assert room.tally.acked == count
    assert room.tally.unexpected_frames == 0
    assert room.tally.delivered == sum(map(len, streams)) == sum(room.tally.delivery_ticks.values())
    seen = {seq for seqs in streams for seq in seqs}
    if not seen:
        return
    first, last = min(seen), max(seen)
    assert (room.log.first, room.log.last) == (first, last)
    assert room.log.summary(first, last, b"").unseen == sorted(set(range(first, last + 1)) - seen)
    assert room.sessions[0].ledger.never_broadcast() == count - len(seen)
    assert (room.tally.conflicting, room.tally.repeated, room.tally.altered, room.tally.misrouted) == (0, 0, 0, 0)
    for index, (session, seqs) in enumerate(zip(room.sessions, streams, strict=True)):
        expected, distinct = session.arrivals.judge(first, last)
        assert (expected, distinct) == (last - first + 1, len(set(seqs)))
        assert duplicated[index] == len(seqs) - len(set(seqs))
        assert out_of_order[index] == _late(seqs)


def _late(seqs: list[int]) -> int:
    """How many came for the first time after a higher one."""
    highest, seen, late = 0, set(), 0
    for seq in seqs:
        late += seq not in seen and seq < highest
        seen.add(seq)
        highest = max(highest, seq)
    return late


def _sent(count: int, listeners: int = 1) -> tuple[Room, list[bytes]]:
    room = Room(count, *[0] * listeners, in_flight=count)
    room.clients[0].send()
    return room, room.sent()


def test_equal_bytes_are_not_decoded_again(monkeypatch: pytest.MonkeyPatch) -> None:
    room, messages = _sent(20)
    stream = b"".join(broadcast(seq, seq, message) for seq, message in enumerate(messages, 1))
    room.connections[0].dataReceived(stream)
    room.connections[1].dataReceived(stream[:1000])  # the first one tells where it joined
    monkeypatch.setattr(room.log, "observe", None)
    room.connections[1].dataReceived(stream[1000:])
    assert room.sessions[1].arrivals.next == 21


def test_other_bytes_of_the_same_message_are_the_same_message() -> None:
    room, messages = _sent(3)
    for seq, message in enumerate(messages, 1):
        room.connections[0].dataReceived(broadcast(seq, seq, message))
        room.connections[1].dataReceived(broadcast(seq, seq, message, anotherField="of a later version"))
    assert room.sessions[1].arrivals.next == 4
    assert room.tally.conflicting == 0
    assert sum(room.tally.delivery_ticks.values()) == 6


@pytest.mark.parametrize(
    "changed",
    [
        {"messageId": "018f3c5e-7b1a-7c3d-9e4f-ffffffffffff"},
        {"message": "other"},
        {"userId": "5"},
        {"username": "me"},
        {"messageType": "NONE"},
        {"roomId": "8"},
        {"timestamp": "2026-11-23T10:30:00.000001Z"},
        {"serverId": "another"},
    ],
)
def test_another_message_under_the_same_seq_is_a_conflict(changed: dict[str, object]) -> None:
    room, messages = _sent(2)
    for seq, message in enumerate(messages, 1):
        room.connections[0].dataReceived(broadcast(seq, seq, message))
    room.connections[1].dataReceived(broadcast(1, 1, messages[0]) + broadcast(2, 2, messages[1], **changed))
    assert room.tally.conflicting == 1


@pytest.mark.parametrize(
    "changed",
    [
        {"userId": "5"},
        {"username": "somebody"},
        {"messageType": "NOTHING"},
        {"roomId": "8"},
    ],
)
def test_a_message_that_is_not_what_was_sent_is_altered(changed: dict[str, object]) -> None:
    room, messages = _sent(1)
    room.connections[0].dataReceived(broadcast(1, 1, messages[0], **changed))
    assert room.tally.altered == 1


@pytest.mark.parametrize(
    ("was", "is_now"),
    [
        (b'"message":"', b'"message":"Psst! '),
        (b" ~run.0.0.", b" ~run.0.1."),  # a number that was never sent
        (b" ~run.0.0.", b" ~run.0.none."),
        (b'","timestamp"', b'x","timestamp"'),  # the time, garbled
    ],
)
def test_a_text_that_is_not_what_was_sent_is_altered(was: bytes, is_now: bytes) -> None:
    room, messages = _sent(1)
    assert was in messages[0]
    room.connections[0].dataReceived(broadcast(1, 1, messages[0].replace(was, is_now)))
    assert room.tally.altered == 1


def test_a_message_of_a_connection_to_another_room_is_misrouted() -> None:
    room, messages = _sent(1)
    room.connections[0].dataReceived(broadcast(1, 1, messages[0].replace(b" ~run.0.", b" ~run.9.")))
    assert room.tally.misrouted == 1


def test_a_message_of_the_phase_before_is_misrouted_behind_the_first_of_this_one_only() -> None:
    room = Room(1, first_client=5)
    room.clients[0].send()
    (message,) = room.sent()
    before = message.replace(b" ~run.5.", b" ~run.4.")
    room.connections[0].dataReceived(broadcast(1, 101, before) + broadcast(2, 102, before) + broadcast(3, 1, message))
    assert (room.tally.misrouted, room.tally.foreign, room.log.first) == (0, 2, 3)
    room.connections[0].dataReceived(broadcast(4, 104, before))
    assert room.tally.misrouted == 1


def test_a_message_of_others_in_another_room_is_misrouted() -> None:
    room = Room(0)
    room.connections[0].dataReceived(broadcast(1, 1, b'{"userId":"1","message":"hi"}', roomId="8"))
    assert room.tally.misrouted == 1


def test_the_same_message_under_two_seqs_is_repeated() -> None:
    room, messages = _sent(1)
    room.connections[0].dataReceived(broadcast(1, 1, messages[0]) + broadcast(2, 2, messages[0]))
    assert room.tally.repeated == 2, "for each connection of the room"


def test_a_broadcast_with_another_id_than_the_ack_is_noticed_in_either_order() -> None:
    room, messages = _sent(2)
    room.connections[0].dataReceived(ack(1, messages[0]) + broadcast(1, 9, messages[0]))
    room.connections[0].dataReceived(broadcast(2, 8, messages[1]) + ack(2, messages[1]))
    assert room.tally.changed_ids == 2


def test_messages_of_others_count_for_order_but_not_for_latency() -> None:
    room, messages = _sent(2)
    others = b'{"userId":"1","username":"abc","message":"hi","timestamp":"2026-11-23T10:30:00Z","messageType":"TEXT"}'
    stream = broadcast(4, 104, others) + broadcast(5, 1, messages[0]) + broadcast(6, 106, others)
    stream += broadcast(7, 2, messages[1]) + broadcast(8, 108, others)
    for connection, session in zip(room.connections, room.sessions, strict=True):
        connection.dataReceived(stream)
        assert session.arrivals.judge(room.log.first, room.log.last) == (5, 5)
    assert (room.log.first, room.log.last, room.tally.foreign) == (5, 7, 3)
    assert sum(room.tally.delivery_ticks.values()) == 4


def test_the_bytes_that_all_have_passed_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roomlog, "_TRIM_BYTES", 2_000)
    room, messages = _sent(200)
    for seq, message in enumerate(messages, 1):
        for connection in room.connections:
            connection.dataReceived(broadcast(seq, seq, message))
    assert len(room.log._bytes) < 5_000
    assert [session.arrivals.next for session in room.sessions] == [201, 201]


def test_bytes_are_compared_after_others_were_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roomlog, "_TRIM_BYTES", 2_000)
    room, messages = _sent(200)
    stream = [broadcast(seq, seq, message) for seq, message in enumerate(messages, 1)]
    for sent in stream[:100]:
        for connection in room.connections:
            connection.dataReceived(sent)
    for sent in stream[100:103]:
        room.connections[0].dataReceived(sent)
    monkeypatch.setattr(room.log, "observe", None)
    room.connections[1].dataReceived(b"".join(stream[100:103]))
    assert room.sessions[1].arrivals.next == 104


def test_messages_of_others_are_forgotten_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roomlog, "_TRIM_BYTES", 2_000)
    room, messages = _sent(100)
    for index, message in enumerate(messages):
        for connection in room.connections:
            connection.dataReceived(broadcast(2 * index + 1, 1000 + index, b'{"userId":"1","message":"hi"}'))
            connection.dataReceived(broadcast(2 * index + 2, index, message))
    assert len(room.log._gaps) < 20
    assert room.tally.foreign == 100


def test_one_that_hangs_back_does_not_hold_the_log_and_is_judged_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roomlog, "_TRIM_BYTES", 2_000)
    monkeypatch.setattr(roomlog, "_MAX_BYTES", 4_000)
    room, messages = _sent(200)
    stream = [broadcast(seq, seq, message) for seq, message in enumerate(messages, 1)]
    room.connections[1].dataReceived(stream[0])
    room.connections[0].dataReceived(b"".join(stream))
    assert len(room.log._bytes) < 10_000
    del stream[100]
    room.connections[1].dataReceived(b"".join(stream[1:]))
    assert room.sessions[1].arrivals.judge(1, 200) == (200, 199)
    assert room.tally.conflicting == 0


@pytest.mark.parametrize("seq", [10**6, 10**18, 10**30])
def test_an_absurd_seq_loses_the_connection_instead_of_the_memory(seq: int) -> None:
    room, messages = _sent(2)
    room.connections[0].dataReceived(broadcast(1, 1, messages[0]) + broadcast(seq, 2, messages[1]))
    assert room.sessions[0].lost
    assert f"seq {seq} came where 2 was due" in room.tally.causes[0]
