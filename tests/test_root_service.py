"""What becomes of a process that runs a RootService: real ``twistd`` processes, in the foreground and daemonized."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import chatflow

_TWISTD = str(Path(sys.executable).with_name("twistd"))
_TIMEOUT_SECONDS = 20

_TAC = """
import atexit, os, sys, time
from twisted.application.service import Application, Service
from twisted.internet import reactor, task, threads
from chatflow.errors import StartupError
from chatflow.lifecycle import NamedThreadPool, OrderedServices, RootService

def say(text):
    with open("events", "a") as events:
        print(text, file=events)
    print(text, file=sys.__stdout__, flush=True)

class Part(Service):
    def startService(self):
        say(f"start {self.name}")
        self.start()
    def stopService(self):
        say(f"stop {self.name}")
        return self.stop()
    def start(self):
        with open("pid", "w") as pid:
            pid.write(str(os.getpid()))
        atexit.register(say, f"exit {self.name}")
    def stop(self):
        done = task.deferLater(reactor, 0.01, say, f"stopped {self.name}")
        return done

top = RootService(reactor, deadline_seconds=DEADLINE)
database, port = Part(), Part()
threads_of_ours = NamedThreadPool(reactor, "threads", 1)
top.add("threads", threads_of_ours)
top.add("database", database)
top.add("port", port)
application = Application("test")
top.setServiceParent(application)
reactor.callWhenRunning(lambda: reactor.callLater(0, say, "ready"))
"""


class Daemon:
    """twistd in a directory of its own, with a tac file of which a test gives the last lines."""

    def __init__(self, directory: Path, lines: str, deadline_seconds: float = 10) -> None:
        self.directory = directory
        (directory / "test.tac").write_text(_TAC.replace("DEADLINE", str(deadline_seconds)) + lines)

    @contextlib.contextmanager
    def open(self, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        """In the foreground unless told otherwise. Nothing of it is left afterwards."""
        with subprocess.Popen(
            [_TWISTD, *(arguments or ("-n",)), "--pidfile=test.pid", "-y", "test.tac"],
            cwd=self.directory,
            env=os.environ | {"PYTHONPATH": str(Path(chatflow.__file__).parents[1])},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    def run(self, *arguments: str) -> tuple[int, str, str]:
        """Exit status, stdout and stderr."""
        with self.open(*arguments) as process:
            out, err = process.communicate(timeout=_TIMEOUT_SECONDS)
            return process.returncode, out, err

    def run_until(self, event: str, number: signal.Signals) -> tuple[int, str]:
        """Send a signal upon ``event``. Exit status and stderr."""
        with self.open() as process:
            assert process.stdout
            assert any(line.strip() == event for line in process.stdout), "ended before it came so far"
            process.send_signal(number)
            _out, err = process.communicate(timeout=_TIMEOUT_SECONDS)
            return process.returncode, err

    def wait_for_end(self) -> None:
        """Wait for the process that started the services, whose parent may be gone."""
        try:
            process = os.pidfd_open(int((self.directory / "pid").read_text()))
        except ProcessLookupError:
            return
        ended, _, _ = select.select([process], [], [], _TIMEOUT_SECONDS)
        if not ended:
            signal.pidfd_send_signal(process, signal.SIGKILL)
        os.close(process)
        assert ended, "the daemon did not end"

    @property
    def events(self) -> list[str]:
        return (self.directory / "events").read_text().splitlines()

    @property
    def has_pid_file(self) -> bool:
        return (self.directory / "test.pid").exists()


FAILING = """
def refuse():
    raise StartupError("cannot listen on tcp:8080: address already in use; choose another --listen")
