"""SIGTERM and SIGINT: acknowledgements finish, clients are asked to come back, and the process ends with status 0."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from contextlib import closing, suppress

import psutil
import psycopg2
import pytest

from testbed.client import CLOSE, ChatClient, RawClient, client_frame, kind
from testbed.crowd import Crowd, check_stored
from testbed.daemon import Daemon, running_daemon
from testbed.recounting import recount
from testbed.waiting import eventually


@pytest.fixture
def mine(module_database_url: str) -> Iterator[Daemon]:
    """A daemon for one test, on the tests' PostgreSQL, where every count is right afterwards."""
    with running_daemon(database=module_database_url) as daemon:
        yield daemon
    assert recount(module_database_url) == {}


def check_gone(daemon: Daemon) -> None:
    """No process, no pid file and no port are left."""
    assert daemon.processes() == []
    assert not (daemon.directory / "twistd.pid").exists()
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", daemon.port))
        other.listen()
    assert daemon.errors() == ""
    assert "Traceback" not in daemon.output()


@pytest.mark.parametrize(("number", "database"), [(signal.SIGTERM, "embedded"), (signal.SIGINT, "URL")])
def test_under_load_all_that_is_stored_is_acknowledged_and_clients_get_1012(
    module_database_url: str, number: signal.Signals, database: str
) -> None:
    with running_daemon(database=module_database_url if database == "URL" else "embedded") as daemon:
        with Crowd(daemon) as crowd:
            crowd.wait_for(500)
            daemon.send_signal(number)
            assert daemon.wait() == 0
            crowd.wait_until_closed()
        check_gone(daemon)
        assert {speaker.close_code for speaker in crowd.speakers} == {1012}
        if database == "embedded":
            daemon.restart()
        check_stored(daemon, crowd)
        stored = {
            text for (text,) in daemon.sql("SELECT message_text FROM messages WHERE message_text LIKE 'crowd %%'")
        }
        for speaker in crowd.speakers:
            assert stored & set(speaker.sent) == set(speaker.acks), "nothing was stored without an acknowledgement"
            assert set(speaker.errors) <= {"draining"}


def test_while_it_drains_it_is_not_ready_and_takes_nobody_but_answers_what_it_has(mine: Daemon) -> None:
    with ChatClient(mine.chat_url(1)) as client, ChatClient(mine.chat_url(1)) as listener:
        with mine.held_database():
            for number in range(10):
                client.send(f"accepted {number}")
            eventually(lambda: mine.metric("writeManager", "messagesQueued") == 10, "ten are accepted")
            mine.send_signal(signal.SIGTERM)
            eventually(lambda: mine.get("/health/ready").status == 503, "it is not ready any more")
            assert mine.get("/health").json()["status"] == "DOWN"
            assert mine.get("/health/live").status == 200
            with RawClient(mine.port, "/chat/1") as late:
                assert late.answer.status == 503
            client.send("too late")
            mine.send_signal(signal.SIGTERM)  # impatience changes nothing
        frames = [client.receive() for _ in range(20)]
        assert sum(kind(frame) == "ack" for frame in frames) == 10
        assert [listener.receive()["message"] for _ in range(10)] == [f"accepted {number}" for number in range(10)]
        assert client.wait_closed() == listener.wait_closed() == 1012
    assert mine.wait() == 0
    check_gone(mine)
    assert mine.sql("SELECT count(*) FROM messages WHERE message_text = 'too late'") == [(0,)]


def test_clients_that_do_not_take_part_are_dropped(mine: Daemon) -> None:
    with (
        ChatClient(mine.chat_url(2)) as talker,
        RawClient(mine.port, "/chat/2") as deaf,
        RawClient(mine.port, "/chat/2", receive_buffer_bytes=4096) as half_closed,
    ):
        talker.talk(["\N{PARTY POPPER}" * 500] * 3000)
        half_closed.send(client_frame(CLOSE, b"\x03\xe8"))  # and then takes nothing
        talker.frames_until_now()
        mine.send_signal(signal.SIGTERM)
        assert deaf.receive_close() == 1012
        assert talker.wait_closed() == 1012
        assert mine.wait(15) == 0
    check_gone(mine)


