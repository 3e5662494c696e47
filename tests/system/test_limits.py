"""What is too much, or too slow: each limit has its outcome, and nobody else notices."""

from __future__ import annotations

import json
import resource
import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from threading import Thread

import psutil
import pytest

from chatflow.edge.site import SPARE_CONNECTIONS
from testbed.client import CLOSE, PING, PONG, TEXT, ChatClient, Frame, RawClient, client_frame, kind
from testbed.daemon import Daemon, running_daemon
from testbed.waiting import eventually

#: A thousand connections take their time on a busy machine.
_PATIENT = ("--request-seconds", "600")
_LARGE = "\N{PARTY POPPER}" * 500  # 2 KB


def send_numbers(client: ChatClient, total: int) -> None:
    """As messages, without waiting for any answer."""
    for number in range(total):
        client.send(f"{number}")


def seqs(frames: list[Frame]) -> list[int]:
    """Of the broadcasts among them."""
    return [frame["seq"] for frame in frames if kind(frame) == "broadcast"]


def test_slow_readers_are_closed_with_1013_while_memory_is_bounded_and_others_do_not_notice(
    module_database_url: str,
) -> None:
    total = 6000  # 12 MB: more than the system's own buffers (4 MB on Linux) and what is allowed here together
    with (
        running_daemon("--max-client-buffer-bytes", "100000", database=module_database_url) as daemon,
        ExitStack() as stack,
    ):
        talker = stack.enter_context(ChatClient(daemon.chat_url(1)))
        talker.talk([_LARGE] * 500)
        process = psutil.Process(daemon.process.pid)
        before_bytes = process.memory_info().rss

        listener = stack.enter_context(ChatClient(daemon.chat_url(1)))
        slow = [stack.enter_context(RawClient(daemon.port, "/chat/1", receive_buffer_bytes=4096)) for _ in range(5)]
        heard: list[int] = []
        while daemon.counter("chatflow_slow_clients_closed_total") < len(slow):
            assert len(heard) < total, "far more was said than may wait"
            heard += seqs(talker.talk([_LARGE] * 200))

        slow[0].read_faster()
        received = []
        while (frame := slow[0].receive()).opcode != CLOSE:
            received.append(json.loads(frame.payload)["seq"])
        assert frame.close_code == 1013
        assert received == heard[: len(received)], "what it got until then has no hole"

        heard += seqs(talker.talk([_LARGE] * (total - len(heard))))
        assert process.memory_info().rss - before_bytes < 6_000_000
        assert heard == list(range(heard[0], heard[0] + total))
        assert [listener.receive()["seq"] for _ in range(total)] == heard


def test_who_sends_pings_and_never_reads_the_answers_costs_little_and_is_closed_in_time(
    module_database_url: str,
) -> None:
    with (
        running_daemon("--send-timeout-seconds", "1", database=module_database_url) as daemon,
        RawClient(daemon.port, receive_buffer_bytes=4096) as client,
    ):
        process = psutil.Process(daemon.process.pid)
        before_bytes = process.memory_info().rss
        pings = client_frame(PING, b"x" * 125) * 1000
        with suppress(ConnectionError):
            while not daemon.counter("chatflow_slow_clients_closed_total"):
                client.send(pings)
        assert daemon.counter("chatflow_slow_clients_closed_total") == 1
        assert process.memory_info().rss - before_bytes < 5_000_000


def test_who_sends_requests_and_never_reads_the_answers_is_closed(daemon: Daemon) -> None:
    process = psutil.Process(daemon.process.pid)
    before_bytes = process.memory_info().rss
    requests = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 1000
    with (
        socket.create_connection(("127.0.0.1", daemon.port), timeout=20) as connection,
        pytest.raises(ConnectionError),
    ):
        for _ in range(1000):
            connection.sendall(requests)
    assert process.memory_info().rss - before_bytes < 10_000_000


def test_beyond_all_websocket_connections_and_a_thousand_the_oldest_without_a_request_makes_room_for_the_next(
    module_database_url: str,
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4096)), hard))
    with (
        running_daemon("--max-connections", "2", *_PATIENT, database=module_database_url) as daemon,
        ExitStack() as stack,
    ):
        stack.enter_context(RawClient(daemon.port))  # it counts as well
        idle = [stack.enter_context(_connect(daemon)) for _ in range(1 + SPARE_CONNECTIONS)]
        assert daemon.is_ready(), "a load balancer always gets its answer"
        assert _ends(idle[0])
        idle[-1].sendall(b"GET /health/ready HTTP/1.1\r\nHost: x\r\n\r\n")
        assert idle[-1].recv(12) == b"HTTP/1.1 200"
        assert daemon.counter('chatflow_limited_total{reason="unfinished"}') >= 1


