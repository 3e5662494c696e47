"""What a client makes of frames: every message once and in order, over any number of connections."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatflow.client.outbox import Outbox, Refusal
from chatflow.client.session import Acknowledged, Broken, Goodbye, Message, Presence, Reset, Session, StoredAt


def broadcast(seq: int) -> dict[str, Any]:
    return {
        "messageId": f"id {seq}", "roomId": "1", "seq": seq, "userId": "1", "username": "ann", "message": "Hello",
        "timestamp": "2026-11-23T10:30:00Z", "messageType": "TEXT", "serverId": "s",
    }  # fmt: skip


def ack(own_id: str) -> dict[str, Any]:
    return {"status": "SUCCESS", "messageId": f"of {own_id}", "originalMessage": {"clientMessageId": own_id}}


def seqs(session: Session, *frames: dict[str, Any]) -> list[int]:
    return [event.seq for frame in frames for event in session.received(frame) if isinstance(event, Message)]


def test_it_comes_back_to_where_it_was() -> None:
    assert Session().query() == {}
    assert Session(last=5).query() == {"last": 5}
    session = Session(since=3)
    assert session.query() == {"since": 3}
    assert seqs(session, broadcast(4), broadcast(5)) == [4, 5]
    assert session.query() == {"since": 5}


def test_what_was_seen_is_dropped_and_what_is_missing_breaks_the_connection() -> None:
    session = Session(last=5)
    assert seqs(session, broadcast(7), broadcast(7), broadcast(6), broadcast(8)) == [7, 8]
    with pytest.raises(Broken, match="message 9 is missing"):
        session.received(broadcast(10))
    assert session.query() == {"since": 8}


def test_the_first_message_behind_a_seq_must_follow_it() -> None:
    with pytest.raises(Broken):
        Session(since=3).received(broadcast(5))
    assert seqs(Session(since=0), broadcast(5), broadcast(6)) == [5, 6], "retention may have dropped the first ones"


def test_who_begins_live_resumes_from_the_head_of_the_welcome() -> None:
    session = Session()
    session.received({"type": "welcome", "head": 40})
    assert session.query() == {"since": 40}
    assert seqs(session, broadcast(41)) == [41]


def test_a_reset_is_told_and_what_follows_is_taken() -> None:
    session = Session(since=3)
    assert session.received({"type": "reset", "reason": "expired", "from": 9}) == [Reset("expired", 9)]
    session.received({"type": "resumed", "from": 9, "to": 10, "count": 2})
    assert seqs(session, broadcast(9), broadcast(10)) == [9, 10]
    ahead = Session(since=30)
    assert ahead.received({"type": "reset", "reason": "beyond_head", "from": 4}) == [Reset("beyond_head", 4)]
    assert ahead.received({"type": "reset", "reason": "restored", "from": 2}) == [Reset("restored", 2)]
    ahead.received({"type": "reset", "reason": "beyond_head", "from": 4})
    assert seqs(ahead, broadcast(4)) == [4]


@pytest.mark.parametrize(("code", "next_seq"), [("since_beyond_head", 4), ("since_expired", 90)])
def test_a_reset_in_words_is_one_too(code: str, next_seq: int) -> None:
    session = Session(since=30)
    told = session.received({"status": "ERROR", "code": code, "errorMessage": "so"})
    assert told == [Reset(code.removeprefix("since_"), None)]
    assert seqs(session, broadcast(next_seq), broadcast(next_seq + 1)) == [next_seq, next_seq + 1]


def test_a_heartbeat_beyond_what_was_seen_breaks_the_connection() -> None:
    session = Session(since=3)
    assert session.received({"type": "heartbeat", "head": 3}) == []
    with pytest.raises(Broken):
        session.received({"type": "heartbeat", "head": 4})


def test_other_frames_are_told() -> None:
    session = Session(since=3)
    assert session.received({"type": "stored", "messageId": "m", "seq": 4}) == [StoredAt("m", 4)]
    assert session.received({"type": "goodbye", "retryAfterMs": 500}) == [Goodbye(0.5)]
    user = {"userId": "1", "username": "ann", "connections": 2}
    told = session.received({"type": "presence", "members": 3, "users": [user]})
    assert told == [Presence(3, [("1", "ann", 2)])]
    assert session.received({"type": "of the future"}) == []
    refused = {"status": "ERROR", "code": "overloaded", "errorMessage": "later"}
    assert session.received(refused) == [Refusal("overloaded", "later")]
    assert session.received(ack("a")) == [Acknowledged("a", "of a")]
    session.received({"type": "welcome", "head": 40, "limits": {"maxFrameBytes": 1024}})
    assert session.max_frame_bytes == 1024


def test_what_is_acknowledged_is_not_sent_again() -> None:
    outbox = Outbox()
    outbox.add("a", b"A")
    outbox.add("b", b"B")
    assert outbox.to_send() == [b"A", b"B"]
    assert [outbox.acknowledged(own_id) for own_id in ("a", "a", "of somebody")] == [True, False, False]
    outbox.connected()
    assert outbox.to_send() == [b"B"]
    assert outbox.to_send() == [], "once on each connection"


@given(st.integers(0, 2**32), st.integers(0, 30))
def test_over_a_network_that_is_lost_at_any_time_everything_comes_once(seed: int, head: int) -> None:
    """A server that keeps its promises, and connections that lose any part of what is under way."""
    chance = random.Random(seed)
    log = [f"id {seq}" for seq in range(1, head + 1)]
    named: dict[str, str] = {}
    session, outbox = Session(since=0), Outbox()
    seen: list[str] = []
    acknowledged: list[str] = []
    for number in range(10):
        outbox.add(f"own {number}", f"own {number}".encode())
    for _ in range(200):
        if len(acknowledged) == 10 and len(seen) == len(log):
            break
        position = session.query()["since"]
        frames = [broadcast(seq) | {"messageId": log[seq - 1]} for seq in range(position + 1, len(log) + 1)]
        outbox.connected()
        for own in outbox.to_send():
            if chance.random() < 0.3:
                break  # lost on its way to the server, and all behind it
            if own.decode() not in named:
                named[own.decode()] = "of " + own.decode()
                log.append(named[own.decode()])
                frames.append(broadcast(len(log)) | {"messageId": log[-1]})
            frames.append(ack(own.decode()))
        for frame in frames[: chance.randrange(len(frames) + 1)]:
            for event in session.received(frame):
                if isinstance(event, Message):
                    seen.append(event.message_id)
                elif isinstance(event, Acknowledged) and outbox.acknowledged(event.own_id):
                    acknowledged.append(event.own_id)
    assert seen == log
    assert sorted(acknowledged) == sorted(f"own {number}" for number in range(10))
    assert len(log) == head + 10
