"""Processes of ChatFlow that begin with everything imported: ``twistd`` and the commands, forked from a server.

A run of the tests starts hundreds of them, and most of what a start costs is importing, a second of CPU each time. The
server of a run has imported it once; what it forks gets its own arguments, environment, directory, files and signals,
and executes the same script from its first line. Tests of the start itself, and whatever sets variables that Python or
the loader read before that line, start an interpreter. :func:`start` does so by itself for such variables, and in
processes that nobody has told to :func:`fork`.
"""

from __future__ import annotations

import array
import atexit
import contextlib
import ctypes
import functools
import gc
import json
import os
import runpy
import select
import selectors
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from testbed.descriptions import keep_descriptions, read_descriptions
from testbed.shared import shared
from testbed.waiting import eventually

_START_SECONDS = 60.0
_MAX_REQUEST_BYTES = 1 << 20
_MAX_SHOWN_BYTES = 4000
_SCRIPTS = Path(sysconfig.get_path("scripts"))
_IMPORTED = (
    *("twisted.scripts.twistd", "chatflow.tap", "chatflow.load.tap"),
    *("chatflow.admin", "chatflow.client.command", "boto3.session"),
)
# What an interpreter or the loader reads before a script begins.
_BEFORE_THE_SCRIPT = ("PYTHON", "LD_", "MALLOC_", "FAKETIME", "COVERAGE")

_forks = False


def fork() -> None:
    """Let this process have others forked from now on: one that runs tests, but not a cluster that it starts."""
    global _forks
    _forks = True


class Forked:
    """A process that the server has forked, with the methods of :class:`subprocess.Popen` that tests use.

    :ivar returncode: as there; None as long as nobody has asked after its end.
    """

    def __init__(self, args: Sequence[str], connection: socket.socket) -> None:
        self.args = args
        self.returncode: int | None = None
        self._file = connection.detach()
        self._lock = threading.Lock()
        self.pid = int(self._read_line())

    def __del__(self) -> None:
        os.close(self._file)  # not before: a thread may wait while another asks

    def poll(self) -> int | None:
        """The exit status or None."""
        if self.returncode is None and select.select([self._file], [], [], 0)[0]:
            self._take_status()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The exit status, once there is one.

        :raises subprocess.TimeoutExpired: there is none in time.
        """
        if self.returncode is None:
            if not select.select([self._file], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
            self._take_status()
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Nothing happens once it has ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _take_status(self) -> None:
        with self._lock:
            if self.returncode is None:
                self.returncode = int(self._read_line())

    def _read_line(self) -> bytes:
        line = b""
        while not line.endswith(b"\n"):
            received = os.read(self._file, 1)
            if not received:
                raise RuntimeError("the server that forks processes has ended")
            line += received
        return line


Started = subprocess.Popen[bytes] | Forked


def start(
    command: Sequence[str | Path],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str],
    stdin: int | IO[Any] = subprocess.DEVNULL,
    stdout: IO[Any] | None = None,
    stderr: IO[Any] | None = None,
) -> Started:
    """Start ``[SCRIPT, ARGUMENT...]`` or ``[sys.executable, "-m", MODULE, ARGUMENT...]``, forked where it can be."""
    words = [str(word) for word in command]
    if not (_forks and _can_be_forked(words, env)):
        if words[:2] == [sys.executable, "-m"]:  # modules of this checkout, which may not be installed
            path = os.pathsep.join(filter(None, (str(Path(__file__).parents[1]), env.get("PYTHONPATH"))))
            env = {**env, "PYTHONPATH": path}
        return subprocess.Popen(words, cwd=cwd, env=env, stdin=stdin, stdout=stdout, stderr=stderr)
    files = [stdin if stdin != subprocess.DEVNULL else None, stdout or sys.__stdout__, stderr or sys.__stderr__]
    with open(os.devnull) as nothing:  # noqa: PTH123 - a device
        numbers = [_number_of(file or nothing) for file in files]
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(server())
        wanted = {"command": words, "cwd": str(cwd or Path.cwd()), "env": dict(env), "ignored": _ignored_signals()}
        request = json.dumps(wanted).encode()
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", numbers))]
        connection.sendmsg([len(request).to_bytes(4, "big")], rights)
        connection.sendall(request)
    return Forked(words, connection)


def run(
    command: Sequence[str | Path],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str],
    given: bytes = b"",
    timeout: float | None = 60.0,
) -> subprocess.CompletedProcess[str]:
    """The same until it ends, as :func:`subprocess.run`; what it is given and says goes through files.

    :raises subprocess.TimeoutExpired: it did not end in time, and was killed.
    """
    with tempfile.TemporaryFile() as stdin, tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        stdin.write(given)
        stdin.seek(0)
        process = start(command, cwd=cwd, env=env, stdin=stdin, stdout=stdout, stderr=stderr)
        try:
            status = process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise
        said = []
        for file in (stdout, stderr):
            file.seek(0)
            said.append(file.read().decode())
    return subprocess.CompletedProcess(process.args, status, *said)


@functools.cache
def server() -> str:
    """The path of the run's server, which is started at first use and ends with the process that started it."""
    given = shared("forkserver")
    if given:
        return given
    path = Path(tempfile.mkdtemp(prefix="chatflow-fork-")) / "socket"
    command = [sys.executable, "-m", __name__, str(path), " " * _MAX_SHOWN_BYTES]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, cwd=Path(__file__).parents[1])
    assert process.stdin is not None
    atexit.register(process.wait)  # called in the opposite order
    atexit.register(process.stdin.close)
    eventually(lambda: path.exists() or process.poll() is not None, "it listens or ends", _START_SECONDS)
    assert path.exists(), "the server that forks processes does not start"
    return str(path)