def _connect(daemon: Daemon) -> socket.socket:
    return socket.create_connection(("127.0.0.1", daemon.port), timeout=20)


def _ends(connection: socket.socket) -> bool:
    try:
        return connection.recv(1) == b""
    except ConnectionError:
        return True


@pytest.fixture(scope="module")
def hasty(module_database_url: str) -> Iterator[Daemon]:
    options = ("--send-timeout-seconds", "2", "--max-client-buffer-bytes", "2000000")
    with running_daemon(*options, database=module_database_url) as hasty:
        with ChatClient(hasty.chat_url(3)) as talker:
            talker.talk(["\x01" * 500] * 1000)  # 3.2 MB of JSON
        yield hasty


class TestStandingStill:
    """What waits is beyond the system's own buffers (3 MB on Linux's loopback); what counts is when some was taken."""

    def ask(self, daemon: Daemon) -> socket.socket:
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(20)
        connection.connect(("127.0.0.1", daemon.port))
        connection.sendall(b"GET /api/rooms/3/messages?limit=1000 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        return connection

    def test_an_answer_that_nobody_takes_is_given_up_while_a_slow_client_gets_all_of_it(self, hasty: Daemon) -> None:
        before = hasty.counter("chatflow_slow_clients_closed_total")
        with self.ask(hasty) as still, self.ask(hasty) as slow:
            received = 0
            while hasty.counter("chatflow_slow_clients_closed_total") == before:  # the other one
                received += len(slow.recv(4096))
            with pytest.raises(ConnectionError):
                while still.recv(1 << 20):
                    pass
            while more := slow.recv(1 << 16):
                received += len(more)
            assert received > 3_000_000
        assert hasty.counter("chatflow_slow_clients_closed_total") == before + 1

    def test_who_takes_nothing_is_closed_and_who_is_behind_and_goes_on_reading_is_not(self, hasty: Daemon) -> None:
        before = hasty.counter("chatflow_slow_clients_closed_total")
        with (
            ChatClient(hasty.chat_url(4)) as talker,
            RawClient(hasty.port, "/chat/4", receive_buffer_bytes=4096) as still,
            RawClient(hasty.port, "/chat/4", receive_buffer_bytes=4096) as behind,
        ):
            said: list[int] = []
            received: list[int] = []
            while hasty.counter("chatflow_slow_clients_closed_total") == before:
                said += seqs(talker.talk([_LARGE] * (100 if len(said) < 1800 else 1)))  # 4 MB at once
                received.append(json.loads(behind.receive().payload)["seq"])
            while len(received) < len(said):
                received.append(json.loads(behind.receive().payload)["seq"])
            assert received == said
            assert still.receive_close() == 1013
        assert hasty.counter("chatflow_slow_clients_closed_total") == before + 1


def test_who_never_lets_its_buffer_run_empty_and_keeps_up_on_the_whole_is_not_closed(module_database_url: str) -> None:
    with (
        running_daemon("--max-client-buffer-bytes", "3000000", database=module_database_url) as daemon,
        ChatClient(daemon.chat_url(5)) as talker,
        RawClient(daemon.port, "/chat/5", receive_buffer_bytes=4096) as behind,
    ):
        said = seqs(talker.talk([_LARGE] * 1800))  # 4 MB: the system's buffers are full, and some hundred KB wait here
        received: list[int] = []
        for _ in range(20):  # 4 MB more, which is more than may ever wait
            said += seqs(talker.talk([_LARGE] * 90))
            received += [json.loads(behind.receive().payload)["seq"] for _ in range(90)]
        received += [json.loads(behind.receive().payload)["seq"] for _ in range(len(said) - len(received))]
        assert received == said
        assert daemon.counter("chatflow_slow_clients_closed_total") == 0


class TestOverload:
    """The database hangs: what is accepted then is bounded, what is beyond is refused or not read."""

    def test_beyond_max_pending_messages_each_is_refused_and_those_before_are_stored(
        self, module_database_url: str
    ) -> None:
        options = ("--max-pending-messages", "10", "--max-pending-per-connection", "10", "--batch-size", "10")
        with (
            running_daemon(*options, database=module_database_url) as daemon,
            ChatClient(daemon.chat_url(1)) as first,
            ChatClient(daemon.chat_url(2)) as second,
        ):
            with daemon.held_database():
                for number in range(10):
                    first.send(f"held {number}")
                eventually(lambda: daemon.metric("writeManager", "messagesQueued") == 10, "ten are accepted")
                for _ in range(5):
                    second.send("too many")
                errors = [second.receive() for _ in range(5)]
                assert {(error["status"], error["code"]) for error in errors} == {("ERROR", "overloaded")}
                assert daemon.is_ready()
            frames = [first.receive() for _ in range(20)]
            assert [frame["message"] for frame in frames if kind(frame) == "broadcast"] == [
                f"held {n}" for n in range(10)
            ]
            assert sum(kind(frame) == "ack" for frame in frames) == 10
            assert second.frames_until_now() == [], "each got one error, and its connection lives on"
            assert daemon.sql("SELECT count(*) FROM messages WHERE message_text = 'too many'") == [(0,)]

    def test_beyond_max_pending_per_connection_it_is_not_read_and_nothing_is_lost(
        self, module_database_url: str
    ) -> None:
        total = 3000
        with (
            running_daemon("--max-pending-per-connection", "20", database=module_database_url) as daemon,
            ChatClient(daemon.chat_url(3)) as client,
        ):
            with daemon.held_database():
                sender = Thread(target=send_numbers, args=(client, total))
                sender.start()
                eventually(lambda: daemon.counter("chatflow_reads_paused_total") >= 1, "its reading is paused")
                pending = daemon.metric("writeManager", "messagesQueued")
                assert 20 <= pending < 1000, "no more than the chunk that was being read"
            frames = [client.receive() for _ in range(2 * total)]
            sender.join()
            assert [frame["message"] for frame in frames if kind(frame) == "broadcast"] == [
                str(n) for n in range(total)
            ]
            assert sum(kind(frame) == "ack" for frame in frames) == total
            assert client.frames_until_now() == []


@pytest.fixture(scope="module")
def beating(module_database_url: str) -> Iterator[Daemon]:
    options = ("--ping-interval-seconds", "0.2", "--max-pending-per-connection", "20")
    with running_daemon(*options, database=module_database_url) as daemon:
        yield daemon


class TestHeartbeat:
    def test_a_silent_peer_is_pinged_and_then_dropped(self, beating: Daemon) -> None:
        before = beating.counter("chatflow_silent_clients_dropped_total")
        with RawClient(beating.port) as client:
            assert client.receive().opcode == PING
            client.wait_end()
        assert beating.counter("chatflow_silent_clients_dropped_total") == before + 1

    def test_a_peer_that_only_answers_pings_lives(self, beating: Daemon) -> None:
        with RawClient(beating.port, "/chat/5") as client:
            for _ in range(4):
                frame = client.receive()
                assert frame.opcode == PING
                client.send(client_frame(PONG, frame.payload))
            client.send_message()
            assert kind(json.loads(client.receive().payload)) in ("ack", "broadcast")

    def test_a_peer_that_only_talks_lives(self, beating: Daemon) -> None:
        before = beating.counter("chatflow_silent_clients_dropped_total")
        with RawClient(beating.port, "/chat/6") as client, RawClient(beating.port, "/chat/7"):
            while beating.counter("chatflow_silent_clients_dropped_total") == before:  # the other one, who is silent
                client.send_message()
                while client.receive().opcode != TEXT:
                    pass
            client.send_message()
            assert client.receive()

    def test_a_client_that_is_not_read_is_not_taken_for_dead(self, beating: Daemon) -> None:
        with ChatClient(beating.chat_url(8)) as client:
            with beating.held_database():
                for number in range(50):
                    client.send(f"{number}")
                eventually(lambda: beating.counter("chatflow_reads_paused_total") >= 1, "its reading is paused")
                for _ in range(2):  # our clock: each of these lives for a beat or two
                    with RawClient(beating.port, "/chat/9") as silent:
                        silent.wait_end()
            frames = [client.receive() for _ in range(100)]
            assert sum(kind(frame) == "ack" for frame in frames) == 50
            with RawClient(beating.port, "/chat/9") as silent:
                silent.wait_end()
            assert client.frames_until_now() == []
