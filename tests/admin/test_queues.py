"""``chatflow-admin queues``."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from chatflow.admin.queues import _DEAD_LETTERS, _FANOUT, _ROOM, Row, _Limits, _oldest, _table, _Watch, health_of
from chatflow.broker.names import Names
from chatflow.contracts.room_queue import Depth
from testbed.emulator import fresh_prefix, shared_emulator
from testbed.waiting import eventually
from tests.admin.conftest import Run
from tests.support.cloud import direct_client


def send(name: str, count: int, group: str = "1") -> str:
    client = direct_client("sqs")
    url = str(client.get_queue_url(QueueName=name)["QueueUrl"])
    for number in range(count):
        client.send_message(
            QueueUrl=url, MessageBody="x", MessageGroupId=group, MessageDeduplicationId=f"{group}-{number}"
        )
    return url


def table(text: str) -> dict[str, list[str]]:
    """The rows by their first cell."""
    lines = [line.split("  ") for line in text.splitlines()]
    return {cells[0]: [cell.strip() for cell in cells[1:] if cell.strip()] for cells in lines}


def test_it_shows_every_queue_with_its_health(names: Names, run: Run) -> None:
    p = names.prefix
    url = send(names.room_queue(1), 15)
    direct_client("sqs").receive_message(QueueUrl=url, MaxNumberOfMessages=3)
    send(names.dead_letters, 1)
    fanout = names.fanout_queue("a", "1")
    direct_client("sqs").create_queue(QueueName=fanout, Attributes={"FifoQueue": "true"})
    assert table(run("queues", "--queue-prefix", p, "--rooms", "3")) == {
        "queue": ["for", "waiting", "in flight", "oldest (needs --watch)", "health"],
        f"{p}-room-1.fifo": ["room 1", "12", "3", "?", "behind"],
        f"{p}-room-2.fifo": ["room 2", "0", "0", "-", "ok"],
        f"{p}-room-3.fifo": ["room 3", "0", "0", "-", "missing"],
        f"{p}-db-dlq.fifo": ["dead letters", "1", "0", "?", "late"],
        fanout: ["fan-out", "0", "0", "-", "ok"],
    }


@pytest.mark.usefixtures("emulator")
def test_shared_queues_say_how_many_rooms_they_serve(run: Run) -> None:
    p = fresh_prefix()
    shown = table(run("queues", "--queue-prefix", p, "--rooms", "5", "--room-queues", "2"))
    assert shown[f"{p}-rooms-1of2.fifo"][0] == "3 rooms"


def test_messages_that_no_instance_of_these_settings_receives_are_shown_with_those_of_who_does(
    names: Names, run: Run
) -> None:
    p = names.prefix
    send(names.room_queue(2), 1)
    run("setup", "--queue-prefix", p, "--room-queues", "3")
    shown = table(run("queues", "--queue-prefix", p, "--room-queues", "3"))
    assert shown[f"{p}-room-2.fifo"] == ["--room-queues 0", "1", "0", "?", "stranded"]
    assert f"{p}-room-1.fifo" not in shown, "it is empty"


@pytest.mark.parametrize(
    ("limits", "waiting", "age", "health"),
    [
        (_ROOM, 0, None, "ok"),
        (_ROOM, 10, None, "ok"),
        (_ROOM, 11, None, "behind"),
        (_ROOM, 100, 60.0, "behind"),
        (_ROOM, 101, 0.0, "late"),
        (_ROOM, 1, 61.0, "late"),
        (_ROOM, 0, 61.0, "ok"),
        (_FANOUT, 100, 1000.0, "ok"),
        (_FANOUT, 101, None, "behind"),
        (_FANOUT, 1001, None, "late"),
        (_DEAD_LETTERS, 0, None, "ok"),
        (_DEAD_LETTERS, 1, None, "late"),
    ],
)
def test_health_is_what_the_help_says(limits: _Limits, waiting: int, age: float | None, health: str) -> None:
    assert health_of(Row("q", "", limits, Depth("url", waiting)), age) == health


def test_the_oldest_is_younger_than_the_last_time_that_the_queue_was_seen_empty() -> None:
    watch = _Watch()

    def look(waiting: int, in_flight: int, now: float) -> str:
        depth = Depth("url", waiting, in_flight)
        return _oldest(depth, watch.look(Row("q", "", _ROOM, depth), now))

    assert look(3, 0, 0.0) == "?"
    assert look(0, 0, 5.0) == "-"
    assert look(1, 0, 10.0) == "< 5 s"
    assert look(0, 1, 15.0) == "< 10 s"
    assert look(0, 0, 20.0) == "-"
    assert look(1, 0, 21.0) == "< 1 s"


def test_the_health_of_a_queue_is_shown_in_colour() -> None:
    rows = [(Row(f"q{waiting}", "", _ROOM, Depth("url", waiting)), None) for waiting in (0, 50, 500)]
    console = Console(file=io.StringIO(), force_terminal=True, color_system="standard", width=100, _environ={})
    console.print(_table([*rows, (Row("q", "", _ROOM, None), None)], is_watching=True))
    output: Any = console.file
    lines = output.getvalue().splitlines()
    for line, text in zip(
        lines[1:], ["\x1b[32mok", "\x1b[33mbehind", "\x1b[1;31mlate", "\x1b[1;31mmissing"], strict=True
    ):
        assert text in line


def test_watching_looks_again_and_again_until_it_is_interrupted(names: Names, tmp_path: Path) -> None:
    arguments = ["queues", "--watch", "--interval-seconds", "0.1", "--queue-prefix", names.prefix, "--rooms", "2"]
    with (tmp_path / "output").open("w+") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "chatflow.admin", *arguments],
            env={**os.environ, **shared_emulator().environment()},
            stdout=output,
            stderr=output,
        )
        try:
            text = tmp_path / "output"
            eventually(lambda: text.read_text().count("dead letters") >= 2, "it has looked twice")
            send(names.room_queue(1), 1)
            eventually(lambda: "< 0 s" in text.read_text(), "it shows what came")
            process.send_signal(signal.SIGINT)
            assert process.wait(20) == 0
        finally:
            process.kill()
            process.wait()
    assert "Traceback" not in text.read_text()
