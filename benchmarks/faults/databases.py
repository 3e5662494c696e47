"""PostgreSQL dies, stands still, refuses connections or writes, or has no room on its disk."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from contextlib import AbstractContextManager

import psutil
import psycopg2

from benchmarks.faults.fault import Scene, fault, standstill
from benchmarks.faults.laboratory import ROOT_DISK, Laboratory
from testbed.waiting import eventually

_SEES = "messages are acknowledged, and come once it is back"
_SECONDS = 60.0


@fault("database-killed", "PostgreSQL is killed (SIGKILL) and started again", _SEES, survivors_go_on=False)
def database_killed(scene: Scene) -> Iterator[None]:
    _signal_database(scene.laboratory, signal.SIGKILL)
    try:
        with _nothing_stored(scene):
            yield
    finally:
        scene.laboratory.revive_database()


@fault("database-paused", "PostgreSQL stands still (SIGSTOP)", _SEES, survivors_go_on=False)
def database_paused(scene: Scene) -> Iterator[None]:
    processes = _signal_database(scene.laboratory, signal.SIGSTOP)
    try:
        with _nothing_stored(scene):
            yield
    finally:
        _signal(processes, signal.SIGCONT)


@fault("database-connections", "PostgreSQL has no connection left", _SEES, survivors_go_on=False)
def out_of_connections(scene: Scene) -> Iterator[None]:
    with contextlib.ExitStack() as taken:
        first = taken.enter_context(contextlib.closing(psycopg2.connect(scene.laboratory.database_url)))
        first.autocommit = True
        with first.cursor() as cursor:
            cursor.execute("SHOW max_connections")
            (most,) = cursor.fetchone() or (100,)
            for _ in range(20):  # daemons come back between
                with contextlib.suppress(psycopg2.OperationalError):
                    for _ in range(int(most)):
                        more = psycopg2.connect(scene.laboratory.database_url)
                        taken.enter_context(contextlib.closing(more))
                cursor.execute(
                    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
                    " WHERE application_name LIKE 'chatflow-%' AND backend_type = 'client backend'"
                )
                (ended,) = cursor.fetchone() or (0,)
                if not ended:
                    break
        scene.expect(not ended, "the instances still have connections")
        with _nothing_stored(scene):
            yield


@fault("database-read-only", "PostgreSQL takes no writes", _SEES, survivors_go_on=False)
def read_only(scene: Scene) -> Iterator[None]:
    with contextlib.closing(psycopg2.connect(scene.laboratory.database_url)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute("SET default_transaction_read_only = off")
            cursor.execute("ALTER SYSTEM SET default_transaction_read_only = on")
            cursor.execute("SELECT pg_reload_conf()")
            try:
                with _nothing_stored(scene):
                    yield
            finally:
                cursor.execute("ALTER SYSTEM RESET default_transaction_read_only")
                cursor.execute("SELECT pg_reload_conf()")


@fault(
    "database-disk-full",
    "there is no room on PostgreSQL's disk, and it ends",
    _SEES,
    needs=ROOT_DISK,
    survivors_go_on=False,
)
def disk_full(scene: Scene) -> Iterator[None]:
    disk = scene.laboratory.disk
    assert disk is not None
    disk.fill()
    try:
        with _nothing_stored(scene):
            yield
    finally:
        disk.make_room()
        eventually(lambda: _is_revived(scene.laboratory), "PostgreSQL starts", _SECONDS)


def _nothing_stored(scene: Scene) -> AbstractContextManager[None]:
    return standstill(scene, lambda name: scene.laboratory.totals()[name], "chatflow_messages_stored_total")


def _is_revived(laboratory: Laboratory) -> bool:
    """It may be just about to end."""
    laboratory.revive_database()
    with contextlib.suppress(psycopg2.Error):
        laboratory.sql("UPDATE rooms SET last_seq = last_seq WHERE room_id = 1")
        return True
    return False


def _signal_database(laboratory: Laboratory, number: signal.Signals) -> list[psutil.Process]:
    processes = laboratory.database_processes()
    assert processes, "PostgreSQL does not run"
    _signal(processes, number)
    if number == signal.SIGKILL:
        psutil.wait_procs(processes, timeout=_SECONDS)
    return processes


def _signal(processes: list[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.send_signal(number)


FAULTS = (database_killed, database_paused, out_of_connections, read_only, disk_full)
