"""The daemon behind a real PgBouncer, whose sessions are handed from one transaction to the next."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from chatflow.admin import main
from testbed.client import ChatClient
from testbed.daemon import Daemon, run_twistd, running_daemon
from testbed.pgbouncer import find_pgbouncer, running_pgbouncer
from testbed.postgres import execute, fresh_database
from testbed.recounting import recount

pytestmark = pytest.mark.skipif(
    find_pgbouncer() is None and os.environ.get("CI") != "true", reason="needs PgBouncer: apt-get install pgbouncer"
)


@pytest.fixture(scope="module", params=["transaction", "session"])
def served(request: pytest.FixtureRequest) -> Iterator[tuple[Daemon, str]]:
    """A daemon behind it, and the database's own URL."""
    # By session each connection of the daemon keeps its own.
    sessions = 20 if request.param == "session" else 2
    with fresh_database(migrated=False) as url, running_pgbouncer(url, request.param, sessions) as through:
        assert main(["migrate", "--database", through]) == 0
        with running_daemon(database=through) as daemon:
            yield daemon, url


def test_messages_are_stored_read_and_counted(served: tuple[Daemon, str]) -> None:
    daemon, url = served
    with ChatClient(daemon.chat_url(1)) as client:
        client.talk([f"{number} 🙂" for number in range(300)])
    with ChatClient(f"{daemon.chat_url(1)}?since=0") as client:
        assert [client.receive_kind("broadcast")["seq"] for _ in range(300)] == list(range(1, 301))
    assert daemon.get("/api/rooms/1/messages").status == 200
    assert recount(url) == {}


def test_views_are_refreshed_and_no_lock_stays_behind(served: tuple[Daemon, str]) -> None:
    daemon, url = served
    execute(url, "DELETE FROM view_refreshes")
    assert daemon.get("/api/metrics/refresh-views", method="POST").status == 200
    # The server is shared with other tests, and so is this view of it.
    here = "database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    assert execute(url, f"SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND {here}") == [(0,)]
    execute(url, "DELETE FROM view_refreshes")
    assert daemon.get("/api/metrics/refresh-views", method="POST").status == 200
    assert execute(url, "SELECT count(*) FROM view_refreshes") == [(4,)]


def test_no_setting_stays_behind_for_others() -> None:
    names = "statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout", "synchronous_commit"
    shown = f"SELECT {', '.join(f'''current_setting('{name}')''' for name in names)}"
    with fresh_database() as url:
        expected = execute(url, shown)
        with running_pgbouncer(url, "transaction") as through, running_daemon(database=through) as daemon:
            with ChatClient(daemon.chat_url(1)) as client:
                client.talk(["a", "b"])
            assert [execute(through, shown) for _ in range(20)] == [expected] * 20


def test_pooling_by_statement_is_refused_in_one_line(tmp_path: Path) -> None:
    with fresh_database() as url, running_pgbouncer(url, "statement") as through:
        ended = run_twistd("-n", "chatflow", "--database", through, "--listen", "tcp:0", directory=tmp_path)
        assert ended.returncode == 1
        (line,) = ended.stderr.splitlines()
        assert "pool_mode" in line
