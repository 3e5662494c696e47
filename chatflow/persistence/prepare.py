"""What a database needs before the daemon serves from it, and what it needs from time to time."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing, suppress
from datetime import UTC, datetime
from typing import Any

import psycopg2
from psycopg2.errors import LockNotAvailable
from twisted.logger import Logger

from chatflow.errors import StartupError
from chatflow.persistence import migrations, partitions
from chatflow.persistence.database import Database, connect
from chatflow.persistence.failures import one_line
from chatflow.persistence.history import heads_in_thread
from chatflow.persistence.server import check_in_thread, unlogged_in_thread
from chatflow.persistence.sessions import set_up_in_thread

_log = Logger()

#: Messages are stored, and dropped, by the clocks of the instances that accepted them.
MAX_APART_SECONDS = 300.0


def prepare(url: str, *, migrate: bool, rooms: int, ahead_days: int, seconds: Callable[[], float]) -> dict[int, int]:
    """Make schema, partitions and rooms ready. Blocks: called before the reactor runs.

    :param migrate: apply missing migrations, instead of refusing a database without them.
    :param seconds: this machine's clock, since 1970.
    :returns: the last seq of every room that has one.
    :raises StartupError: in one line, what the operator has to do.
    """
    try:
        return _prepare(url, migrate, rooms, ahead_days, seconds)
    except psycopg2.Error as error:
        # The first, not that of a rollback on a connection that it has closed.
        first = error.__context__ if isinstance(error.__context__, psycopg2.Error) else error
        # PgBouncer with pool_mode statement hangs up on BEGIN, and libpq seldom gets to see why.
        hung_up = "pooling mode" in str(first) or "server closed the connection" in str(first)
        remedy = " (a PgBouncer must have the pool_mode transaction or session)" if hung_up else ""
        raise StartupError(f"the database refuses to be prepared: {one_line(first)}{remedy}") from error


def _prepare(url: str, migrate: bool, rooms: int, ahead_days: int, seconds: Callable[[], float]) -> dict[int, int]:
    with closing(connect(url, "chatflow-start")) as connection:
        with connection, connection.cursor() as cursor:
            set_up_in_thread(cursor)
            _check_clock(cursor, seconds)
            for warning in check_in_thread(cursor):
                _log.warn("{warning}", warning=warning)
        if migrate:
            migrations.apply_in_thread(connection)
        else:
            migrations.require_current(connection)
        # Several instances that start together wait for each other only so long; the timer does it again.
        with suppress(LockNotAvailable), connection, connection.cursor() as cursor:
            set_up_in_thread(cursor)
            create_ahead_in_thread(cursor, ahead_days)
        with connection, connection.cursor() as cursor:
            set_up_in_thread(cursor)
            cursor.execute("INSERT INTO rooms (room_id) SELECT generate_series(1, %s) ON CONFLICT DO NOTHING", (rooms,))
            return heads_in_thread(cursor)


async def maintain_partitions(database: Database, ahead_days: int, retention_days: int) -> None:
    """Create the partitions of the coming days, and drop those that retention ends (0 keeps all)."""
    await database.run_once("create partitions", create_ahead_in_thread, ahead_days)
    unlogged = await database.run_once("look for unlogged tables", unlogged_in_thread)
    if unlogged is not None:
        _log.error("{unlogged}", unlogged=unlogged)
    if retention_days:
        dropped = partitions.MOST_DROPPED
        while dropped >= partitions.MOST_DROPPED:
            dropped = len(await database.run_once("drop partitions", drop_expired_in_thread, retention_days))


def create_ahead_in_thread(cursor: Any, days: int) -> list[str]:
    """:func:`.partitions.create_ahead` of the database's today."""
    return partitions.create_ahead(cursor, partitions.today(cursor), days)


def drop_expired_in_thread(cursor: Any, retention_days: int) -> list[str]:
    """:func:`.partitions.drop_expired` of the database's today."""
    return partitions.drop_expired(cursor, partitions.today(cursor), retention_days)


def _check_clock(cursor: Any, seconds: Callable[[], float]) -> None:
    cursor.execute("SELECT extract(epoch FROM clock_timestamp())::float8")
    ((there,),) = cursor.fetchall()
    here = seconds()
    if abs(here - there) > MAX_APART_SECONDS:
        raise StartupError(
            f"the clocks differ by more than {MAX_APART_SECONDS / 60:.0f} minutes: it is {_text(here)} here and "
            f"{_text(there)} on the database server, set them right"
        )


def _text(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
