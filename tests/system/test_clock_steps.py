"""The clock of a running daemon is set forward and back, alone or together with its database's."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path

import pytest
from websockets.typing import Subprotocol

from chatflow.postgres.embedded import EmbeddedPostgres
from testbed.client import ChatClient, Frame
from testbed.cluster import Cluster
from testbed.daemon import Daemon, running_daemon
from testbed.postgres import fresh_database, migrate
from testbed.set_clock import HOW_TO_INSTALL, SteppedClock, find_libfaketime
from testbed.waiting import eventually

pytestmark = pytest.mark.skipif(not find_libfaketime() and os.environ.get("CI") != "true", reason=HOW_TO_INSTALL)

DAY = 86_400.0
HOUR = 3600.0


@contextlib.contextmanager
def stepped_clock() -> Iterator[SteppedClock]:
    with tempfile.TemporaryDirectory(prefix="chatflow-clock-") as directory:
        yield SteppedClock(Path(directory))


def receive_until(client: ChatClient, is_wanted: Callable[[Frame], bool], seconds: float) -> Frame:
    """The next such frame, of whatever kind."""
    deadline = time.monotonic() + seconds
    while True:
        frame: Frame = json.loads(client.socket.recv(max(0.0, deadline - time.monotonic())))
        if is_wanted(frame):
            return frame


def take_a_breath(client: ChatClient) -> None:
    """Between messages read over what nobody waits for: some a second are enough."""
    deadline = time.monotonic() + 0.1
    with contextlib.suppress(TimeoutError):
        while True:
            client.socket.recv(max(0.0, deadline - time.monotonic()))


def answer_to(client: ChatClient) -> Frame:
    """The answer to the last message."""
    return receive_until(client, lambda frame: "status" in frame, 20)


def stored_at(daemon: Daemon, room: int) -> float:
    """The stamp of the room's last message."""
    ((stamp,),) = daemon.sql(
        "SELECT extract(epoch FROM created_at)::float8 FROM messages WHERE room_id = %s ORDER BY seq DESC LIMIT 1", room
    )
    return float(stamp)


class TestAnInstanceWhoseClockAloneIsSet:
    @pytest.mark.parametrize("step", [-DAY, HOUR], ids=["a day back", "an hour forward"])
    def test_it_refuses_messages_says_so_and_comes_back_and_no_stamp_was_wrong(self, step: float) -> None:
        with (
            stepped_clock() as clock,
            fresh_database() as database,
            running_daemon("--rooms", "2", database=database, environment=clock.environment) as daemon,
            ChatClient(daemon.chat_url(1)) as client,
        ):
            client.send("before")
            accepted = [answer_to(client)["originalMessage"]["message"]]
            clock.set(step)
            refused = None
            deadline = time.monotonic() + 15
            while refused is None:
                assert time.monotonic() < deadline, "nothing was refused"
                client.send(f"while it is wrong {len(accepted)}")
                answer = answer_to(client)
                if answer["status"] == "ERROR":
                    refused = answer
                else:
                    accepted.append(answer["originalMessage"]["message"])
                    assert abs(stamp_of(answer) - time.time()) < 5, "it is stamped by a clock that did not jump"
                    take_a_breath(client)
            assert refused["code"] == "unavailable"
            assert "clock" in refused["errorMessage"]
            assert abs(stored_at(daemon, 1) - time.time()) < 20
            assert not daemon.is_ready()
            assert daemon.get("/health/live").status == 200
            assert daemon.counter("chatflow_clock_wrong") == 1
            assert daemon.counter("chatflow_clock_off_seconds") == pytest.approx(step, abs=5)
            assert "the clock here is wrong by" in daemon.output()
            clock.set(0)
            eventually(daemon.is_ready, "its clock is right again", 15)
            client.send("after")
            assert answer_to(client)["status"] == "SUCCESS"
            held = [text for (text,) in daemon.sql("SELECT message_text FROM messages ORDER BY seq")]
            assert held == [*accepted, "after"]
            assert daemon.stop() == 0


def stamp_of(answer: dict[str, object]) -> float:
    return datetime.fromisoformat(str(answer["timestamp"])).timestamp()


class TestAMachineWhoseClockIsSet:
    """Daemon and PostgreSQL follow the same clock, as they do on one machine."""

    def test_nothing_stops_nothing_is_dropped_and_no_connection_ends(self) -> None:
        with (
            stepped_clock() as clock,
            tempfile.TemporaryDirectory(prefix="chatflow-stepped-") as directory,
            contextlib.ExitStack() as stack,
        ):
            postgres = EmbeddedPostgres(Path(directory))
            stack.callback(postgres.stop)
            with clock.inherited():
                url = postgres.start()
            migrate(url)
            options = ("--rooms", "2", "--retention-days", "1", "--ping-interval-seconds", "1")
            with (
                running_daemon(*options, database=url, environment=clock.environment) as daemon,
                ChatClient(f"{daemon.chat_url(1)}?last=1", subprotocols=[Subprotocol("chatflow.v2")]) as client,
            ):
                sent = 0
                for number, step in enumerate([0, HOUR, -HOUR, DAY, -DAY, 0]):
                    clock.set(step)
                    began = time.monotonic()
                    while time.monotonic() - began < 2.5:
                        client.send(f"{number}")
                        sent += 1
                        assert (
                            receive_until(client, lambda frame: "messageId" in frame and "roomId" in frame, 5)[
                                "message"
                            ]
                            == f"{number}"
                        )
                        take_a_breath(client)
                # Timers went on meanwhile: pings were sent, and the heartbeat every ten seconds.
                assert receive_until(
                    client, lambda frame: frame.get("type") == "heartbeat" and frame["head"] == sent, 12
                )
                seqs = [seq for (seq,) in daemon.sql("SELECT seq FROM messages WHERE room_id = 1 ORDER BY seq")]
                assert seqs == list(range(1, sent + 1))
                assert daemon.counter("chatflow_clock_jumps_total") >= 2
                assert daemon.counter("chatflow_silent_clients_dropped_total") == 0
                assert daemon.get("/health/ready").status == 200
                assert "failed" not in daemon.output()
                assert daemon.stop() == 0


class TestAClusterWhoseClocksAreSet:
    def test_everybody_hears_everybody_and_nobody_is_taken_for_dead(self) -> None:
        options = ("--long-poll-seconds", "1", "--reap-after-seconds", "8")
        with (
            stepped_clock() as clock,
            Cluster(*options, instances=2, rooms=1, room_queues=1, clock=clock) as cluster,
        ):
            one, two = cluster.start().running
            with ChatClient(one.chat_url(1)) as here, ChatClient(two.chat_url(1)) as there:
                expected = 0
                for step in (HOUR, -HOUR, DAY, 0):
                    clock.set(step)
                    began = time.monotonic()
                    while time.monotonic() - began < 2.5:
                        for sender in (here, there):
                            sender.send("hello")
                            expected += 1
                            for client in (here, there):
                                assert client.receive_kind("broadcast")["seq"] == expected
                        take_a_breath(here)
            with ThreadPoolExecutor(2) as pool:
                figures = list(pool.map(lambda instance: dict(cluster.figures_of(instance)), (one, two)))
            for figure in figures:
                assert figure["chatflow_fanout_attachments_total"] == 1, "none was taken for dead"
                assert figure["chatflow_instances_reaped_total"] == 0
                assert figure["chatflow_clock_wrong"] == 0