port.start = refuse
"""
UNDONE = ["start database", "start port", "stop database", "stopped database", "exit database"]
STOPPED = [
    *("start database", "start port", "ready", "stop port", "stopped port", "stop database", "stopped database"),
    *("exit port", "exit database"),
]


class TestFailedStart:
    def test_in_the_foreground_it_is_one_line_and_status_1_and_nothing_is_left(self, tmp_path: Path) -> None:
        daemon = Daemon(tmp_path, FAILING)
        status, out, err = daemon.run()
        assert err == "chatflow: cannot listen on tcp:8080: address already in use; choose another --listen\n"
        assert "Traceback" not in out
        assert status == 1
        assert not daemon.has_pid_file
        assert daemon.events == UNDONE

    def test_daemonized_the_parent_tells_and_the_log_has_all_of_it(self, tmp_path: Path) -> None:
        daemon = Daemon(tmp_path, FAILING)
        status, _out, err = daemon.run("--logfile=test.log")
        daemon.wait_for_end()
        assert "StartupError: cannot listen on tcp:8080: address already in use" in err
        assert "Traceback" not in err
        assert status == 1
        assert not daemon.has_pid_file
        assert "choose another --listen" in (tmp_path / "test.log").read_text()
        assert daemon.events == UNDONE

    def test_an_unforeseen_error_is_one_line_too_and_its_traceback_is_in_the_log(self, tmp_path: Path) -> None:
        daemon = Daemon(tmp_path, "def bug():\n    raise KeyError('a\\nb')\nport.start = bug")
        status, out, err = daemon.run()
        assert (status, err) == (1, "chatflow: KeyError: 'a\\nb'\n")
        assert "Traceback" in out
        assert daemon.events == UNDONE

    def test_a_text_of_several_lines_becomes_one(self, tmp_path: Path) -> None:
        daemon = Daemon(tmp_path, "def refuse():\n    raise StartupError('one\\n  two\\n')\nport.start = refuse")
        assert daemon.run()[2] == "chatflow: one two\n"
        assert "StartupError: one two" in daemon.run("--logfile=test.log")[2]
        daemon.wait_for_end()

    def test_a_failing_privileged_start_ends_the_same_way(self, tmp_path: Path) -> None:
        daemon = Daemon(tmp_path, FAILING + "port.privilegedStartService = refuse")
        status, _out, err = daemon.run()
        assert (status, err.count("\n"), daemon.has_pid_file) == (1, 1, False)
        assert err.startswith("chatflow: cannot listen")

    def test_what_stops_in_one_of_the_reactors_threads_stops(self, tmp_path: Path) -> None:
        daemon = Daemon(tmp_path, FAILING + "database.stop = lambda: threads.deferToThread(say, 'in thread')")
        assert daemon.run()[0] == 1
        assert "in thread" in daemon.events

    def test_what_stops_in_a_thread_of_its_own_stops(self, tmp_path: Path) -> None:
        daemon = Daemon(tmp_path, FAILING + "database.stop = lambda: threads_of_ours.run(say, 'in thread')")
        assert daemon.run()[0] == 1
        assert "in thread" in daemon.events

    def test_a_stop_that_hangs_in_a_thread_does_not_keep_the_process(self, tmp_path: Path) -> None:
        hang = "database.stop = lambda: threads.deferToThread(time.sleep, 1000)"
        assert Daemon(tmp_path, FAILING + hang, deadline_seconds=0.2).run()[0] == 1

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_a_signal_ends_the_start_in_order(self, tmp_path: Path, number: signal.Signals) -> None:
        daemon = Daemon(tmp_path, "port.start = lambda: time.sleep(1000)")
        status, err = daemon.run_until("start port", number)
        assert (status, err) == (1, f"chatflow: ended by {number.name} while starting\n")
        assert not daemon.has_pid_file
        assert daemon.events == UNDONE

    def test_a_signal_does_not_interrupt_what_undoes_a_failed_start(self, tmp_path: Path) -> None:
        daemon = Daemon(tmp_path, FAILING + f"database.stop = lambda: os.kill(os.getpid(), {int(signal.SIGTERM)})")
        status, _out, err = daemon.run()
        assert status == 1
        assert err.startswith("chatflow: cannot listen")
        assert "exit database" in daemon.events


class TestOrderlyEnd:
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_a_signal_stops_all_in_order_and_the_status_is_0(self, tmp_path: Path, number: signal.Signals) -> None:
        daemon = Daemon(tmp_path, "")
        assert daemon.run_until("ready", number) == (0, "")
        assert daemon.events == STOPPED
        assert not daemon.has_pid_file

    def test_daemonized_the_parent_exits_with_0_and_a_signal_to_the_pid_stops_all(self, tmp_path: Path) -> None:
        daemon = Daemon(tmp_path, "")
        status, _out, err = daemon.run("--logfile=test.log")
        assert (status, err) == (0, "")
        os.kill(int((tmp_path / "test.pid").read_text()), signal.SIGTERM)
        daemon.wait_for_end()
        # The parent ends before the reactor runs, so that the signal may come first.
        assert [event for event in daemon.events if event != "ready"] == [each for each in STOPPED if each != "ready"]
        assert not daemon.has_pid_file

    def test_a_second_signal_does_not_cut_the_stop_short(self, tmp_path: Path) -> None:
        again = f"""
