"""The same clientMessageId again, whenever and wherever: one message, and every answer names it."""

from __future__ import annotations

from contextlib import ExitStack

from testbed.client import ChatClient, Frame, kind
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


def test_another_message_under_the_same_id_is_refused_and_the_first_one_may_be_sent_again(
    daemon: Daemon, room: int
) -> None:
    with ChatClient(daemon.chat_url(room)) as client:
        client.send("first", clientMessageId="mine")
        first = client.receive_kind("ack")
        for fields in ({"message": "other"}, {"username": "another"}, {"messageType": "LEAVE"}):
            client.send(**{"message": "first", "clientMessageId": "mine", **fields})
            error = client.receive_kind("error")
            assert (error["code"], error["field"]) == ("id_conflict", "clientMessageId")
        client.send("first", clientMessageId="mine", timestamp="2027-01-01T00:00:00Z")
        assert client.receive_kind("ack")["messageId"] == first["messageId"]
        client.send("first", clientMessageId="mine", userId="54321")
        assert client.receive_kind("ack")["messageId"] != first["messageId"]
        rows = daemon.sql("SELECT seq, user_id, message_text FROM messages WHERE room_id = %s ORDER BY seq", room)
        assert rows == [(1, 12345, "first"), (2, 54321, "first")]


def test_in_one_envelope_each_sender_is_told_what_became_of_its_own(daemon: Daemon, room: int) -> None:
    with ChatClient(daemon.chat_url(room)) as one:
        for number in range(10):
            one.send(f"text {number}", clientMessageId=f"other {number % 5}")
        answers: list[Frame] = []
        while len(answers) < 10:
            frame = one.receive()
            answers += [frame] if kind(frame) != "broadcast" else []
    acknowledged = [frame["originalMessage"]["message"] for frame in answers if kind(frame) == "ack"]
    assert acknowledged == [f"text {number}" for number in range(5)]
    assert [frame["code"] for frame in answers if kind(frame) == "error"] == ["id_conflict"] * 5
