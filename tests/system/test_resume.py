"""Clients of a real daemon that come back: history, then what is live, whatever happens meanwhile."""

from __future__ import annotations

import contextlib
import json
import signal
from collections.abc import Iterator
from threading import Event, Thread

import pytest

from testbed.client import CLOSE, TEXT, ChatClient, Frame, RawClient, handshake, kind
from testbed.daemon import Daemon, running_daemon
from testbed.http_client import send_request
from testbed.postgres import execute, fresh_database
from testbed.postgres_proxy import PostgresProxy
from testbed.waiting import eventually

# Rooms that hold something before the daemon starts.
_LONG, _EXPIRED, _LAGGING = 901, 902, 903
_LONG_MESSAGES = 12_000

_FILL = """
INSERT INTO messages (room_id, seq, created_at, message_id, user_id, username, message_text, message_type, server_id,
                      client_timestamp)
SELECT %(room)s, seq, now(), gen_random_uuid(), 1, 'ann', repeat('x', 200), 'TEXT', 'before', now()
FROM generate_series(%(first)s, %(last)s) AS seq
"""
_HEAD = """
INSERT INTO rooms (room_id, last_seq) VALUES (%(room)s, %(last)s)
ON CONFLICT (room_id) DO UPDATE SET last_seq = excluded.last_seq
"""


def fill(url: str, room: int, first: int, last: int) -> None:
    """Messages of before, as another instance stored them."""
    for statement in (_FILL, _HEAD):
        execute(url, statement % {"room": room, "first": first, "last": last})


@pytest.fixture(scope="module")
def proxy() -> Iterator[PostgresProxy]:
    with fresh_database() as url:
        fill(url, _LONG, 1, _LONG_MESSAGES)
        fill(url, _EXPIRED, 2001, 3500)
        execute(url, f"UPDATE rooms SET first_seq = 2001 WHERE room_id = {_EXPIRED}")
        with PostgresProxy(url) as proxy:
            yield proxy


@pytest.fixture(scope="module")
def daemon(proxy: PostgresProxy) -> Iterator[Daemon]:
    with running_daemon("--rooms", "1000", database=proxy.url) as daemon:
        yield daemon


def talk(daemon: Daemon, room: int, count: int) -> list[Frame]:
    """Messages of a client that leaves again: the broadcasts of its own."""
    with ChatClient(daemon.chat_url(room)) as client:
        frames = client.talk(str(number) for number in range(1, count + 1))
        seen = [frame for frame in frames if kind(frame) == "broadcast"]
        while len(seen) < count:
            seen.append(client.receive_kind("broadcast"))
    return seen


def broadcasts(client: ChatClient, last: int) -> list[Frame]:
    """What comes, up to the message with that seq."""
    frames = [client.receive()]
    while frames[-1].get("seq") != last:
        frames.append(client.receive())
    return frames


def seqs(client: ChatClient, last: int) -> list[int]:
    return [frame["seq"] for frame in broadcasts(client, last)]


class TestQuery:
    @pytest.mark.parametrize(
        ("query", "parameter"),
        [
            ("since=x", "since"),
            ("since=", "since"),
            ("last=0", "last"),
            ("since=1&last=2", "last"),
            ("userId=1", "username"),
        ],
    )
    def test_a_wrong_one_is_400_and_named(self, daemon: Daemon, query: str, parameter: str) -> None:
        answer = send_request(daemon.port, handshake(daemon.port, f"/chat/1?{query}"))
        assert answer.status == 400
        body = answer.json()
        assert (body["status"], body["code"], body["field"]) == ("ERROR", "invalid_parameter", parameter)
        assert parameter in body["errorMessage"]


