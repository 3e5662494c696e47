"""Starts that fail, each in one line; the daemon in the background; and what it prints instead of starting."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from testbed.client import ChatClient
from testbed.daemon import LISTEN, Daemon, end_processes_in, processes_in, run_twistd, running_daemon
from testbed.http_client import request
from testbed.postgres import execute
from testbed.waiting import eventually


@pytest.fixture
def directory() -> Iterator[Path]:
    """An empty directory; what runs in there is ended."""
    path = Path(tempfile.mkdtemp(prefix="chatflow-start-"))
    try:
        yield path
    finally:
        end_processes_in(path)
        shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def nobody_listens() -> Iterator[int]:
    """A port that is refused, since it is bound and nobody listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


def failure(directory: Path, *options: str, environment: dict[str, str] | None = None) -> str:
    """Start the daemon, which must fail as it should: its one line on stderr."""
    ended = run_twistd("-n", "chatflow", *options, directory=directory, environment=environment)
    assert ended.returncode == 1
    assert processes_in(directory) == []
    assert not (directory / "twistd.pid").exists()
    lines = ended.stderr.splitlines()
    assert len(lines) == 1, ended.stderr
    assert lines[0].startswith("chatflow: ")
    return lines[0]


class TestSettings:
    @pytest.mark.parametrize(
        ("options", "words"),
        [
            (["--prot", "8080"], ["--prot", "command line"]),
            (["--rooms", "0"], ["rooms", "command line", "from 1 to"]),
            (["--rooms"], ["rooms", "command line", "missing"]),
            (["--listen", "tcp:99999"], ["listen", "65535"]),
            (["--broker", "rabbitmq"], ["broker", "'embedded'"]),
            (["--database", "mysql://host/db"], ["database", "postgresql://"]),
            (["--batch-size", "100", "--max-pending-messages", "10"], ["batch-size", "max-pending-messages"]),
            (["--config", "absent.ini"], ["config", "absent.ini"]),
            (["8080"], ["8080", "every setting is an option"]),
        ],
        ids=lambda value: " ".join(value) if value[0].startswith("-") or value == ["8080"] else "",
    )
    def test_a_wrong_option_is_named(self, directory: Path, options: list[str], words: list[str]) -> None:
        line = failure(directory, *options)
        assert [word for word in words if word not in line] == [], line

    @pytest.mark.parametrize(("name", "value"), [("CHATFLOW_ROOMS", "many"), ("CHATFLOW_ROMS", "3")])
    def test_a_wrong_environment_variable_is_named(self, directory: Path, name: str, value: str) -> None:
        assert name in failure(directory, environment={name: value})

    @pytest.mark.parametrize("line", ["rooms = many", "roms = 3"])
    def test_a_wrong_line_of_the_file_is_named(self, directory: Path, line: str) -> None:
        (directory / "chatflow.ini").write_text(f"[chatflow]\n{line}\n")
        said = failure(directory, "--config", "chatflow.ini")
        assert line.split()[0] in said and "chatflow.ini" in said

    def test_a_password_is_not_in_the_error(self, directory: Path) -> None:
        line = failure(directory, "--database", "postgresql://user:hunter2@host:port/db")
        assert "hunter2" not in line


