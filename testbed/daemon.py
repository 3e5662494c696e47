"""The real daemon as a process of its own, ``twistd -n chatflow``, on a free port; nothing of it is left behind.

::

    with running_daemon("--rooms", "3", database=url) as daemon:
        ... daemon.chat_url(1), daemon.get("/health") ...
        assert daemon.stop() == 0
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sysconfig
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import psutil
import psycopg2

from chatflow.persistence.refresh import ADVISORY_LOCK as REFRESH_LOCK
from testbed.forkserver import Started, start
from testbed.http_client import Answer, request
from testbed.leftovers import is_postgres
from testbed.postgres import copy_cluster, execute
from testbed.waiting import eventually

TWISTD = Path(sysconfig.get_path("scripts")) / "twistd"
LISTEN = "tcp:0:interface=127.0.0.1"

_START_SECONDS = 60.0
_STOP_SECONDS = 60.0


class Daemon:
    """A working directory and the daemon that runs in it, again and again if a test likes.

    The directory holds ``stdout``, ``stderr``, ``twistd.pid`` and the embedded database's ``data``. Leaving the
    ``with`` block ends every process that works in there, PostgreSQL included, and removes it.

    :param options: of the daemon, behind those that every test needs.
    :param database: what ``--database`` says: a URL, or a PostgreSQL of the daemon's own.
    :param environment: variables beside those of the tests.
    :param listen: what ``--listen`` says.
    """

    def __init__(
        self,
        *options: str,
        database: str = "embedded",
        environment: Mapping[str, str] | None = None,
        listen: str = LISTEN,
    ) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="chatflow-system-"))
        self.data_directory = self.directory / "data"
        self.database = database
        self.options = options
        self._listen = listen
        self.environment = {**clean_environment(), **(environment or {})}
        self._process: Started | None = None
        self.port = 0  # where it listens, or listened last

    def __enter__(self) -> Daemon:
        return self

    def __exit__(self, *_: object) -> None:
        end_processes_in(self.directory)
        if self._process is not None:
            self._process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)

    def command(self) -> list[str]:
        """The whole command line."""
        where = ["--data-dir", str(self.data_directory), "--database", self.database]
        return [str(TWISTD), "-n", "chatflow", "--listen", self._listen, *where, *self.options]

    def launch(self) -> None:
        """Start the process without waiting for anything."""
        with (self.directory / "stdout").open("wb") as stdout, (self.directory / "stderr").open("wb") as stderr:
            self._process = start(
                self.command(), cwd=self.directory, env=self.environment, stdout=stdout, stderr=stderr
            )

    def start(self) -> Self:
        """Start the process and return once it is ready for clients."""
        self.launch()
        eventually(self._is_listening, "a line 'listening on'", _START_SECONDS)
        eventually(self.is_ready, "/health/ready answers 200", _START_SECONDS)
        return self

    def restart(self) -> Self:
        """Start again after an end, however it was, on the same data."""
        self._make_way()
        return self.start()

    def launch_again(self) -> None:
        """The same, without waiting for anything but the end."""
        self._make_way()
        self.launch()

    def _make_way(self) -> None:
        self.process.wait(_STOP_SECONDS)
        (self.directory / "twistd.pid").unlink(missing_ok=True)  # a killed one leaves it

    def keep_port(self) -> None:
        """Listen there again after a restart."""
        self._listen = f"tcp:{self.port}:interface=127.0.0.1"

    def stop(self) -> int:
        """SIGTERM; the exit status."""
        self.send_signal(signal.SIGTERM)
        return self.wait()

    def kill(self) -> None:
        """SIGKILL; PostgreSQL lives on."""
        self.process.kill()
        self.process.wait(_STOP_SECONDS)

    def send_signal(self, number: signal.Signals) -> None:
        """Give the process a signal; does not wait for what comes of it."""
        self.process.send_signal(number)

    def wait(self, seconds: float = _STOP_SECONDS) -> int:
        """The exit status, once the process has ended.

        :raises subprocess.TimeoutExpired: it does not.
        """
        return self.process.wait(seconds)

    @property
    def process(self) -> Started:
        """The running or ended process."""
        assert self._process is not None, "the daemon was never started"
        return self._process

    @property
    def runs(self) -> bool:
        """Whether the process has not ended."""
        return self.process.poll() is None

    def output(self) -> str:
        """Everything it wrote to stdout, the log, so far."""
        return (self.directory / "stdout").read_text(errors="replace")

    def errors(self) -> str:
        """Everything it wrote to stderr so far."""
        return (self.directory / "stderr").read_text(errors="replace")

    def chat_url(self, room: object) -> str:
        """The WebSocket address of a room."""
        return f"ws://127.0.0.1:{self.port}/chat/{room}"

    def get(self, path: str, *, method: str = "GET", headers: Mapping[str, str] | None = None) -> Answer:
        """One HTTP request on a connection of its own."""
        return request(self.port, method, path, headers)

    def is_ready(self) -> bool:
        """Whether ``/health/ready`` says so."""
        return self.get("/health/ready").status == 200

    def metric(self, section: str, name: str) -> Any:
        """A figure of ``/metrics``."""
        return self.get("/metrics").json()[section][name]

    def counter(self, name: str) -> float:
        """A figure without labels of ``/metrics`` as Prometheus text."""
        text = self.get("/metrics", headers={"Accept": "text/plain"}).body.decode()
        found = re.search(rf"^{name} (\S+)$", text, re.MULTILINE)
        assert found, f"no {name} in {text}"
        return float(found[1])

    @property
    def database_url(self) -> str:
        """Where its messages are."""
        if self.database != "embedded":
            return self.database
        return (self.data_directory / "database.url").read_text().strip()

    def sql(self, statement: str, *arguments: Any) -> list[tuple[Any, ...]]:
        """The rows of one statement on its database."""
        return execute(self.database_url, statement, arguments)

    @contextlib.contextmanager
    def held_database(self) -> Iterator[None]:
        """Within the block nothing can be committed, as if PostgreSQL hung; for less than its lock timeout of 10 s."""
        with contextlib.closing(psycopg2.connect(self.database_url)) as connection:
            with connection.cursor() as cursor:
                cursor.execute("LOCK TABLE rooms IN ACCESS EXCLUSIVE MODE")
            yield

    @contextlib.contextmanager
    def held_refresh(self) -> Iterator[None]:
        """Within the block it seems that another instance refreshes the views."""
        with contextlib.closing(psycopg2.connect(self.database_url)) as connection:
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_advisory_lock(%s)", (REFRESH_LOCK,))
            yield

    def processes(self) -> list[psutil.Process]:
        """The daemon, its PostgreSQL and whatever else works in the directory."""
        return processes_in(self.directory)

    def postmaster(self) -> psutil.Process:
        """The first process of the embedded PostgreSQL, which may have ended already."""
        return eventually(self._find_postmaster, "a process number in postmaster.pid")

    def _find_postmaster(self) -> psutil.Process | None:
        with contextlib.suppress(OSError, IndexError, ValueError, psutil.NoSuchProcess):  # while it is replaced
            return psutil.Process(int((self.data_directory / "postgres/postmaster.pid").read_text().split()[0]))
        return None

    def _is_listening(self) -> bool:
        assert self.runs, f"the daemon ended with status {self.process.returncode}: {self.errors()}"
        return self.find_port() != 0

    @property
    def admin_port(self) -> int:
        """Where operators connect, if they have a port of their own: those ports come first in the log."""
        return int(re.findall(r"listening on .*port=(\d+)", self.output())[0])

    def find_port(self) -> int:
        """Where it has said that it listens, 0 as long as it has not."""
        found = re.findall(r"listening on .*port=(\d+)", self.output())
        ports = found[int("--admin-listen" in self.options) :]
        if ports:
            self.port = int(ports[0])
        return self.port if ports else 0


@contextlib.contextmanager
def running_daemon(
    *options: str, database: str = "embedded", environment: Mapping[str, str] | None = None
) -> Iterator[Daemon]:
    """A :class:`Daemon` that is ready. Its own PostgreSQL, if it has one, was not made by it in a run of pytest."""
    with Daemon(*options, database=database, environment=environment) as daemon:
        if database == "embedded":
            copy_cluster(daemon.data_directory)
        yield daemon.start()


def clean_environment() -> dict[str, str]:
    """The tests' own environment without settings of ChatFlow's and PostgreSQL's."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("CHATFLOW_", "PG"))}