def stop():
    os.kill(os.getpid(), {int(signal.SIGTERM)})
    return task.deferLater(reactor, 0.05, say, "stopped port")
port.stop = stop
"""
        daemon = Daemon(tmp_path, again)
        assert daemon.run_until("ready", signal.SIGTERM) == (0, "")
        assert daemon.events == STOPPED

    def test_a_blocked_thread_of_ours_does_not_keep_the_process(self, tmp_path: Path) -> None:
        daemon = Daemon(tmp_path, "database.start = lambda: threads_of_ours.run(time.sleep, 1000)", 0.2)
        assert daemon.run_until("ready", signal.SIGTERM) == (0, "")

    def test_end_stops_all_in_order_and_exits_with_the_status_asked_for(self, tmp_path: Path) -> None:
        daemon = Daemon(tmp_path, "reactor.callWhenRunning(reactor.callLater, 0, top.end, 3)")
        status, _out, err = daemon.run()
        assert (status, err) == (3, "")
        assert daemon.events == STOPPED


class TestFatal:
    def test_it_is_one_line_and_status_1_after_an_ordered_stop(self, tmp_path: Path) -> None:
        daemon = Daemon(tmp_path, "reactor.callWhenRunning(reactor.callLater, 0, top.fatal, 'the disk is gone')")
        status, out, err = daemon.run()
        assert (status, err) == (1, "chatflow: the disk is gone\n")
        assert "fatal: the disk is gone" in out
        assert daemon.events == STOPPED
        assert not daemon.has_pid_file

    def test_a_signal_while_it_stops_does_not_make_the_status_0(self, tmp_path: Path) -> None:
        lines = f"""
reactor.callWhenRunning(reactor.callLater, 0, top.fatal, "the disk is gone")
port.stop = lambda: os.kill(os.getpid(), {int(signal.SIGTERM)})
"""
        assert Daemon(tmp_path, lines).run()[0] == 1

    def test_what_fails_while_it_stops_is_logged_but_the_first_reason_is_printed(self, tmp_path: Path) -> None:
        lines = """
reactor.callWhenRunning(reactor.callLater, 0, top.fatal, "first")
port.stop = lambda: top.fatal("second")
"""
        status, out, err = Daemon(tmp_path, lines).run()
        assert (status, err) == (1, "chatflow: first\n")
        assert "fatal: second" in out

    def test_before_the_reactor_runs_it_ends_the_process_as_well(self, tmp_path: Path) -> None:
        daemon = Daemon(tmp_path, "port.start = lambda: top.fatal('too early')")
        status, _out, err = daemon.run()
        assert (status, err) == (1, "chatflow: too early\n")
        assert "stopped database" in daemon.events
