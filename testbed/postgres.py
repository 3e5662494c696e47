"""A real PostgreSQL for tests: a fresh, migrated database for each.

Started at first use, from the wheel, in a temporary directory, and stopped when the interpreter ends; the processes of
one run of pytest share it. Set ``CHATFLOW_TEST_DATABASE`` to the URL of a superuser to use that server instead.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import itertools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg2

from chatflow.persistence import migrations
from chatflow.postgres.embedded import EmbeddedPostgres
from testbed.leftovers import marks
from testbed.shared import shared

_serial = itertools.count(1)


@contextlib.contextmanager
def fresh_database(*, migrated: bool = True) -> Iterator[str]:
    """Give the URL of a database of one's own; after the block it is gone, whoever is connected to it.

    :param migrated: with the schema of ``sql/`` (a copy of a template, tens of milliseconds), or empty.
    """
    name = f"{_prefix()}_{next(_serial)}"
    source = template() if migrated else "template1"
    # Less than half of the work that logging each of its pages would be.
    execute(server_url(), f"CREATE DATABASE {name} TEMPLATE {source} STRATEGY FILE_COPY")
    try:
        yield _with_database(server_url(), name)
    finally:
        execute(server_url(), f"DROP DATABASE {name} WITH (FORCE)")


def execute(url: str, sql: str, arguments: tuple[Any, ...] | None = None) -> list[tuple[Any, ...]]:
    """Run one statement on a connection of its own, committed; the rows, if it gives any."""
    connection = psycopg2.connect(url)
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(sql, arguments)
            return cursor.fetchall() if cursor.description else []
    finally:
        connection.close()


@functools.cache
def server_url() -> str:
    """URL of the server's maintenance database."""
    given = os.environ.get("CHATFLOW_TEST_DATABASE") or shared("postgres")
    if given:
        return given
    directory = Path(tempfile.mkdtemp(prefix="chatflow-test-"))
    server = EmbeddedPostgres(directory)
    # Called in the opposite order.
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    atexit.register(server.stop)
    url = server.start()
    # What a crash of the machine would cost is of no interest here, and takes a third of the time.
    for setting in ("fsync = off", "full_page_writes = off", "autovacuum_naptime = '1h'"):
        execute(url, f"ALTER SYSTEM SET {setting}")
    execute(url, "SELECT pg_reload_conf()")
    return url


def migrate(url: str, directory: Path | None = None) -> None:
    """Give a database the schema, or that of other numbered files."""
    with contextlib.closing(psycopg2.connect(url)) as connection:
        migrations.apply_in_thread(connection, migrations.load_migrations(directory))


@functools.cache
def template() -> str:
    """Name of a database with the schema, to be copied: much faster than applying the files for each test."""
    given = shared("template")
    if given:
        return given
    name = f"{_prefix()}_template"
    execute(server_url(), f"CREATE DATABASE {name}")
    connection = psycopg2.connect(_with_database(server_url(), name))
    try:
        migrations.apply_in_thread(connection)
    finally:
        connection.close()
    atexit.register(execute, server_url(), f"DROP DATABASE {name}")
    return name


@functools.cache
def made_cluster() -> str:
    """A data directory with the schema, of a server that was shut down."""
    given = shared("cluster")
    if given:
        return given
    directory = Path(tempfile.mkdtemp(prefix="chatflow-made-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    server = EmbeddedPostgres(directory)
    try:
        migrate(server.start())
    finally:
        server.stop()
    (directory / "postgres" / "server.log").unlink()
    return str(directory)


def copy_cluster(data_directory: Path) -> None:
    """Let a new embedded PostgreSQL find its cluster there already: making one takes more than a second of CPU.

    Only in a run of pytest, where many begin.
    """
    if marks():
        data_directory.mkdir(exist_ok=True)
        # As root with its owner, who is not root.
        subprocess.run(["cp", "-a", f"{made_cluster()}/postgres", data_directory], check=True)


def _prefix() -> str:
    """Names of this run's databases begin with this: several runs may share a server."""
    return f"chatflow_test_{os.getpid()}"


def _with_database(url: str, name: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}/{name}" + (f"?{parts.query}" if parts.query else "")
