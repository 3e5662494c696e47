"""Nothing of a test run outlives it, however it ends: a process beside it that ends what is left.

:func:`guard` marks everything that this process will start, through the environment that children inherit, and starts
``python -m testbed.leftovers MARK DIRECTORY``, which waits for its standard input to close. The kernel closes that when
we end, by SIGKILL as well. It then ends every marked process with its children, and removes the directory in which
:mod:`tempfile` made everything of the run.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

import psutil

MARK = "TESTBED_RUN"

_POLL_SECONDS = 0.05
_MEMORY = "/dev/shm"
_MEMORY_BYTES = 8 << 30
_GRACE_SECONDS = 15.0  # for servers that are shut down when the interpreters of a complete run end
_END_SECONDS = 10.0
_COMPLETE = b"complete"


class Guard:
    """The process beside us.

    :ivar mark: what everything that we start has in its environment.
    :ivar directory: for temporary files.
    """

    def __init__(self, process: subprocess.Popen[bytes], mark: str, directory: Path) -> None:
        self._process = process
        self.mark = mark
        self.directory = directory

    def run_is_complete(self) -> None:
        """From now on what we have started may take some seconds to end by itself."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # somebody ended the guard
            self._process.stdin.write(_COMPLETE)
            self._process.stdin.flush()


def guard() -> Guard:
    """Mark what this process starts from now on, and have it ended when this process ends."""
    mark = uuid.uuid4().hex
    directory = Path(tempfile.mkdtemp(prefix="chatflow-run-", dir=_memory()))
    directory.chmod(0o711)  # PostgreSQL, under another account, has to pass
    process = subprocess.Popen(
        [sys.executable, "-m", __name__, mark, str(directory)],
        cwd=Path(__file__).parent.parent,
        # Not marked itself, nor by a run around this one, which would end it before its work.
        env={name: value for name, value in os.environ.items() if name != MARK},
        stdin=subprocess.PIPE,
        start_new_session=True,  # an interrupt from the terminal is not for it
    )
    os.environ[MARK] = mark
    os.environ["TMPDIR"] = str(directory)
    tempfile.tempdir = str(directory)
    return Guard(process, mark, directory)


def _memory() -> str | None:
    """A file system in memory, if there is much room: most of what a run costs the system is making files."""
    with contextlib.suppress(OSError):
        found = os.statvfs(_MEMORY)
        if os.access(_MEMORY, os.W_OK | os.X_OK) and found.f_bavail * found.f_frsize >= _MEMORY_BYTES:
            return _MEMORY
    return None


def marks() -> dict[str, str]:
    """The mark of the run that we belong to, for a process that is not given our environment."""
    return {MARK: os.environ[MARK]} if MARK in os.environ else {}


def marked_processes(mark: str) -> list[psutil.Process]:
    """Those that have the mark, and all below them: some, as PostgreSQL's, overwrite their environment."""
    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):  # gone meanwhile, or somebody else's
            if process.environ().get(MARK) == mark:
                found[process.pid] = process
                found |= {child.pid: child for child in process.children(recursive=True)}
    return [process for process in found.values() if _runs(process)]


def end(processes: list[psutil.Process]) -> None:
    """SIGKILL, but for a PostgreSQL, which is given time to remove the memory that its processes share."""
    # Pythons first: a daemon would start its PostgreSQL again.
    for process in sorted(processes, key=is_postgres):
        with contextlib.suppress(psutil.Error):
            process.send_signal(signal.SIGQUIT if is_postgres(process) else signal.SIGKILL)
    _, alive = psutil.wait_procs(processes, timeout=_END_SECONDS)
    for process in alive:
        with contextlib.suppress(psutil.Error):
            process.kill()


def is_postgres(process: psutil.Process) -> bool:
    """Whether it is one of PostgreSQL's, as far as it still is anything."""
    try:
        return bool(process.name() == "postgres")
    except psutil.Error:
        return False


def _runs(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def main(mark: str, directory: str) -> None:
    """Wait for the end of the run, and clear up."""
    complete = sys.stdin.buffer.read() == _COMPLETE
    deadline = time.monotonic() + (_GRACE_SECONDS if complete else 0)
    while (left := marked_processes(mark)) and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
    while left:  # again, for what they have started meanwhile
        end(left)
        left = marked_processes(mark)
    shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
