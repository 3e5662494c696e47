"""The same clientMessageId again, whenever and wherever: one message, and every answer names it."""

from __future__ import annotations

from contextlib import ExitStack

from testbed.client import ChatClient
from testbed.daemon import Daemon, running_daemon
from testbed.waiting import eventually

DAEMON_OPTIONS = ("--rooms", "1000")


def test_two_connections_that_send_the_same_message_are_told_the_same_id(daemon: Daemon, room: int) -> None:
    with ExitStack() as stack:
        listener = stack.enter_context(ChatClient(daemon.chat_url(room)))
        clients = [stack.enter_context(ChatClient(daemon.chat_url(room))) for _ in range(4)]
        for number in range(25):
            for client in clients:
                client.send(f"{number}", clientMessageId=f"id {number}")
        ids = [[client.receive_kind("ack")["messageId"] for _ in range(25)] for client in clients]
        assert ids == [ids[0]] * 4
        assert len(set(ids[0])) == 25
        seen = [listener.receive_kind("broadcast") for _ in range(25)]
        assert [frame["seq"] for frame in seen] == list(range(1, 26))
        assert sorted(frame["messageId"] for frame in seen) == sorted(ids[0])
        rows = daemon.sql("SELECT count(*), count(DISTINCT message_id) FROM messages WHERE room_id = %s", room)
        assert rows == [(25, 25)]


def test_a_message_whose_answer_was_lost_with_the_daemon_is_stored_once() -> None:
    with running_daemon() as daemon:
        with ChatClient(daemon.chat_url(1)) as client:
            client.send("once", clientMessageId="mine")
            eventually(lambda: daemon.sql("SELECT count(*) FROM messages") == [(1,)], "the message is stored")
            ((stored,),) = daemon.sql("SELECT message_id::text FROM messages")
            daemon.kill()
        daemon.restart()
        with ChatClient(daemon.chat_url(1)) as client:
            client.send("once", clientMessageId="mine")
            client.send("another", clientMessageId="other")
            assert client.receive_kind("ack")["messageId"] == stored
            assert client.receive_kind("ack")["messageId"] != stored
        assert daemon.sql("SELECT seq, message_text FROM messages ORDER BY seq") == [(1, "once"), (2, "another")]
