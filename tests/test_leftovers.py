"""However a run of pytest ends, nothing that it started lives on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from testbed.daemon import clean_environment
from testbed.leftovers import marked_processes
from testbed.waiting import eventually

_ROOT = Path(__file__).parent.parent
_SECONDS = 60.0

# Blocks in the middle of a test, with servers of each kind, or only a few processes.
_RUN = """
import os, signal, subprocess, sys, threading
from pathlib import Path

def say(what):
    Path("begun.new").write_text(f"{os.environ['TESTBED_RUN']} {os.environ['TMPDIR']}")
    Path("begun.new").rename("begun")
    threading.Event().wait()

def test_servers():
    from testbed.daemon import running_daemon
    from testbed.emulator import shared_emulator
    from testbed.postgres import fresh_database
    shared_emulator()
    with fresh_database() as url, running_daemon(database=url):
        say("begun")

def test_child():
    program = "import signal; signal.signal(2, 1); signal.signal(15, 1); signal.pause()"
    with subprocess.Popen([sys.executable, "-c", program]):
        say("begun")
"""


def _is_alive(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize(
    ("number", "test", "programs"),
    [
        (signal.SIGKILL, "test_servers", {"twistd", "postgres", "ministack", "exec(eval("}),
        (signal.SIGTERM, "test_child", {"signal.signal", "exec(eval("}),
        (signal.SIGINT, "test_child", {"signal.signal", "exec(eval("}),
    ],
    ids=["SIGKILL", "SIGTERM", "SIGINT"],
)
def test_an_interrupted_run_leaves_no_process_and_no_directory_behind(
    tmp_path: Path, number: signal.Signals, test: str, programs: set[str]
) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "test_run.py").write_text(_RUN)
    environment = clean_environment() | {"PYTHONPATH": str(_ROOT)}
    environment.pop("TESTBED_SHARED", None)  # this run's own servers
    options = ("-p", "tests.support.run", "-p", "no:schemathesis", "-p", "no:cacheprovider", "-n", "1")
    with (tmp_path / "output").open("wb") as output:
        run = subprocess.Popen(
            [sys.executable, "-m", "pytest", *options, f"test_run.py::{test}"],
            cwd=tmp_path,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        begun = tmp_path / "begun"
        eventually(lambda: begun.exists() or run.poll() is not None, "a test is under way", _SECONDS)
        assert begun.exists(), (tmp_path / "output").read_text()
        mark, directory = begun.read_text().split()
        started = marked_processes(mark)
        commands = " ".join(" ".join(process.cmdline()) for process in started)
        assert {program for program in programs if program not in commands} == set()
        assert str(os.getpid()) not in {str(process.pid) for process in started}
        run.send_signal(number)
        run.wait(_SECONDS)
        eventually(lambda: not any(map(_is_alive, started)), "all of them end", _SECONDS)
        eventually(lambda: not Path(directory).exists(), "its temporary files are removed", _SECONDS)
        assert marked_processes(mark) == []
    finally:
        run.kill()
        run.wait()