def run_twistd(
    *arguments: str, directory: Path, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """``twistd`` with these arguments in that directory, until it ends.

    Its output goes through files: a daemon that is left behind would hold pipes open.
    """
    variables = {**clean_environment(), **(environment or {})}
    with (directory / "stdout").open("w+") as stdout, (directory / "stderr").open("w+") as stderr:
        process = start([TWISTD, *arguments], cwd=directory, env=variables, stdout=stdout, stderr=stderr)
        try:
            status = process.wait(_START_SECONDS)
        finally:
            process.kill()
        for file in (stdout, stderr):
            file.seek(0)
        return subprocess.CompletedProcess(process.args, status, stdout.read(), stderr.read())


def processes_in(directory: Path) -> list[psutil.Process]:
    """Processes whose working directory lies below ``directory``: PostgreSQL's do, since each changes to PGDATA."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE and Path(process.cwd()).is_relative_to(directory):
                found.append(process)
        except psutil.Error:
            continue  # gone meanwhile, or somebody else's
    return found


def end_processes_in(directory: Path) -> None:
    """End them all: the daemon at once, a postmaster so that it removes what it shares, and what then is left."""
    processes = processes_in(directory)
    for process in processes:
        _signal(process, signal.SIGCONT)
        if not is_postgres(process):
            _signal(process, signal.SIGKILL)
    for process in processes:
        _signal(process, signal.SIGQUIT)
    psutil.wait_procs(processes, timeout=10)
    for process in processes_in(directory):
        _signal(process, signal.SIGKILL)


def _signal(process: psutil.Process, number: signal.Signals) -> None:
    with contextlib.suppress(psutil.Error):
        process.send_signal(number)