class TestHistory:
    def test_it_is_frame_for_frame_what_was_broadcast(self, daemon: Daemon, room: int) -> None:
        live = talk(daemon, room, 300)
        with ChatClient(daemon.chat_url(f"{room}?since=0")) as client:
            assert broadcasts(client, 300) == live
        daemon.stop()
        daemon.restart()  # without a replay buffer: all from the database
        for since in (0, 1, 150, 299):
            with ChatClient(daemon.chat_url(f"{room}?since={since}")) as client:
                assert broadcasts(client, 300) == live[since:]
        with ChatClient(daemon.chat_url(f"{room}?last=10")) as client:
            assert broadcasts(client, 300) == live[-10:]

    def test_live_messages_follow_and_nothing_else(self, daemon: Daemon, room: int) -> None:
        talk(daemon, room, 20)
        with ChatClient(daemon.chat_url(f"{room}?since=15")) as client, ChatClient(daemon.chat_url(room)) as other:
            assert seqs(client, 20) == [16, 17, 18, 19, 20]
            other.send("live")
            assert client.receive()["seq"] == 21
            assert client.frames_until_now() == []

    def test_many_pages_come_complete_and_in_order(self, daemon: Daemon) -> None:
        with ChatClient(daemon.chat_url(f"{_LONG}?since=7")) as client:
            assert seqs(client, _LONG_MESSAGES) == list(range(8, _LONG_MESSAGES + 1))

    def test_since_beyond_the_head_is_one_error_and_what_is_live_follows(self, daemon: Daemon, room: int) -> None:
        talk(daemon, room, 3)
        with ChatClient(daemon.chat_url(f"{room}?since=4")) as client:
            client.send("live")
            frames = [client.receive() for _ in range(3)]
            assert sorted(map(kind, frames)) == ["ack", "broadcast", "error"]
            (error,) = [frame for frame in frames if kind(frame) == "error"]
            assert (error["code"], error["field"]) == ("since_beyond_head", "since")
            (broadcast,) = [frame for frame in frames if kind(frame) == "broadcast"]
            assert (broadcast["seq"], broadcast["message"]) == (4, "live")

    def test_since_before_what_is_held_is_one_error_and_what_is_held_follows(self, daemon: Daemon) -> None:
        with ChatClient(daemon.chat_url(f"{_EXPIRED}?since=1500")) as client:
            error, *rest = broadcasts(client, 3500)
            assert (kind(error), error["code"]) == ("error", "since_expired")
            assert "2001" in error["errorMessage"]
            assert [frame["seq"] for frame in rest] == list(range(2001, 3501))
        for wish in ("since=0", "since=2000"):
            with ChatClient(daemon.chat_url(f"{_EXPIRED}?{wish}")) as client:
                assert seqs(client, 3500) == list(range(2001, 3501))

    def test_one_that_another_instance_stored_is_not_beyond_the_head(self, daemon: Daemon) -> None:
        fill(daemon.database_url, _LAGGING, 1, 30)  # nobody tells this daemon
        with ChatClient(daemon.chat_url(f"{_LAGGING}?since=30")) as client:
            client.send("live")
            assert client.receive_kind("broadcast")["seq"] == 31
        with ChatClient(daemon.chat_url(f"{_LAGGING}?since=20")) as client:
            assert seqs(client, 31) == list(range(21, 32))


class TestUnderTraffic:
    def test_there_is_no_hole_and_no_double_at_the_joint(self, daemon: Daemon, room: int) -> None:
        stop = Event()

        def chatter() -> None:
            with ChatClient(daemon.chat_url(room)) as client:
                while not stop.is_set():
                    client.talk((str(number) for number in range(200)), window=30)

        talk(daemon, room, 1500)
        thread = Thread(target=chatter)
        thread.start()
        try:
            for since in (0, 1, 999, 1000, 1001, 1400, 1499, 1500):
                with ChatClient(daemon.chat_url(f"{room}?since={since}")) as client:
                    found = [client.receive()["seq"] for _ in range(2500 - since)]
                assert found == list(range(since + 1, 2501))
        finally:
            stop.set()
            thread.join()

    def test_a_client_gets_what_it_says_while_it_resumes(self, daemon: Daemon) -> None:
        with ChatClient(daemon.chat_url(f"{_LONG}?since=0")) as client:
            client.send("from the middle")
            last = 0
            while True:
                frame = client.receive()
                if kind(frame) == "broadcast":
                    assert frame["seq"] == last + 1
                    last += 1
                    if frame["message"] == "from the middle":
                        return


