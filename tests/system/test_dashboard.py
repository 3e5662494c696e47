"""``/dashboard/events``: one sample for all who look, and nothing when nobody does."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest

from chatflow.edge.sse import MAX_STREAMS, RETRY_MS
from testbed.client import ChatClient
from testbed.daemon import Daemon, running_daemon
from testbed.waiting import eventually


class Stream:
    """A client of the events, by the bytes."""

    def __init__(self, port: int, last_id: str = "", receive_buffer: int = 0) -> None:
        self._socket = socket.socket()
        if receive_buffer:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self._socket.settimeout(20)
        self._socket.connect(("127.0.0.1", port))
        header = f"Last-Event-ID: {last_id}\r\n" if last_id else ""
        self._socket.sendall(f"GET /dashboard/events HTTP/1.1\r\nHost: x\r\n{header}\r\n".encode())
        self._file = self._socket.makefile("rb")
        self.status = int(self._file.readline().split()[1])
        self.headers = {}
        while line := self._file.readline().strip():
            name, _, value = line.decode().partition(": ")
            self.headers[name.lower()] = value

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._socket.close()

    def _lines(self) -> Iterator[str]:
        text = ""
        while size := int(self._file.readline() or b"0", 16):
            text += self._file.read(size).decode()
            self._file.readline()
            *lines, text = text.split("\n")
            yield from lines

    def events(self) -> Iterator[dict[str, str]]:
        """Each with its fields, until the stream ends."""
        event: dict[str, str] = {}
        for line in self._lines():
            name, _, value = line.partition(": ")
            if name:
                event[name] = value
            elif event:
                yield event
                event = {}

    def samples(self) -> Iterator[dict[str, Any]]:
        """What the events hold."""
        return (json.loads(event["data"]) | {"id": event["id"]} for event in self.events() if "id" in event)


def test_a_sample_comes_each_second_and_tells_what_was_done(daemon: Daemon) -> None:
    with Stream(daemon.port) as stream, ChatClient(daemon.chat_url(3)) as talker:
        assert (stream.status, stream.headers["content-type"]) == (200, "text/event-stream")
        assert stream.headers["cache-control"] == "no-store"
        events = stream.events()
        assert next(events) == {"retry": str(RETRY_MS)}
        samples = stream.samples()
        first = next(samples)
        talker.talk(["one", "two", "three"])
        found = [first]
        while sum(sample["rates"]["acknowledged"] for sample in found) < 2.5:
            found.append(next(samples))
        found.append(next(samples))
        last = found[-1]
        assert (last["connections"], last["rooms"], last["members"]) == (1, 1, {"3": 1})
        assert sum(sample["rates"]["delivered"] for sample in found) == pytest.approx(3, rel=0.2)
        p50, _, p99 = next(s["latencies_ms"]["ack"] for s in reversed(found) if s["latencies_ms"]["ack"])
        assert 0 < p50 <= p99 < 5000
        assert (last["pending"], last["waiting"], last["alarms"], last["servers"]) == (0, 0, [], [])
        assert abs(last["at"] / 1000 - time.time()) < 60
        numbers = [int(sample["id"].partition("-")[2]) for sample in found]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))


def test_who_comes_back_gets_what_was_missed_and_all_get_the_same(daemon: Daemon) -> None:
    with Stream(daemon.port) as one:
        samples = one.samples()
        earlier, missed, last = next(samples), next(samples), next(samples)
        with Stream(daemon.port, earlier["id"]) as other:
            found = other.samples()
            assert [next(found), next(found)] == [missed, last]
        with Stream(daemon.port) as other:
            whole = next(other.samples())
        for stranger in ("nonsense", "0-0", "-", earlier["id"] + "x", "\xff"):
            with Stream(daemon.port, stranger) as other:
                assert next(other.samples()) == whole


def test_only_so_many_may_look_and_a_place_is_free_again_when_one_leaves(daemon: Daemon) -> None:
    with contextlib.ExitStack() as stack:
        streams = [stack.enter_context(Stream(daemon.port)) for _ in range(MAX_STREAMS)]
        refused = daemon.get("/dashboard/events")
        assert (refused.status, refused.json()["code"]) == (503, "too_many_streams")
        assert int(refused.headers["retry-after"]) > 0
        next(streams[-1].samples())
        streams[0].__exit__()

        def is_let_in() -> bool:
            with Stream(daemon.port) as stream:
                return stream.status == 200

        eventually(is_let_in, "there is a place again")


def test_head_gives_the_headers_and_takes_no_place(daemon: Daemon) -> None:
    answer = daemon.get("/dashboard/events", method="HEAD")
    assert (answer.status, answer.headers["content-type"]) == (200, "text/event-stream")


@pytest.mark.parametrize("path", ["/dashboard", "/dashboard/page.css", "/dashboard/page.js", "/dashboard/charts.js"])
def test_its_files_come_with_a_strict_policy(daemon: Daemon, path: str) -> None:
    answer = daemon.get(path)
    assert answer.status == 200
    policy = answer.headers["content-security-policy"]
    assert "default-src 'self'" in policy and "unsafe" not in policy


def test_a_database_that_hangs_in_commits_is_told(daemon: Daemon) -> None:
    with Stream(daemon.port) as stream, ChatClient(daemon.chat_url(3)) as talker:
        samples = stream.samples()
        with daemon.held_database():
            talker.send("waits")
            alarm = next(alarm for sample in samples for alarm in sample["alarms"])
        assert (alarm["key"], alarm["level"]) == ("stuck", "bad")
        assert alarm["since_seconds"] >= 3
        talker.receive_kind("ack")
        assert next(sample for sample in samples if not sample["alarms"])["pending"] == 0


def test_a_stream_ends_with_a_word_when_its_instance_stops(module_database_url: str) -> None:
    with running_daemon(database=module_database_url) as daemon, Stream(daemon.port) as stream:
        events = stream.events()
        while "id" not in next(events):
            pass
        began = time.monotonic()
        assert daemon.stop() == 0
        assert time.monotonic() - began < 10, "nobody waits for those who look"
        assert list(events)[-1] == {"event": "bye", "data": "{}"}
