"""Signals: each is an orderly end or a reload, and none leaves a PostgreSQL behind."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed.daemon import TWISTD, Daemon, clean_environment, processes_in, running_daemon
from testbed.waiting import eventually


class TestWithItsOwnPostgresql:
    @pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR2])
    def test_a_signal_that_would_kill_is_an_orderly_end(self, number: signal.Signals) -> None:
        with running_daemon() as daemon:
            daemon.send_signal(number)
            assert daemon.wait() == 0
            assert f"received {number.name}, ending" in daemon.output()
            assert daemon.processes() == []

    def test_a_signal_while_it_starts_ends_the_start_in_order(self) -> None:
        with Daemon() as daemon:
            daemon.launch()
            eventually(lambda: "started PostgreSQL" in daemon.output(), "PostgreSQL is starting")
            daemon.send_signal(signal.SIGHUP)
            status = daemon.wait()
            assert (status, daemon.errors()) in (
                (1, "chatflow: ended by SIGHUP while starting\n"),
                (0, ""),  # it had started just before
            )
            assert daemon.processes() == []

    def test_a_closed_terminal_is_an_orderly_end(self, tmp_path: Path) -> None:
        (tmp_path / "chatflow.ini").write_text("[chatflow]\n")  # something to read again, which is not asked for
        command = "exec >out 2>&1; exec " + " ".join(
            [str(TWISTD), "-n", "chatflow", "--listen", "tcp:0:interface=127.0.0.1", "--config", "chatflow.ini"]
        )
        child, terminal = pty.fork()
        if child == 0:  # the leader of a session with this terminal
            os.chdir(tmp_path)
            os.execve("/bin/sh", ["sh", "-c", command], clean_environment())
        try:
            eventually(lambda: "listening on" in _text(tmp_path / "out"), "it listens", 60)
            os.close(terminal)
            eventually(lambda: processes_in(tmp_path) == [], "daemon and PostgreSQL have ended", 60)
            assert "received SIGHUP, ending" in _text(tmp_path / "out")
        finally:
            os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0


class TestOnTheTestsPostgresql:
    @pytest.fixture
    def settings(self, tmp_path: Path) -> Path:
        file = tmp_path / "chatflow.ini"
        file.write_text("[chatflow]\nlog-level = info\n")
        return file

    @pytest.fixture
    def configured(self, module_database_url: str, settings: Path) -> Iterator[Daemon]:
        with running_daemon("--config", str(settings), database=module_database_url) as daemon:
            yield daemon

    def test_sighup_reads_the_file_again_and_says_what_came_of_it(self, configured: Daemon, settings: Path) -> None:
        def reload(text: str, *lines: str) -> None:
            settings.write_text(f"[chatflow]\n{text}")
            configured.send_signal(signal.SIGHUP)
            eventually(lambda: all(line in configured.output() for line in lines), f"{lines}")

        reload("log-level = info\n", "reload: nothing has changed")
        reload(
            "log-level = debug\nrooms = 30\nmessages-per-second = 7\n",
            f"reload: messages-per-second = 7 (file {settings}) is applied",
            f"reload: log-level = debug (file {settings}) is applied",
            f"reload: a restart is needed for rooms = 30 (file {settings})",
            "reload: 2 applied, 1 waiting for a restart",
        )
        reload("max-connections = 77\n", f"reload: max-connections = 77 (file {settings}) is applied")
        reload("rooms = many\n", "every setting stays as it was")
        reload("no-such = 1\n", "unknown key no-such")
        assert configured.is_ready()
        reload("log-level = error\n")
        eventually(lambda: configured.output().count("received SIGHUP") == 6, "the last one")
        assert configured.stop() == 0
        assert "drained" not in configured.output(), "what is less important than an error is left out"

    def test_sighup_while_it_starts_is_obeyed_afterwards(self, module_database_url: str, settings: Path) -> None:
        with Daemon("--config", str(settings), database=module_database_url) as daemon:
            daemon.launch()
            eventually(lambda: "up to" in daemon.output(), "the start has begun")
            daemon.send_signal(signal.SIGHUP)
            eventually(lambda: "reload: nothing has changed" in daemon.output(), "a reload")
            daemon.send_signal(signal.SIGTERM)
            assert daemon.wait() == 0

    def test_sighup_that_is_ignored_from_the_start_stays_ignored(self, module_database_url: str) -> None:
        with Daemon(database=module_database_url) as daemon:
            before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does; a new process inherits it
            try:
                daemon.start()
            finally:
                signal.signal(signal.SIGHUP, before)
            daemon.send_signal(signal.SIGHUP)
            assert daemon.is_ready()
            assert daemon.stop() == 0
            assert "SIGHUP" not in daemon.output()

    def test_sigusr1_begins_the_log_file_anew(self, module_database_url: str, tmp_path: Path) -> None:
        file = tmp_path / "chatflow.log"
        with Daemon("--log-file", str(file), "--log-format", "json", database=module_database_url) as daemon:
            daemon.launch()
            eventually(lambda: "listening on" in _text(file), "it listens")
            file.rename(tmp_path / "old.log")
            daemon.send_signal(signal.SIGUSR1)
            eventually(lambda: "begun anew" in _text(file), "a new file")
            daemon.send_signal(signal.SIGTERM)
            assert daemon.wait() == 0
            assert daemon.output() == ""


class TestPidFile:
    """In a container the number in a file that was left behind is soon that of this process, or of another program."""

    @pytest.mark.parametrize("left", ["$$", "", "torn", "1", "0"])
    def test_a_stale_one_does_not_end_each_further_start(self, tmp_path: Path, left: str) -> None:
        command = f'printf %s "{left}" >twistd.pid; exec {TWISTD} -n chatflow --database postgresql://127.0.0.1:1/none'
        ended = subprocess.run(
            ["sh", "-c", command], cwd=tmp_path, env=clean_environment(), capture_output=True, text=True, timeout=60
        )
        assert "Another twistd" not in ended.stderr
        assert "removing the stale pid file twistd.pid" in ended.stderr
        assert "connect" in ended.stderr, "it came as far as the database"

    def test_that_of_a_running_daemon_stays(self, module_database_url: str) -> None:
        with running_daemon(database=module_database_url) as daemon:
            second = subprocess.run(
                [TWISTD, "-n", "chatflow", "--database", "postgresql://127.0.0.1:1/none"],
                cwd=daemon.directory,
                env=clean_environment(),
                capture_output=True,
                text=True,
                timeout=60,
            )
            assert second.returncode == 1
            assert "Another twistd server is running" in second.stderr
            assert (daemon.directory / "twistd.pid").read_text() == str(daemon.process.pid)


def _text(file: Path) -> str:
    return file.read_text() if file.exists() else ""