def _ignored_signals() -> list[int]:
    """Those that a child inherits so, without the two that :mod:`subprocess` restores."""
    ignored = (number for number in signal.valid_signals() if signal.getsignal(number) is signal.SIG_IGN)
    return [int(number) for number in ignored if number not in (signal.SIGPIPE, signal.SIGXFSZ)]


def _number_of(file: int | IO[Any]) -> int:
    return file if isinstance(file, int) else file.fileno()


def _can_be_forked(words: Sequence[str], env: Mapping[str, str]) -> bool:
    if sys.platform != "linux":
        return False
    script = Path(words[0])
    ours = script.parent == _SCRIPTS and script.name in ("twistd", "chatflow-admin", "chatflow-client")
    return (ours or words[:2] == [sys.executable, "-m"]) and all(
        env.get(name) == os.environ.get(name) for name in {*env, *os.environ} if name.startswith(_BEFORE_THE_SCRIPT)
    )


# In the server


def _import() -> None:
    # Klein imports the reactor for its run(), which nobody calls. One that is made before a fork would be shared.
    sys.modules["twisted.internet.reactor"] = type(sys)("twisted.internet.reactor")
    for name in _IMPORTED:
        __import__(name)
    del sys.modules["twisted.internet.reactor"]
    keep_descriptions()
    read_descriptions()
    gc.collect()
    gc.freeze()


def _serve(path: str) -> dict[str, Any] | None:
    """Fork until standard input closes. Returns what to become in each process that was forked, None in the server."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"{path}.new")
    listener.listen(64)
    Path(f"{path}.new").rename(path)
    reading, writing = socket.socketpair()
    for end in (reading, writing):
        end.setblocking(False)
    signal.set_wakeup_fd(writing.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    waiting: dict[int, socket.socket] = {}
    with selectors.DefaultSelector() as selector:
        for source in (sys.stdin, listener, reading):
            selector.register(source, selectors.EVENT_READ)
        while True:
            sources = [key.fileobj for key, _ in selector.select()]
            if sys.stdin in sources:
                return None
            if reading in sources:
                with contextlib.suppress(BlockingIOError):
                    reading.recv(1000)
                _tell_ends(waiting)
            if listener in sources:
                connection, _ = listener.accept()
                request, files = _received(connection)
                pid = os.fork()
                if not pid:
                    signal.set_wakeup_fd(-1)
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    for one in (listener, reading, writing, connection, *waiting.values()):
                        one.close()
                    for number, file in enumerate(files):
                        os.dup2(file, number)
                        os.close(file)
                    return request
                for file in files:
                    os.close(file)
                waiting[pid] = connection
                with contextlib.suppress(OSError):  # who asked has gone
                    connection.sendall(b"%d\n" % pid)


def _received(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    size, rights, *_ = connection.recvmsg(4, socket.CMSG_SPACE(3 * array.array("i").itemsize))
    files = array.array("i")
    for _, _, data in rights:
        files.frombytes(data)
    wanted, body = int.from_bytes(size, "big"), b""
    while len(body) < wanted:
        body += connection.recv(_MAX_REQUEST_BYTES)
    request: dict[str, Any] = json.loads(body)
    return request, list(files)


def _tell_ends(waiting: dict[int, socket.socket]) -> None:
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            pid, status = ended
            with waiting.pop(pid) as connection, contextlib.suppress(OSError):
                connection.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))


def _become(request: dict[str, Any]) -> None:
    """Execute a command in this process, which was just forked."""
    _show(request["command"])
    for number in request["ignored"]:
        signal.signal(number, signal.SIG_IGN)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    time.tzset()
    script, *arguments = request["command"]
    if script == sys.executable:
        _, module, *arguments = arguments
        sys.argv = [module, *arguments]
        sys.path[0] = request["cwd"]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    else:
        sys.argv = [script, *arguments]
        sys.path[0] = str(Path(script).parent)
        runpy.run_path(script, run_name="__main__")


def _show(command: list[str]) -> None:
    """Overwrite the command line that other processes see in /proc; the server's own leaves space."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    begin, end = int(fields[45]), int(fields[46])  # arg_start and arg_end of proc_pid_stat(5)
    shown = b"".join(os.fsencode(word) + b"\0" for word in [sys.executable, *command])
    ctypes.memmove(begin, shown[: end - begin - 1].ljust(end - begin, b"\0"), end - begin)


if __name__ == "__main__":
    _import()
    if (wanted := _serve(sys.argv[1])) is not None:
        _become(wanted)
