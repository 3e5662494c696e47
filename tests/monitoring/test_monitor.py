"""``chatflow-admin monitor``: thresholds at their edges, and what is seen of real daemons, dead or alive."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import psycopg2
import pytest

from chatflow.admin.monitor.findings import THRESHOLDS, Cell, Level, Limits, Section, parse_threshold, with_overrides
from chatflow.admin.monitor.instances import Rates, Scrape, Target
from chatflow.admin.monitor.sections import queue_section, writer_section
from chatflow.admin.monitor.show import as_json, as_lines
from chatflow.admin.queues import _DEAD_LETTERS, _ROOM, Row
from chatflow.contracts.room_queue import Depth
from testbed.cluster import Cluster
from testbed.daemon import Daemon, clean_environment, running_daemon
from testbed.emulator import aws_environment
from testbed.forkserver import run
from testbed.http_answers import Answers
from testbed.waiting import eventually

MONITOR = [sys.executable, "-m", "chatflow.admin", "monitor"]


def look(*arguments: str, environment: Mapping[str, str] | None = None) -> tuple[int, str]:
    """Status and standard output; standard error must stay empty."""
    ended = run([*MONITOR, *arguments, "--once"], env={**clean_environment(), **(environment or {})})
    assert ended.stderr == ""
    return ended.returncode, ended.stdout


class TestThresholds:
    @pytest.mark.parametrize("name", THRESHOLDS)
    def test_each_begins_at_its_value(self, name: str) -> None:
        one = THRESHOLDS[name]
        step = -0.001 if one.falls else 0.001
        assert one.level(one.warning - step) == Level.FINE
        assert one.level(one.warning) >= Level.WARNING
        assert one.level(one.critical) == Level.CRITICAL
        if one.warning != one.critical:
            assert one.level(one.critical - step) == Level.WARNING

    def test_another_can_be_given(self) -> None:
        limits = with_overrides([parse_threshold("waiting=1,2.5"), parse_threshold("cache-percent=50,10")])
        assert [limits.cell("waiting", value).level for value in (0, 1, 2, 3)] == [0, 3, 3, 4]
        assert [limits.cell("cache-percent", value).level for value in (51, 50, 10)] == [0, 3, 4]

    @pytest.mark.parametrize(
        "text", ["waiting", "waiting=1", "waiting=2,1", "nobody=1,2", "waiting=a,b", "cache-percent=1,2"]
    )
    def test_what_is_none_is_refused(self, text: str) -> None:
        with pytest.raises(Exception, match="must"):
            parse_threshold(text)


def scrape(at: float, **totals: float) -> Scrape:
    return Scrape(at, {f"chatflow_{name}": value for name, value in totals.items()}, {}, "1.0")


class TestSections:
    def test_rates_are_those_since_the_look_before_also_over_a_restart(self) -> None:
        rates = Rates()
        assert rates.look("u", scrape(0, stored=5)) is None
        seconds, growth = rates.look("u", scrape(10, stored=25)) or (0, None)
        assert growth is not None
        assert (seconds, growth("chatflow_stored")) == (10, 20)
        _, growth = rates.look("u", scrape(20, stored=7)) or (0, None)
        assert growth is not None
        assert growth("chatflow_stored") == 7

    def test_an_instance_in_trouble_is_told_by_what_is_wrong(self) -> None:
        targets = [Target("a", "http://a"), Target("b\x1b[2J", None, 70.0), Target("c", "http://c", 5.0)]
        scrapes = {
            "http://a": scrape(1, database_available=0, ready=1, messages_pending=95, messages_pending_limit=100),
            "http://c": scrape(1, ready=0, commit_under_way_seconds=10, database_available=1),
        }
        section = writer_section(targets, scrapes, Rates(), Limits())
        told = [text for _, text in section.all_findings()]
        assert "a cannot reach the database: nothing is stored" in told
        assert r"b\x1b[2J is DOWN: it has no connection to the database" in told
        assert r"b\x1b[2J: last heartbeat 70 s ago" in told
        assert "a: buffer % 95.0" in told
        assert "c: ready NO" in told
        assert "c: commit s 10.0, not done" in told
        assert section.level == Level.CRITICAL

    def test_the_oldest_is_the_largest_that_anybody_knows_of(self) -> None:
        rows = [
            Row("q1", "room 1", _ROOM, Depth("u", waiting=3), 1),
            Row("q2", "room 2", _ROOM, None, 2),
            Row("dlq", "dead letters", _DEAD_LETTERS, Depth("u", waiting=1)),
        ]
        lags = [Scrape(0, {}, {"chatflow_queue_lag_seconds": {"1": lag}}) for lag in (2.0, 11.0)]
        section = queue_section(rows, lags, {"q1": 9.0}, Limits())
        oldest, health = ([row[index].text for row in section.rows] for index in (4, 5))
        assert (oldest, health) == (["11.0 s", "?", "-"], ["behind", "missing", "late"])
        assert queue_section(rows[:1], lags, {"q1": 61.0}, Limits()).level == Level.CRITICAL

    def test_nothing_of_a_stranger_acts_on_the_terminal(self) -> None:
        section = Section("s", ("what",), [[Cell("a", "\x1b[2J")]], [(Level.WARNING, "\x1b[2J\u202e")])
        assert all(line.isprintable() for line in as_lines([section], "now"))
        assert "\x1b" not in json.dumps(as_json([section], "now"))


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with running_daemon("--rooms", "2") as daemon:
        yield daemon


class TestOneInstance:
    def test_nothing_is_found_when_all_is_well(self, daemon: Daemon) -> None:
        url = f"http://127.0.0.1:{daemon.port}"
        status, out = look("all", "--json", "--url", url, "--data-dir", str(daemon.data_directory))
        seen = json.loads(out)
        assert (status, seen["level"], seen["findings"]) == (0, "fine", [])
        assert [row["queue"] for row in seen["sections"]["queues"]] == ["room1", "room2"]
        (writer,) = seen["sections"]["writer"]
        assert (writer["ready"], writer["stored/s"]) == (True, 0)
        assert next(row for row in seen["sections"]["tables"] if row["table"] == "messages")["partitions"] > 0

    def test_what_hangs_and_who_waits_for_it_is_shown_with_what_acts_on_a_terminal_as_text(
        self, daemon: Daemon
    ) -> None:
        with contextlib.closing(psycopg2.connect(daemon.database_url)) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT 1 /* \x1b[2J\u202e */")
            status, out = look("database", "--data-dir", str(daemon.data_directory), "--threshold", "query-seconds=0,0")
        assert status == 4
        assert r"SELECT 1 /* \x1b[2J\u202e */" in out
        assert "\x1b" not in out

    def test_an_instance_that_is_not_there_is_said_to_be_down(self, daemon: Daemon) -> None:
        status, out = look("writer", "--url", f"http://127.0.0.1:{daemon.port}", "--url", "http://127.0.0.1:9")
        assert status == 4
        verdict, finding, *_ = out.splitlines()
        assert verdict.endswith("CRITICAL verdict 1 findings")
        assert "http://127.0.0.1:9 is DOWN" in finding
        assert "Connection refused" in finding

    def test_something_else_is_no_instance(self) -> None:
        with Answers(200, {"hello": 1}) as server:
            status, out = look("writer", "--url", server.url)
        assert status == 4
        assert "no ChatFlow" in out or "does not answer" in out

    def test_without_anything_to_look_at_the_status_is_1(self) -> None:
        ended = subprocess.run(
            [*MONITOR, "database", "--once", "--data-dir", "/nonexistent"], capture_output=True, env=clean_environment()
        )
        assert (ended.returncode, ended.stdout, ended.stderr.count(b"\n")) == (1, b"", 1)

    def test_at_a_terminal_it_is_renewed_until_ctrl_c_and_then_has_the_status_of_the_last_look(
        self, daemon: Daemon
    ) -> None:
        ours, theirs = pty.openpty()
        os.set_blocking(ours, False)
        seen = b""

        def times(text: bytes) -> int:
            nonlocal seen
            with contextlib.suppress(BlockingIOError, OSError):
                seen += os.read(ours, 65536)
            return seen.count(text)

        command = [*MONITOR, "writer", "--interval-seconds", "0.2", "--url", f"http://127.0.0.1:{daemon.port}"]
        environment = {**clean_environment(), "TERM": "xterm", "COLUMNS": "120", "LINES": "40"}
        with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment) as monitor:
            try:
                eventually(lambda: times(b"ALL IS WELL") >= 2, "it has looked twice")
                monitor.send_signal(signal.SIGINT)
                assert monitor.wait(20) == 0
            finally:
                monitor.kill()
        assert b"Traceback" not in seen
        os.close(ours)
        os.close(theirs)


def test_a_cluster_is_found_in_its_database_and_what_dies_is_named_at_once() -> None:
    with Cluster(instances=2, rooms=2) as cluster:
        cluster.start()
        environment = {
            **aws_environment(cluster.emulator.url),
            "CHATFLOW_DATABASE": cluster.database_url,
            "CHATFLOW_BROKER": "sqs",
            "CHATFLOW_ROOMS": "2",
        }

        def seen(what: str = "all") -> tuple[int, dict[str, Any]]:
            status, out = look(what, "--json", environment=environment)
            return status, json.loads(out)

        def instances_are_known() -> bool:
            return all(" http://" in name for (name,) in cluster.sql(
                "SELECT application_name FROM pg_stat_activity WHERE application_name LIKE 'chatflow-beats%%'"
            ))  # fmt: skip

        eventually(instances_are_known, "heartbeats tell where the instances listen")
        status, well = seen()
        assert (status, well["findings"]) == (0, [])
        assert [row["instance"] for row in well["sections"]["writer"]] == ["node-1", "node-2"]
        assert {"room 1", "room 2", "dead letters", "fan-out"} == {row["for"] for row in well["sections"]["queues"]}

        cluster.kill(1)
        status, killed = seen("writer")
        assert status == 4
        assert [one["text"][:15] for one in killed["findings"]] == ["node-2 is DOWN:"]

        cluster.stop_database()
        status, away = seen()
        assert status == 4
        assert any("the database does not answer" in one["text"] for one in away["findings"])
