"""Daemon and database are killed in mid-load: what was acknowledged is there, once, and everything goes on."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import psutil
import pytest

from testbed.client import ChatClient
from testbed.crowd import Crowd, check_stored, error_codes
from testbed.daemon import Daemon, running_daemon
from testbed.recounting import recount
from testbed.waiting import eventually


@pytest.fixture
def alone() -> Iterator[Daemon]:
    """A daemon with a PostgreSQL of its own."""
    with running_daemon() as daemon:
        yield daemon


def backends(daemon: Daemon, name: str) -> list[int]:
    """Process numbers of PostgreSQL that serve connections of a daemon's pool: writer or reader."""
    return [
        pid
        for (pid,) in daemon.sql(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE %s",
            f"chatflow-{name}%",
        )
    ]


def is_dead(process: psutil.Process) -> bool:
    """Whether a process has ended, though its parent may not have asked for its status."""
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def test_a_killed_daemon_comes_back_with_every_acknowledged_message_once(alone: Daemon) -> None:
    postmaster = alone.postmaster()
    crowds = []
    for _ in range(3):
        with Crowd(alone) as crowd:
            crowd.wait_for(700)
            alone.kill()
            crowd.wait_until_closed()
        crowds.append(crowd)
        assert postmaster.is_running(), "PostgreSQL lives on"
        alone.restart()
        assert alone.postmaster() == postmaster, "and is used again"
        check_stored(alone, *crowds)
    with Crowd(alone) as crowd:
        crowd.wait_for(200)
        crowd.finish()
    check_stored(alone, *crowds, crowd)
    assert alone.stop() == 0
    assert alone.processes() == []


def test_a_daemon_and_its_postgresql_killed_together_come_back_with_every_acknowledged_message_once(
    alone: Daemon,
) -> None:
    with Crowd(alone) as crowd:
        crowd.wait_for(700)
        for process in alone.processes():
            process.kill()
        crowd.wait_until_closed()
    alone.restart()
    check_stored(alone, crowd)
    assert alone.stop() == 0
    assert alone.processes() == []


class TestPostgresqlDies:
    """Connections stay open; what was under way is acknowledged later or refused."""

    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=["killed", "shut down by somebody"])
    def test_a_postmaster_that_ended_is_replaced(self, alone: Daemon, number: signal.Signals) -> None:
        with Crowd(alone) as crowd:
            for _ in range(2):
                crowd.wait_for(500)
                before = alone.postmaster()
                before.send_signal(number)
                eventually(lambda: alone.postmaster() != before, "another PostgreSQL")  # noqa: B023
                crowd.wait_for(500)
            crowd.finish()
        assert error_codes(crowd) == {}
        check_stored(alone, crowd)
        eventually(lambda: alone.get("/health").json()["databaseHealthy"], "the readers have tried again as well")
        assert alone.stop() == 0
        assert alone.processes() == []

    def test_a_killed_backend_makes_postgresql_recover_and_the_daemon_with_it(self, alone: Daemon) -> None:
        postmaster = alone.postmaster()
        with Crowd(alone) as crowd:
            for _ in range(3):
                crowd.wait_for(500)
                (writer,) = backends(alone, "writer")
                psutil.Process(writer).kill()
                crowd.wait_for(500)
            crowd.finish()
        assert error_codes(crowd) == {}
        assert alone.postmaster() == postmaster
        check_stored(alone, crowd)

    def test_connections_that_the_server_ends_are_made_anew(self, module_database_url: str) -> None:
        with running_daemon(database=module_database_url) as daemon, Crowd(daemon) as crowd:
            for _ in range(20):
                crowd.wait_for(50)
                daemon.sql("SELECT pg_terminate_backend(pid) FROM unnest(%s::int[]) AS pid", backends(daemon, ""))
            crowd.wait_for(200)
            crowd.finish()
            assert error_codes(crowd) == {}
            check_stored(daemon, crowd)
            assert daemon.counter("chatflow_database_retries_total") >= 1

    def test_an_idle_daemon_notices_at_the_next_message(self, alone: Daemon) -> None:
        with ChatClient(alone.chat_url(1)) as client:
            client.talk(["before"])
            before = alone.postmaster()
            before.kill()
            eventually(lambda: is_dead(before), "the postmaster is gone")
            frames = client.talk(["after"])
            assert frames[-1]["status"] == "SUCCESS"
            client.frames_until_now()
        assert recount(alone.database_url) == {}
