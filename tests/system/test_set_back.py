"""The database of a running daemon is set back to an earlier state."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from testbed.client import ChatClient, Frame
from testbed.daemon import Daemon
from testbed.waiting import eventually

DAEMON_OPTIONS = ("--rooms", "1000")

# What a restore to a point in time leaves: everything as it was after the tenth message.
_RESTORE = (
    "DELETE FROM messages WHERE room_id = {room} AND seq > 10",
    "UPDATE rooms SET last_seq = 10, recent_envelopes = '{{}}' WHERE room_id = {room}",
)
_LOSE = ("DELETE FROM messages WHERE room_id = {room}", "DELETE FROM rooms WHERE room_id = {room}")


def restore(daemon: Daemon, room: int, statements: tuple[str, ...] = _RESTORE) -> None:
    daemon.sql(f"DO $$ BEGIN {'; '.join(statements).format(room=room)}; END $$")


def until(client: ChatClient, is_wanted: Callable[[Frame], bool], seconds: float = 15) -> Frame:
    deadline = time.monotonic() + seconds
    while True:
        frame: Frame = json.loads(client.socket.recv(max(0.0, deadline - time.monotonic())))
        if is_wanted(frame):
            return frame


def is_broadcast(frame: Frame) -> bool:
    return "messageId" in frame and "roomId" in frame


def say(client: ChatClient, texts: int) -> list[Any]:
    """The seqs of so many messages, as they come back."""
    seqs = []
    for _ in range(texts):
        client.send("hello")
        seqs.append(until(client, is_broadcast)["seq"])
    return seqs


@pytest.fixture
def speaker(daemon: Daemon, room: int) -> Iterator[ChatClient]:
    """Who speaks chatflow.v2, and has 20 messages."""
    with ChatClient(daemon.chat_url(room), subprotocols=[Subprotocol("chatflow.v2")]) as client:
        assert say(client, 20) == list(range(1, 21))
        yield client


def test_within_ten_seconds_clients_are_told_and_the_room_goes_on(
    daemon: Daemon, room: int, speaker: ChatClient
) -> None:
    before = daemon.counter("chatflow_rooms_set_back_total")
    with ChatClient(daemon.chat_url(room)) as plain:
        restore(daemon, room)
        reset = until(speaker, lambda frame: frame.get("type") == "reset")
        assert reset == {"type": "reset", "reason": "restored", "from": 11}
        with pytest.raises(ConnectionClosed):
            while True:
                plain.socket.recv(10)
        assert plain.socket.close_code == 1012
    assert daemon.counter("chatflow_rooms_set_back_total") == before + 1
    assert f"room {room} was set back from message 20 to 10" in daemon.output()
    with ChatClient(f"{daemon.chat_url(room)}?since=20") as back:
        assert back.receive_kind("error")["code"] == "since_beyond_head"
        assert say(speaker, 3) == [11, 12, 13]
        assert [back.receive_kind("broadcast")["seq"] for _ in range(3)] == [11, 12, 13]
    with ChatClient(f"{daemon.chat_url(room)}?since=9") as reader:
        assert [reader.receive_kind("broadcast")["seq"] for _ in range(4)] == [10, 11, 12, 13]


def test_who_speaks_before_anybody_has_noticed_is_heard_by_all(daemon: Daemon, room: int, speaker: ChatClient) -> None:
    restore(daemon, room)
    speaker.send("the first of the new ones", clientMessageId="again")
    assert until(speaker, lambda frame: frame.get("type") == "reset")["from"] == 11
    heard = until(speaker, is_broadcast)
    assert (heard["seq"], heard["message"]) == (11, "the first of the new ones")
    speaker.send("the first of the new ones", clientMessageId="again")
    assert until(speaker, lambda frame: "status" in frame)["status"] == "SUCCESS"
    eventually(
        lambda: daemon.sql("SELECT last_seq FROM rooms WHERE room_id = %s", room) == [(11,)], "it is stored once"
    )


def test_a_room_that_is_lost_begins_anew(daemon: Daemon, room: int, speaker: ChatClient) -> None:
    restore(daemon, room, _LOSE)
    assert until(speaker, lambda frame: frame.get("type") == "reset")["from"] == 1
    assert say(speaker, 2) == [1, 2]