def test_a_client_that_does_not_answer_is_left_behind_at_the_deadline(module_database_url: str) -> None:
    with running_daemon("--drain-seconds", "1", database=module_database_url) as daemon:
        with RawClient(daemon.port) as deaf:
            daemon.send_signal(signal.SIGTERM)
            assert deaf.receive_close() == 1012
            assert daemon.wait(4) == 0
        check_gone(daemon)


@pytest.mark.parametrize("database", ["embedded", "URL"])
def test_a_database_that_hangs_is_left_behind_at_the_deadline(module_database_url: str, database: str) -> None:
    url = module_database_url if database == "URL" else "embedded"
    with running_daemon("--drain-seconds", "2", database=url) as daemon, ChatClient(daemon.chat_url(3)) as client:
        with daemon.held_database():
            client.send("never acknowledged")
            eventually(lambda: daemon.metric("writeManager", "messagesQueued") == 1, "one is accepted")
            daemon.send_signal(signal.SIGTERM)
            assert client.receive()["code"] == "unavailable"
            assert client.wait_closed() == 1012
            assert daemon.wait(6) == 0
        eventually(lambda: daemon.processes() == [], "PostgreSQL ends, if later")


def test_a_stopped_postgresql_does_not_keep_it_beyond_the_deadline() -> None:
    with running_daemon("--drain-seconds", "2") as daemon, ChatClient(daemon.chat_url(3)) as client:
        for process in daemon.processes():
            if process.pid != daemon.process.pid:
                with suppress(psutil.NoSuchProcess):  # some of PostgreSQL's end by themselves
                    process.suspend()
        client.send("never acknowledged")
        eventually(lambda: daemon.metric("writeManager", "messagesQueued") == 1, "one is accepted")
        daemon.send_signal(signal.SIGTERM)
        assert client.receive()["code"] == "unavailable"
        assert client.wait_closed() == 1012
        assert daemon.wait(6) == 0


def test_a_refresh_of_the_views_is_not_waited_for(module_database_url: str) -> None:
    waiting = (
        "SELECT 1 FROM pg_stat_activity WHERE application_name LIKE 'chatflow-views%%' AND wait_event_type = 'Lock'"
    )
    with (
        running_daemon("--refresh-views-seconds", "0.2", database=module_database_url) as daemon,
        closing(psycopg2.connect(module_database_url)) as connection,
        connection.cursor() as cursor,
    ):
        cursor.execute("REFRESH MATERIALIZED VIEW mv_top_users")  # not committed
        eventually(lambda: daemon.sql(waiting), "a refresh is under way")
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(8) == 0
        check_gone(daemon)


def test_without_clients_it_ends_and_comes_back_where_it_was() -> None:
    with running_daemon() as daemon:
        with ChatClient(daemon.chat_url(1)) as client:
            client.talk(["first"])
        assert daemon.stop() == 0
        check_gone(daemon)
        daemon.restart()
        with ChatClient(daemon.chat_url(1)) as client:
            client.send("second")
            assert client.receive_kind("broadcast")["seq"] == 2


def test_before_it_drains_it_is_not_ready_but_serves_everybody_for_a_grace(module_database_url: str) -> None:
    with (
        running_daemon("--drain-grace-seconds", "600", database=module_database_url) as daemon,
        ChatClient(daemon.chat_url(1)) as client,
    ):
        daemon.send_signal(signal.SIGTERM)
        eventually(lambda: daemon.get("/health/ready").status == 503, "it is not ready any more")
        assert daemon.get("/health").json()["status"] == "DOWN"
        assert daemon.counter("chatflow_draining") == 1
        with ChatClient(daemon.chat_url(1)) as late:  # a balancer that has not noticed yet
            late.talk(["served"])
            while client.receive_kind("broadcast")["message"] != "served":
                pass
            daemon.send_signal(signal.SIGTERM)  # impatience ends the grace
            assert client.wait_closed() == late.wait_closed() == 1012
        assert daemon.wait() == 0
        assert "serving until then" in daemon.output()
        check_gone(daemon)