class TestSlowReader:
    def test_it_is_given_all_and_is_not_closed_for_what_it_has_not_read(self, daemon: Daemon) -> None:
        closed = daemon.counter("chatflow_slow_clients_closed_total")
        with RawClient(daemon.port, f"/chat/{_LONG}?since=0", receive_buffer_bytes=4096) as client:
            with ChatClient(daemon.chat_url(f"{_LONG}?last=1")) as other:
                other.receive()
                other.talk(["x"] * 50)
            head = daemon.sql("SELECT last_seq FROM rooms WHERE room_id = %s", _LONG)[0][0]
            assert daemon.counter("chatflow_resuming") == 1
            client.read_faster()
            for seq in range(1, head + 1):
                frame = client.receive()
                assert frame.opcode == TEXT and json.loads(frame.payload)["seq"] == seq
        assert daemon.counter("chatflow_slow_clients_closed_total") == closed
        eventually(lambda: daemon.counter("chatflow_resuming") == 0, "nobody resumes")

    def test_one_that_goes_away_in_the_middle_leaves_nothing_behind(self, daemon: Daemon) -> None:
        for end in ("reset", "close"):
            with RawClient(daemon.port, f"/chat/{_LONG}?since=0", receive_buffer_bytes=4096) as client:
                client.receive()
                eventually(lambda: daemon.counter("chatflow_resuming") == 1, "it resumes")
                if end == "reset":
                    client.reset()
            eventually(lambda: daemon.counter("chatflow_resuming") == 0, "nobody resumes")
        assert daemon.metric("rooms", "totalSessions") == 0
        assert "#error]" not in daemon.output() and "#critical]" not in daemon.output()


class TestDatabaseAway:
    def test_who_resumes_waits_and_misses_nothing(self, daemon: Daemon, proxy: PostgresProxy, room: int) -> None:
        talk(daemon, room, 10)
        daemon.stop()
        daemon.restart()
        proxy.cut()
        try:
            with contextlib.ExitStack() as stack:
                waiting = [
                    stack.enter_context(ChatClient(daemon.chat_url(f"{room}?{wish}")))
                    for wish in ("since=0", "last=5", "since=10", "since=99")
                ]
                waiting[0].send("when it is back")
                eventually(lambda: daemon.counter("chatflow_database_retries_total") > 0, "the commit is tried again")
                proxy.heal()
                assert [kind(frame) for frame in broadcasts(waiting[0], 11)].count("broadcast") == 11
                assert seqs(waiting[1], 11) == [6, 7, 8, 9, 10, 11]
                assert seqs(waiting[2], 11) == [11]
                assert [kind(frame) for frame in broadcasts(waiting[3], 11)] == ["error", "broadcast"]
        finally:
            proxy.heal()


def test_a_stop_does_not_wait_for_those_who_resume(daemon: Daemon) -> None:
    with RawClient(daemon.port, f"/chat/{_LONG}?since=0", receive_buffer_bytes=4096) as client:
        eventually(lambda: daemon.counter("chatflow_resuming") == 1, "it resumes")
        daemon.send_signal(signal.SIGTERM)
        client.read_faster()
        while (frame := client.receive()).opcode != CLOSE:
            pass
        assert frame.close_code == 1012
        client.send(b"\x88\x80\x00\x00\x00\x00")
        client.wait_end()
        assert daemon.wait() == 0
    assert "Traceback" not in daemon.output().split("received SIGTERM")[1]
