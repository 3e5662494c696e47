"""What a power failure, a full disk or another program leaves in a data directory: it starts, or says what to do."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import psycopg2
import pytest

from chatflow.errors import StartupError
from chatflow.postgres.embedded import EmbeddedPostgres
from testbed.postgres import execute

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="makes a small file system, or files of another user")


@pytest.fixture(scope="module")
def made() -> Iterator[Path]:
    """A data directory with a table, at rest; tests leave it as they found it."""
    with TemporaryDirectory(prefix="chatflow-damage-", ignore_cleanup_errors=True) as path:
        directory = Path(path) / "data"
        with running(directory) as url:
            execute(url, "CREATE TABLE kept AS SELECT 42 AS answer")
        yield directory


@contextmanager
def running(directory: Path) -> Iterator[str]:
    server = EmbeddedPostgres(directory)
    url = server.start()
    try:
        yield url
    finally:
        server.stop()


@contextmanager
def put(path: Path, content: bytes | None) -> Iterator[None]:
    """A file with this content, or none, in the place of one that is put back afterwards."""
    before = path.read_bytes() if path.exists() else None
    status = (path if before is not None else path.parent).stat()
    for text in (content, before):
        path.unlink(missing_ok=True)
        if text is not None:
            path.write_bytes(text)
            os.chown(path, status.st_uid, status.st_gid)
            path.chmod(0o600)
        if text is content:
            yield
        if text is before:
            break


def failure(directory: Path) -> str:
    """The one line with which it refuses to start."""
    server = EmbeddedPostgres(directory)
    with pytest.raises(StartupError) as caught:
        server.start()
    assert "\n" not in str(caught.value)
    return str(caught.value)


_GARBAGE = [b"", b"\n", b"\xff\xfe\x00", b"123", b"-17\n", b"99999999999999999999\n", b"1\n/elsewhere\n", b"x" * 5000]


@pytest.mark.parametrize("content", _GARBAGE)
@pytest.mark.parametrize("name", ["postmaster.pid", ".s.PGSQL.5432.lock"])
def test_a_lock_file_that_holds_anything_does_not_keep_it_from_starting(made: Path, name: str, content: bytes) -> None:
    path = made / "postgres" / name
    path.write_bytes(content)
    with running(made) as url:
        assert execute(url, "SELECT answer FROM kept") == [(42,)]


def test_a_lock_file_with_the_number_of_another_postgresql_does_not_keep_it_from_starting(
    made: Path, database_url: str
) -> None:
    with closing(psycopg2.connect(database_url)) as connection:
        content = f"{connection.info.backend_pid}\n{made / 'postgres'}\n".encode()
        for name in ("postmaster.pid", ".s.PGSQL.5432.lock"):
            (made / "postgres" / name).write_bytes(content)
        with running(made) as url:
            assert execute(url, "SELECT answer FROM kept") == [(42,)]


def test_a_postgresql_that_somebody_started_by_hand_is_named_even_if_its_lock_file_is_gone(made: Path) -> None:
    server = EmbeddedPostgres(made)
    server.start()
    program = psutil.Process(int((made / "postgres" / "postmaster.pid").read_text().split()[0])).exe()
    server.stop()
    owner = (made / "postgres").stat()
    by_hand = subprocess.Popen(
        [program, "-D", made / "postgres", "-k", made / "postgres", "-h", ""],
        user=owner.st_uid if os.geteuid() == 0 else None,
        group=owner.st_gid if os.geteuid() == 0 else None,
        cwd="/",
        stderr=subprocess.PIPE,
    )
    try:
        assert by_hand.stderr is not None
        while b"ready to accept" not in (line := by_hand.stderr.readline()):
            assert line
        (made / "postgres" / "postmaster.pid").write_bytes(b"")
        assert "that no ChatFlow has started" in failure(made)
    finally:
        by_hand.kill()
        by_hand.communicate()
    with running(made):
        pass


@pytest.mark.parametrize("content", [b"", b"postgresql://postg"])
def test_a_half_written_address_is_written_anew(made: Path, content: bytes) -> None:
    (made / "database.url").write_bytes(content)
    (made / "database.url.new").write_bytes(content)
    with running(made) as url:
        assert (made / "database.url").read_text() == f"{url}\n"


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("PG_VERSION", b"14\n", ["made by PostgreSQL 14", "pg_dump"]),
        ("PG_VERSION", b"", ["PG_VERSION", "move it away"]),
        ("PG_VERSION", None, ["PG_VERSION", "move it away"]),
        ("global/pg_control", None, ["global/pg_control", "restore a backup"]),
        ("global/pg_control", b"", ["global/pg_control", "restore a backup"]),
        ("backup_label", b"START WAL LOCATION: 0/2000028 (file 000000010000000000000002)\n", ["backup_label"]),
        (
            "backup_label",
            b"START WAL LOCATION: 9/2000028 (file 000000010000000900000002)\n"
            b"CHECKPOINT LOCATION: 9/2000060\nBACKUP METHOD: streamed\nBACKUP FROM: primary\n"
            b"START TIME: 2026-11-23 10:30:00 UTC\nLABEL: x\nSTART TIMELINE: 1\n",
            ["checkpoint record", "backup_label is that of a backup"],
        ),
        ("postgresql.conf", b"shared_buffers = plenty\n", ["contains errors"]),
    ],
)
def test_a_cluster_that_lacks_something_is_said_so_with_what_to_do(
    made: Path, name: str, content: bytes | None, words: list[str]
) -> None:
    with put(made / "postgres" / name, content):
        text = failure(made)
        assert all(word in text for word in words), text
    with running(made) as url:
        assert execute(url, "SELECT answer FROM kept") == [(42,)]


def test_missing_wal_is_said_so_with_what_to_do(made: Path, tmp_path: Path) -> None:
    wal = made / "postgres" / "pg_wal"
    saved = made / "saved"
    shutil.copytree(wal, saved)
    for path in wal.iterdir():
        path.unlink() if path.is_file() else None
    try:
        text = failure(made)
        assert "could not locate a valid checkpoint record" in text
        assert "restore a backup" in text
    finally:
        owner = (made / "postgres").stat()
        for path in saved.iterdir():
            if path.is_file():
                shutil.copy(path, wal / path.name)
                os.chown(wal / path.name, owner.st_uid, owner.st_gid)
        shutil.rmtree(saved)
    with running(made) as url:
        assert execute(url, "SELECT answer FROM kept") == [(42,)]


@pytest.mark.parametrize("mode", [0o755, 0o770, 0o2770])
def test_a_volume_that_was_opened_to_others_is_closed_to_them(made: Path, mode: int) -> None:
    (made / "postgres").chmod(mode)
    with running(made) as url:
        assert execute(url, "SELECT answer FROM kept") == [(42,)]
    assert (made / "postgres").stat().st_mode & 0o777 == 0o700


@needs_root
def test_a_full_disk_is_named_and_when_there_is_space_it_starts(tmp_path: Path) -> None:
    volume = Path("/tmp") / f"chatflow-small-{os.getpid()}"
    volume.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", volume], capture_output=True)
    try:
        if mounted.returncode:
            pytest.skip("no file system can be mounted here")
        assert "the disk is full" in failure(volume / "data")
        assert not (volume / "data" / "postgres.unfinished").exists()
        subprocess.run(["mount", "-o", "remount,size=200m", volume], check=True)
        with running(volume / "data") as url:
            execute(url, "CREATE TABLE kept AS SELECT 42 AS answer")
            execute(url, "CHECKPOINT")
        (volume / "filler").write_bytes(b"")
        free = shutil.disk_usage(volume).free
        (volume / "filler").write_bytes(b"\0" * free)
        text = failure(volume / "data")
        assert "the disk is full" in text or "No space left on device" in text
        (volume / "filler").unlink()
        with running(volume / "data") as url:
            assert execute(url, "SELECT answer FROM kept") == [(42,)]
    finally:
        subprocess.run(["umount", volume], check=False, capture_output=True)
        volume.rmdir()


def test_no_variable_of_the_environment_matters(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "PGHOST": "nowhere.invalid",
        "PGHOSTADDR": "192.0.2.1",
        "PGPORT": "1",
        "PGDATABASE": "nothing",
        "PGUSER": "nobody",
        "PGSERVICE": "nope",
        "PGSSLMODE": "nonsense",
        "PGGSSENCMODE": "require",
        "PGCHANNELBINDING": "require",
        "PGREQUIREAUTH": "scram-sha-256",
        "PGCLIENTENCODING": "LATIN1",
        "PGDATESTYLE": "nonsense",
        "PGTZ": "nowhere",
        "PGOPTIONS": "-c default_transaction_read_only=on",
        "PGTARGETSESSIONATTRS": "standby",
        "PGCONNECT_TIMEOUT": "x",
        "PGDATA": "/nowhere",
    }.items():
        monkeypatch.setenv(name, value)
    with running(made) as url:
        assert execute(url, "SELECT 'ü🙂', current_setting('client_encoding')") == [("ü🙂", "UTF8")]
    assert not [name for name in os.environ if name.startswith("PG")]
