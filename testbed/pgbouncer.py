"""A real PgBouncer in front of a PostgreSQL, for tests: ``apt-get install pgbouncer``."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import psycopg2

from testbed.waiting import eventually

_CONFIGURATION = """
[databases]
* = host={host} port={port}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {listen_port}
unix_socket_dir =
auth_type = any
pool_mode = {mode}
default_pool_size = {sessions}
max_client_conn = 100
logfile = {directory}/log
pidfile = {directory}/pid
"""


def find_pgbouncer() -> str | None:
    """The program's path, or None where it is not installed."""
    return shutil.which("pgbouncer") or shutil.which("/usr/sbin/pgbouncer")


@contextmanager
def running_pgbouncer(url: str, mode: str, sessions: int = 2) -> Iterator[str]:
    """The same database's URL through it.

    :param url: of a server on a socket of the file system.
    :param mode: ``transaction``, ``session`` or ``statement``.
    :param sessions: so many of them serve all clients.
    """
    program = find_pgbouncer()
    assert program is not None
    parts = urlsplit(url)
    query = parse_qs(parts.query)
    directory = Path(tempfile.mkdtemp(prefix="chatflow-pgbouncer-"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    configuration = directory / "pgbouncer.ini"
    text = _CONFIGURATION.format(
        host=unquote(query["host"][0]),
        port=query["port"][0],
        listen_port=port,
        mode=mode,
        sessions=sessions,
        directory=directory,
    )
    configuration.write_text(text.replace("* =", f"{parts.path[1:]} = user=postgres dbname={parts.path[1:]}"))
    account: dict[str, Any] = {}
    if os.geteuid() == 0:  # which it refuses; and the socket is of the server's own account
        owner = Path(unquote(query["host"][0])).stat()
        account = {"user": owner.st_uid, "group": owner.st_gid, "extra_groups": []}
        os.chown(directory, owner.st_uid, owner.st_gid)
    process = subprocess.Popen([program, "-q", configuration], stderr=subprocess.DEVNULL, **account)
    through = f"postgresql://postgres@127.0.0.1:{port}{parts.path}"

    def answers() -> bool:
        try:
            psycopg2.connect(through, connect_timeout=3).close()
        except psycopg2.OperationalError:
            assert process.poll() is None, (directory / "log").read_text()
            return False
        return True

    try:
        eventually(answers, "PgBouncer answers")
        yield through
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(directory, ignore_errors=True)
