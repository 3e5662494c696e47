"""One PostgreSQL cluster on this machine and its processes: make it, launch it, recognise it, end it.

Blocking. :mod:`chatflow.postgres.embedded` decides when.
"""

from __future__ import annotations

import re
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from twisted.logger import Logger

from chatflow.errors import StartupError, Unavailable
from chatflow.postgres.unprivileged import Account

# psutil, which lists processes on Linux and macOS alike, is imported where it is used: it comes with the
# wheel that has PostgreSQL, so where that is missing it may be, too.

_READY_SECONDS = 300.0  # crash recovery replays up to max_wal_size (1 GB) of log
_STOP_SECONDS = 60.0  # a fast shutdown writes a checkpoint
_KILL_SECONDS = 10.0
_POLL_SECONDS = 0.01
_MAX_LOG_BYTES = 10_000_000

# How PostgreSQL says that a disk is full; the second is of a write of which a part found room.
_FULL = "No space left on device|wrote only [0-9]+ of [0-9]+ bytes"

#: Only a part of the socket's name.
PORT = 5432

_SETTINGS = {
    "listen_addresses": "",  # a socket in the file system only
    "port": str(PORT),
    "unix_socket_permissions": "0700",
    "jit": "off",  # statements of a millisecond are not worth compiling
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_checkpoints": "off",
    # Messages of users stay out of the server's log: neither statements nor the details of a refused row.
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
}