class TestPort:
    def test_one_in_use_ends_the_start_and_postgresql_with_it(self, directory: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as other:
            port = other.getsockname()[1]
            line = failure(directory, "--listen", f"tcp:{port}:interface=127.0.0.1", "--data-dir", "data")
        assert str(port) in line and "--listen" in line
        assert (directory / "data/postgres/PG_VERSION").exists(), "PostgreSQL had been started"

    def test_the_second_of_two_endpoints_ends_the_start(self, directory: Path, database_url: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as other:
            busy = f"tcp:{other.getsockname()[1]}:interface=127.0.0.1"
            assert busy in failure(directory, "--listen", LISTEN, "--listen", busy, "--database", database_url)

    def test_it_serves_every_endpoint_that_it_is_given(self, database_url: str) -> None:
        with Daemon(database=database_url) as daemon:
            path = daemon.directory / "socket"
            daemon.options = ("--listen", f"unix:{path}")
            daemon.start()
            with socket.socket(socket.AF_UNIX) as connection:
                connection.connect(str(path))
                connection.sendall(b"GET /health/live HTTP/1.0\r\n\r\n")
                assert b" 200 OK" in connection.recv(100)
            assert daemon.stop() == 0


class TestDataDirectory:
    def test_a_second_daemon_on_it_is_told_whose_it_is_and_the_first_one_goes_on(self, directory: Path) -> None:
        with running_daemon() as first:
            line = failure(directory, "--listen", LISTEN, "--data-dir", str(first.data_directory))
            assert str(first.data_directory) in line and str(first.process.pid) in line
            with ChatClient(first.chat_url(1)) as client:
                client.talk(["still here"])

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
    def test_one_that_cannot_be_written_is_named(self, directory: Path) -> None:
        locked = directory / "locked"
        locked.mkdir(mode=0o500)
        assert str(locked) in failure(directory, "--data-dir", str(locked / "data"))

    def test_one_that_is_a_file_is_named(self, directory: Path) -> None:
        (directory / "data").write_text("not a directory")
        assert "data" in failure(directory, "--data-dir", "data")

    def test_one_with_something_else_in_it_is_left_alone(self, directory: Path) -> None:
        precious = directory / "data/postgres/precious"
        precious.parent.mkdir(parents=True)
        precious.write_text("mine")
        assert "postgres" in failure(directory, "--data-dir", "data")
        assert precious.read_text() == "mine"


class TestDatabase:
    def test_one_that_nobody_answers_for_is_said_so_without_the_password(
        self, directory: Path, nobody_listens: int
    ) -> None:
        url = f"postgresql://user:hunter2@127.0.0.1:{nobody_listens}/chat"
        line = failure(directory, "--listen", LISTEN, "--database", url)
        assert "database" in line and str(nobody_listens) in line
        assert "hunter2" not in line

    def test_one_that_does_not_exist_is_named(self, directory: Path, database_url: str) -> None:
        url = re.sub(r"/chatflow_test\w+", "/no_such_database", database_url)
        assert "no_such_database" in failure(directory, "--listen", LISTEN, "--database", url)

    def test_one_without_the_schema_names_the_remedy(self, directory: Path, empty_database_url: str) -> None:
        line = failure(directory, "--listen", LISTEN, "--database", empty_database_url)
        assert "chatflow-admin migrate" in line
        assert execute(empty_database_url, "SELECT to_regclass('messages')") == [(None,)], "and nothing was made"

    def test_one_that_is_newer_is_left_alone(self, directory: Path, database_url: str) -> None:
        execute(
            database_url, "INSERT INTO schema_version (version, name, checksum) VALUES (9999, '9999_later.sql', 'x')"
        )
        execute(database_url, "UPDATE oldest_program SET schema_version = 9999")
        line = failure(directory, "--listen", LISTEN, "--database", database_url)
        assert "9999" in line and "newer" in line


class TestSignalWhileStarting:
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_it_ends_the_start_and_leaves_nothing_running(self, number: signal.Signals) -> None:
        with Daemon() as daemon:
            daemon.launch()
            eventually(lambda: (daemon.data_directory / "lock").exists(), "PostgreSQL is about to be made")
            daemon.send_signal(number)
            assert daemon.wait() == 1
            assert daemon.processes() == []
            assert not (daemon.directory / "twistd.pid").exists()
            (line,) = daemon.errors().splitlines()
            assert number.name in line
            daemon.restart()  # what was half made does no harm
            assert daemon.stop() == 0


class TestInTheBackground:
    def start(self, directory: Path, *options: str) -> subprocess.CompletedProcess[str]:
        where = ["--pidfile", "chatflow.pid", "--logfile", "chatflow.log"]
        return run_twistd(*where, "chatflow", "--listen", LISTEN, *options, directory=directory)

    def test_it_serves_and_ends_by_its_pid_file(self, directory: Path) -> None:
        started = self.start(directory, "--data-dir", "data")
        assert (started.returncode, started.stderr) == (0, "")
        log = directory / "chatflow.log"
        found = re.search(r"listening on .*port=(\d+)", log.read_text())
        assert found, "the parent returns once the daemon listens"
        port = int(found[1])
        process = psutil.Process(int((directory / "chatflow.pid").read_text()))
        eventually(lambda: request(port, "GET", "/health/ready").status == 200, "it is ready")
        with ChatClient(f"ws://127.0.0.1:{port}/chat/1") as client:
            assert client.talk(["hello"])[-1]["status"] == "SUCCESS"

        process.terminate()
        eventually(lambda: processes_in(directory) == [], "all of it has ended")
        assert not (directory / "chatflow.pid").exists()
        assert "Traceback" not in log.read_text()

    def test_a_start_that_fails_is_told_by_the_exit_status_and_the_reason(
        self, directory: Path, nobody_listens: int
    ) -> None:
        failed = self.start(directory, "--database", f"postgresql://user@127.0.0.1:{nobody_listens}/chat")
        assert failed.returncode == 1
        assert "cannot connect to the database" in failed.stderr
        assert "Traceback" not in failed.stderr
        eventually(lambda: processes_in(directory) == [], "nothing runs")
        assert not (directory / "chatflow.pid").exists()

    def test_a_second_one_with_the_same_pid_file_does_not_start(self, directory: Path, database_url: str) -> None:
        assert self.start(directory, "--database", database_url).returncode == 0
        running = processes_in(directory)
        second = self.start(directory, "--database", database_url)
        assert second.returncode != 0
        assert processes_in(directory) == running


class TestInsteadOfStarting:
    def test_help_names_every_option(self, directory: Path) -> None:
        ended = run_twistd("-n", "chatflow", "--help", directory=directory)
        assert (ended.returncode, ended.stderr) == (0, "")
        for option in ("--listen", "--database", "--drain-seconds", "CHATFLOW_ROOMS", "--show-config"):
            assert option in ended.stdout
        assert sorted(path.name for path in directory.iterdir()) == ["stderr", "stdout"], "nothing was made"

    def test_the_version_is_told_on_the_command_line(self, directory: Path) -> None:
        ended = run_twistd("-n", "chatflow", "--version", directory=directory)
        assert ended.returncode == 0
        assert re.fullmatch(r"ChatFlow \d+\.\d+\.\d+\n", ended.stdout)

    def test_twistd_lists_both_commands(self, directory: Path) -> None:
        ended = run_twistd("--help", directory=directory)
        assert ended.returncode == 0
        assert re.search(r"^\s+chatflow\s", ended.stdout, re.MULTILINE)
        assert re.search(r"^\s+chatflow-load\s", ended.stdout, re.MULTILINE)

    def test_show_config_tells_values_and_sources_but_no_secret(self, directory: Path) -> None:
        (directory / "chatflow.ini").write_text("[chatflow]\nrooms = 5\ndrain-seconds = 7\nbatch-size = 10\n")
        ended = run_twistd(
            *("-n", "chatflow", "--config", "chatflow.ini", "--rooms", "3", "--show-config"),
            directory=directory,
            environment={"CHATFLOW_DATABASE": "postgresql://u:hunter2@h/d", "CHATFLOW_DRAIN_SECONDS": "8"},
        )
        assert (ended.returncode, ended.stderr) == (0, "")
        settings = dict(line.split(" = ", 1) for line in ended.stdout.splitlines())
        assert settings["rooms"] == "3  (command line)"
        assert settings["drain-seconds"] == "8  (environment variable CHATFLOW_DRAIN_SECONDS)"
        assert settings["batch-size"] == "10  (file chatflow.ini)"
        assert settings["ping-interval-seconds"] == "20  (default)"
        assert settings["database"].startswith("postgresql://u:***@h/d")
        assert "hunter2" not in ended.stdout
