"""How connections end: the client's close, the server's, and none at all."""

from __future__ import annotations

import pytest

from testbed.client import CLOSE, TEXT, ChatClient, RawClient, client_frame, kind
from testbed.daemon import Daemon
from testbed.waiting import eventually

DAEMON_OPTIONS = ("--rooms", "1000", "--max-client-buffer-bytes", "50000000")


def test_a_close_frame_is_answered_and_ends_the_connection(daemon: Daemon, room: int) -> None:
    with RawClient(daemon.port, f"/chat/{room}") as client:
        client.send(client_frame(CLOSE, b"\x03\xe8"))
        assert client.receive_close() == 1000
        with pytest.raises(EOFError):
            client.receive()


def test_what_was_sent_before_the_close_frame_is_stored(daemon: Daemon, room: int) -> None:
    with RawClient(daemon.port, f"/chat/{room}") as client:
        for number in range(20):
            client.send_message(f"before close {number}")
        client.send(client_frame(CLOSE, b"\x03\xe8"))
        client.wait_end()
    eventually(
        lambda: daemon.sql("SELECT count(*) FROM messages WHERE room_id = %s", room) == [(20,)],
        "20 messages are stored",
    )


@pytest.mark.parametrize("ending", ["reset", "end of stream"])
def test_an_end_without_a_close_frame_is_taken_silently(daemon: Daemon, room: int, ending: str) -> None:
    with ChatClient(daemon.chat_url(room)) as witness:
        client = RawClient(daemon.port, f"/chat/{room}")
        before = daemon.output()
        for number in range(50):
            client.send_message(f"and gone {number}")
        if ending == "reset":
            client.reset()
        else:
            client.socket.close()
        eventually(lambda: daemon.metric("rooms", "roomStats").get(str(room)) == 1, "only the witness is in the room")
        frames = witness.frames_until_now()
    assert {kind(frame) for frame in frames} <= {"broadcast"}
    assert daemon.errors() == ""
    noise = [line for line in daemon.output()[len(before) :].splitlines() if "#info]" not in line]
    assert noise == []


def test_a_client_in_the_middle_of_many_broadcasts_can_close_cleanly(daemon: Daemon, room: int) -> None:
    with ChatClient(daemon.chat_url(room)) as talker:
        with ChatClient(daemon.chat_url(room)) as leaver:
            for number in range(300):
                talker.send(f"{number}")
            leaver.receive()
        assert leaver.wait_closed() == 1000
        assert sum(kind(frame) == "ack" for frame in talker.frames_until_now()) == 300


def test_a_client_that_closes_before_it_has_read_everything_gets_the_rest_and_then_the_end(
    daemon: Daemon, room: int
) -> None:
    with (
        ChatClient(daemon.chat_url(room)) as talker,
        RawClient(daemon.port, f"/chat/{room}", receive_buffer_bytes=4096) as reader,
    ):
        total = 3000  # of 2 KB: more than the system holds for a socket (4 MB on Linux), and less than the daemon does
        for number in range(total):
            talker.send(f"{number} ".ljust(500, "\N{PARTY POPPER}"))
        talker.frames_until_now()
        reader.send(client_frame(CLOSE, b"\x03\xe8"))
        talker.frames_until_now()
        reader.read_faster()
        frames = 0
        while reader.receive().opcode != CLOSE:
            frames += 1
        with pytest.raises(EOFError):
            reader.receive()
    assert total <= frames <= total + 2


def test_nothing_comes_after_a_close_frame(daemon: Daemon, room: int) -> None:
    with ChatClient(daemon.chat_url(room)) as talker, RawClient(daemon.port, f"/chat/{room}") as broken:
        broken.send(client_frame(TEXT, b"\xff"))
        assert broken.receive_close() == 1007
        talker.frames_until_now()
        broken.send(client_frame(CLOSE, b"\x03\xef"))
        with pytest.raises((EOFError, ConnectionError)):
            raise AssertionError(broken.receive())
