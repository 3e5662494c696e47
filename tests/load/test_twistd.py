"""``twistd -n chatflow-load`` as a process: what it prints and writes, and its exit status."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from pytest_twisted import ensureDeferred
from twisted.internet.defer import Deferred
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from benchmarks.null_server import NullServer
from chatflow.load.tap import Options, makeService
from testbed.daemon import TWISTD, clean_environment
from tests.load.running import Listening, reactor
from tests.load.test_faults import Acks
from tests.load.test_worker import NeverAnswers

_SMALL = [
    "--connections=6",
    "--rooms=2",
    "--even-rooms",
    "--messages=60",
    "--warmup-connections=2",
    "--warmup-messages=20",
    "--seed=1",
    "--timeout-seconds=1",
]


class Process(ProcessProtocol):
    """:ivar ended: fires with the exit status, or the negative number of the signal that ended it."""

    def __init__(self, directory: Path, *arguments: str, **environment: str) -> None:
        self.out = self.err = ""
        self.ended: Deferred[int] = Deferred()
        reactor.spawnProcess(
            self,
            str(TWISTD),
            [str(TWISTD), "-n", "chatflow-load", *arguments],
            env={**clean_environment(), **environment},
            path=str(directory),
        )

    def outReceived(self, data: bytes) -> None:
        self.out += data.decode()

    def errReceived(self, data: bytes) -> None:
        self.err += data.decode()

    def processEnded(self, reason: Failure) -> None:
        code = reason.value.exitCode  # type: ignore[union-attr]
        self.ended.callback(code if code is not None else -reason.value.signal)  # type: ignore[union-attr]

    def signal(self, number: int) -> None:
        os.kill(self.transport.pid, number)  # type: ignore[union-attr]


@pytest.fixture
def directory() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="chatflow-load-test-"))
    yield path
    shutil.rmtree(path)


@pytest.mark.parametrize("processes", ["1", "2"])
@ensureDeferred
async def test_a_run_that_passes_has_status_0_and_leaves_its_results(directory: Path, processes: str) -> None:
    async with Listening(NullServer(reactor)) as url:
        process = Process(directory, "--url", url, "--output", "results/here", "--processes", processes, *_SMALL)
        assert await process.ended == 0
    assert "Verdict: PASS" in process.out
    assert "60 messages acknowledged" in process.out
    assert process.err == ""
    assert sorted(path.name for path in directory.iterdir()) == ["results"], "the pid file is gone"

    results = directory / "results" / "here"
    assert sorted(path.name for path in results.iterdir()) == [
        *("messages.csv", "report.html", "report.json", "throughput.csv")
    ]
    assert "<b>PASS</b>" in (results / "report.html").read_text()
    report = json.loads((results / "report.json").read_text())
    assert (report["verdict"], report["sent"], report["acked"]) == ("pass", 80, 80)
    assert report["deliveries"]["received"] == 60 * 3 + 20
    with (results / "messages.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 60
    assert {row["status"] for row in rows} == {"SUCCESS"}
    assert {row["room"] for row in rows} == {"1", "2"}
    assert {row["messageType"] for row in rows} <= {"TEXT", "JOIN", "LEAVE"}
    assert all(float(row["latency_ms"]) >= 0 for row in rows)
    assert (results / "throughput.csv").read_text().count("\n") == 2


@ensureDeferred
async def test_a_run_that_fails_has_status_1_and_says_why(directory: Path) -> None:
    silent = partial(Acks, ack=lambda server, id, message, ack: b"")
    async with Listening(silent(reactor)) as url:
        process = Process(directory, "--url", url, "--output", "results", *_SMALL)
        assert await process.ended == 1
    assert "Verdict: FAIL" in process.out
    assert "main: messages without an answer: 1" in process.out
    with (directory / "results" / "messages.csv").open() as file:
        assert [row["status"] for row in csv.DictReader(file)].count("FAILED") == 1


@ensureDeferred
async def test_a_server_that_is_not_there_is_one_line_and_status_1(directory: Path) -> None:
    async with Listening(NullServer(reactor)) as url:
        pass
    process = Process(directory, "--url", url, *_SMALL)
    assert await process.ended == 1
    (line,) = process.err.splitlines()
    assert line.startswith(f"chatflow-load: cannot connect to {url}, room ")
    assert "Verdict" not in process.out


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@ensureDeferred
async def test_a_signal_in_mid_run_tells_what_is_known_and_has_status_1(directory: Path, number: int) -> None:
    server = NeverAnswers(reactor)
    async with Listening(server) as url:
        process = Process(directory, "--url", url, *_SMALL, "--warmup-messages=0", "--timeout-seconds=60")
        while server.received < 60:
            await deferLater(reactor, 0.005)
        process.signal(number)
        assert await process.ended == 1
    assert "Verdict: FAIL\n  - interrupted\n  - main: messages without an answer: 60" in process.out
    assert not list(directory.iterdir()), "the pid file is gone"


@ensureDeferred
async def test_progress_is_told_in_plain_lines_where_there_is_no_terminal(directory: Path) -> None:
    server = NeverAnswers(reactor)
    async with Listening(server) as url:
        process = Process(directory, "--url", url, *_SMALL, "--warmup-messages=0", "--timeout-seconds=60")
        while "\n" not in process.err:
            await deferLater(reactor, 0.02)
        process.signal(signal.SIGTERM)
        await process.ended
    assert process.err.startswith("main: 60 sent, 0 acknowledged (0/s), 0 delivered (0/s)\n")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--url", "http://localhost"], "url (command line): must be a URL such as ws://"),
        (["--mix", "0:0:0"], "mix = '0:0:0' (command line): must be three whole numbers"),
        (["--senders", "65"], "senders = 65 (command line): must be at most connections = 64 (default)"),
        (["--in-flite", "5"], "unknown option --in-flite (command line): did you mean --in-flight?"),
    ],
)
@ensureDeferred
async def test_a_wrong_option_is_one_line_and_status_1(directory: Path, arguments: list[str], complaint: str) -> None:
    process = Process(directory, *arguments)
    assert await process.ended == 1
    (line,) = process.err.splitlines()
    assert line.startswith("chatflow-load: ")
    assert complaint in line


@ensureDeferred
async def test_a_database_that_does_not_answer_is_a_failure_that_says_so(directory: Path) -> None:
    async with Listening(NullServer(reactor)) as url:
        process = Process(
            directory, "--url", url, *_SMALL, CHATFLOW_LOAD_CHECK_DATABASE="postgresql://me:secret@127.0.0.1:1/none"
        )
        assert await process.ended == 1
    assert "  - cannot check the database: " in process.out
    assert "80, acked 80" in process.out, "what was proven is told all the same"
    assert "secret" not in process.out + process.err


@ensureDeferred
async def test_a_directory_that_cannot_be_made_is_one_line_and_status_1(directory: Path) -> None:
    (directory / "file").touch()
    process = Process(directory, "--output", "file/results", *_SMALL)
    assert await process.ended == 1
    assert process.err == "chatflow-load: cannot write to --output file/results: Not a directory\n"


@pytest.mark.parametrize(
    ("file", "target", "complaint"),
    [
        ("messages.0.part", "gone/file", "No such file or directory"),
        ("messages.csv", "/dev/full", "No space left on device"),
    ],
)
@ensureDeferred
async def test_messages_that_cannot_be_written_are_a_cause_to_fail_and_all_else_is_told(
    directory: Path, file: str, target: str, complaint: str
) -> None:
    (directory / file).symlink_to(target)
    async with Listening(NullServer(reactor)) as url:
        process = Process(directory, "--url", url, "--output", str(directory), *_SMALL)
        assert await process.ended == 1
    assert f"cannot write to --output {directory}: {complaint}" in process.out
    assert "60 messages acknowledged" in process.out
    assert json.loads((directory / "report.json").read_text())["acked"] == 80


@ensureDeferred
async def test_a_report_that_cannot_be_written_is_one_line_behind_the_summary(directory: Path) -> None:
    (directory / "report.json").symlink_to("/dev/full")
    async with Listening(NullServer(reactor)) as url:
        process = Process(directory, "--url", url, "--output", str(directory), *_SMALL)
        assert await process.ended == 1
    assert "Verdict: PASS" in process.out
    assert process.err == f"chatflow-load: cannot write to --output {directory}: No space left on device\n"


class _NoReactor:
    """Whoever touches it does I/O, or will."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"makeService used the reactor's {name}")


def test_to_make_the_service_does_no_io(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    options = Options()
    options.parseOptions(["--output", "results"])
    makeService(options, _NoReactor())
    assert not list(tmp_path.iterdir())