class Cluster:
    """A directory made by initdb (PGDATA), and the server on it, whichever process started that.

    :param pgdata: need not exist yet; see :meth:`make`.
    :param binaries: the directory with ``initdb`` and ``postgres``.
    :param socket_directory: where the server's socket shall be.
    :param account: under whom to run PostgreSQL; None for "as we are".
    """

    _log = Logger()

    def __init__(self, pgdata: Path, binaries: Path, socket_directory: Path, account: Account | None) -> None:
        self._pgdata = pgdata
        self._binaries = binaries
        self._socket_directory = socket_directory
        self._account = account
        self._child: subprocess.Popen[bytes] | None = None
        self._log_path = pgdata / "server.log"

    def make(self) -> None:
        """Run initdb.

        :raises StartupError: it failed; nothing that looks like a cluster remains.
        """
        # Made beside and renamed: what an interrupted initdb leaves looks like a cluster.
        unfinished = self._pgdata.with_name(self._pgdata.name + ".unfinished")
        if unfinished.exists():
            shutil.rmtree(unfinished)
        unfinished.mkdir(mode=0o700)
        if self._account is not None:
            self._account.own(unfinished)
        # Trust: by the mode of the socket's directory, only the account and root reach it.
        options = ["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C"]
        with self._run("initdb", f"--pgdata={unfinished}", *options, stdout=subprocess.PIPE) as process:
            try:
                output, _ = process.communicate()
            except BaseException:  # a signal
                process.terminate()
                raise
        if process.returncode:
            shutil.rmtree(unfinished, ignore_errors=True)  # of the space that it took, a full disk may need all
            raise StartupError(f"initdb failed in {self._pgdata.parent}: {_reason(output)}{self._hint(output)}")
        unfinished.rename(self._pgdata)

    def ensure_server(self, is_cancelled: Callable[[], bool] = lambda: False) -> None:
        """Return once a server runs on the cluster and accepts connections; start one if there is none.

        :param is_cancelled: asked now and then; True ends the wait.
        :raises StartupError: it cannot be started, in one line.
        :raises Unavailable: cancelled.
        """
        deadline = time.monotonic() + _READY_SECONDS
        log_offset: int | None = None
        while not is_cancelled():
            server, state = self._server()
            if state == "ready":
                return
            # One that is starting or, left behind by somebody who stopped it, stopping, is waited for.
            if server is None and log_offset is not None:
                log = self._log_path.read_bytes()[log_offset:]
                raise StartupError(f"PostgreSQL did not start: {_reason(log)}{self._hint(log)} ({self._log_path})")
            if server is None:
                log_offset = self._launch()
            if time.monotonic() > deadline:
                raise StartupError(f"PostgreSQL was not ready in {_READY_SECONDS:.0f} s, see {self._log_path}")
            time.sleep(_POLL_SECONDS)
        raise Unavailable("PostgreSQL is being stopped")

    def end_server(self) -> None:
        """Shut the server down, if there is one, disconnecting its clients; return when all of it is gone."""
        import psutil

        server, _ = self._server()
        if server is not None:
            with suppress(psutil.NoSuchProcess):
                server.send_signal(signal.SIGINT)
            if not self._wait_gone([server], _STOP_SECONDS):
                self._log.error("PostgreSQL, process {pid}, does not end and is made to", pid=server.pid)
        self._end_all()

    def _server(self) -> tuple[Any, str | None]:
        """The postmaster as a psutil.Process, and its state as it wrote it: starting, ready, stopping.

        (None, None) if there is none, (process, None) if it has not yet written its state.
        """
        lines = _lines(self._pgdata / "postmaster.pid")
        if self._child is not None and self._child.poll() is None:
            pid = str(self._child.pid)
        elif lines:
            pid = lines[0]
        else:
            return None, None
        process = _process(pid)
        if process is None or not self._has(process):
            return None, None
        return process, lines[7].strip() if len(lines) > 7 and lines[0] == pid else None

    def _name(self) -> str:
        """What marks this cluster's processes in their command lines: the directory, wherever it is moved to.

        A number in postmaster.pid proves nothing: after a reboot, or in a new container, another process has it.
        """
        status = self._pgdata.stat()
        return f"chatflow-{status.st_dev:x}-{status.st_ino:x}"

    def _has(self, process: Any) -> bool:
        """Whether a process is this cluster's, the postmaster or one that it forked."""
        import psutil

        try:
            return bool(process.name() == "postgres" and self._name() in " ".join(process.cmdline()))
        except psutil.Error:
            return False

    def _launch(self) -> int:
        """Start a postmaster; the size of its log before that."""
        self._end_all()
        self._remove_stale_locks()
        self._see_that_it_is_whole()
        if self._log_path.exists() and self._log_path.stat().st_size > _MAX_LOG_BYTES:
            self._log_path.replace(self._log_path.with_suffix(".log.1"))
        settings = {
            **_SETTINGS,
            "cluster_name": self._name(),
            "unix_socket_directories": str(self._socket_directory),
        }
        with self._log_path.open("ab") as log:
            written_bytes = log.tell()
            # Not by pg_ctl, which pastes paths into a shell's command line.
            options = [f"--{name}={value}" for name, value in settings.items()]
            self._child = self._run("postgres", "-D", str(self._pgdata), *options, stdout=log)
            self._log.info("started PostgreSQL in {directory}", directory=str(self._pgdata))
        return written_bytes

    def _run(self, command: str, *arguments: str, stdout: Any) -> subprocess.Popen[bytes]:
        try:
            return subprocess.Popen(
                [self._binaries / command, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=subprocess.STDOUT,
                cwd="/",  # ours may be one that the account cannot enter
                start_new_session=True,  # an interrupt from the terminal is for the daemon
                **(self._account.process_arguments() if self._account is not None else {}),
            )
        except OSError as error:
            raise StartupError(f"cannot run {self._binaries / command}: {error.strerror}") from error

    def _end_all(self) -> None:
        """End every process of the cluster at once.

        Those that a killed postmaster left behind hold its shared memory, so a new one would refuse to start. What they
        had committed is in the log, from which the next server recovers.
        """
        import psutil

        processes = [process for process in psutil.process_iter() if self._has(process)]
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        if not self._wait_gone(processes, _KILL_SECONDS):
            numbers = ", ".join(str(process.pid) for process in processes)
            raise StartupError(f"an earlier PostgreSQL on {self._pgdata} does not end: process {numbers}")

    def _remove_stale_locks(self) -> None:
        """Remove what PostgreSQL would take for the lock of a running server, unless it is one.

        Whoever calls this holds the lock of the data directory, and has ended what other daemons have left there: so
        only a server that somebody has started by hand can be meant. A file may also be empty or hold anything, after a
        power failure; its number may have gone to another program, or belong to a dead process that nobody has asked
        for its exit status, as in a container whose first process is no init.
        """
        import psutil

        others = [process.pid for process in psutil.process_iter() if self._is_served_by(process)]
        if others:
            raise StartupError(
                f"{self._pgdata} is served by a PostgreSQL that no ChatFlow has started, process {others[0]}: stop it"
            )
        for path in (self._pgdata / "postmaster.pid", self._socket_directory / f".s.PGSQL.{PORT}.lock"):
            lines = _lines(path)
            if path.is_file() and not (lines and self._is_hidden(_process(lines[0].lstrip("-")))):
                path.unlink()
                self._log.info("removed {path}, which was left behind", path=str(path))

    def _is_served_by(self, process: Any) -> bool:
        """Whether a process is a postmaster on this cluster, whoever has started it."""
        import psutil

        try:
            if process is None or process.name() != "postgres" or process.status() == psutil.STATUS_ZOMBIE:
                return False
            return bool(self._pgdata.samefile(process.cwd()))  # a postmaster's is its PGDATA
        except (psutil.Error, OSError):
            return False

    def _is_hidden(self, process: Any) -> bool:
        """Whether a process is a PostgreSQL of which this one may not know more; PostgreSQL itself may."""
        import psutil

        try:
            return process is not None and process.name() == "postgres" and not process.cwd()
        except psutil.AccessDenied:
            return True
        except psutil.Error:
            return False

    def _see_that_it_is_whole(self) -> None:
        """Make good what PostgreSQL only complains about, and say in its place what is beyond repair.

        :raises StartupError: it lacks what no cluster is without.
        """
        mode = stat.S_IMODE(self._pgdata.stat().st_mode)
        if mode & 0o077:
            # PostgreSQL refuses more. Volumes of Kubernetes with an fsGroup get more at each start.
            self._pgdata.chmod(0o700)
            self._log.info("took the access of others to {directory} away", directory=str(self._pgdata))
        control = self._pgdata / "global" / "pg_control"
        if not control.is_file() or not control.stat().st_size:
            raise StartupError(
                f"the PostgreSQL cluster in {self._pgdata} is damaged, it has no global/pg_control: restore a "
                "backup, or move the directory away to begin anew"
            )

    def _hint(self, log: bytes) -> str:
        """What to do about a cluster that does not start, as far as that can be told."""
        if re.search(_FULL.encode(), log):
            return ": the disk is full, free some space"
        if b"PANIC" not in log and b"checkpoint" not in log:
            return ""
        if (self._pgdata / "backup_label").exists():
            return (
                ": backup_label is that of a backup; restore the WAL that belongs to it, or remove it if this is none"
            )
        return ": the cluster is damaged; restore a backup, or move the directory away to begin anew"

    def _wait_gone(self, processes: list[Any], seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while any(self._has(process) for process in processes):
            if time.monotonic() > deadline:
                return False
            time.sleep(_POLL_SECONDS)
        if self._child is not None:
            self._child.poll()  # so that no zombie stays
        return True


def _lines(path: Path) -> list[str]:
    """What a file holds, whatever that is; nothing if there is none."""
    with suppress(FileNotFoundError):
        return path.read_bytes().decode(errors="replace").splitlines()
    return []


def _process(number: str) -> Any:
    """The process with this number, if it is one."""
    import psutil

    number = number.strip()
    if not re.fullmatch(r"[0-9]{1,9}", number, re.ASCII):
        return None
    with suppress(psutil.Error):
        return psutil.Process(int(number))
    return None


def _reason(output: bytes) -> str:
    """The part of a command's output that says why it failed, one line."""
    text = output.decode(errors="replace").strip() or "it said nothing"
    # What the disk says comes first, whatever follows from it; some programs name no level.
    for pattern in (
        rf"(?:[A-Z]+|error): +(.*(?:{_FULL}).*)",
        r"PANIC: +(.*)",
        r"(?:FATAL|error): +(.*)",
        "(could not .*)",
    ):
        found = re.search(pattern, text)
        if found:
            return found[1]
    return text.splitlines()[-1]
