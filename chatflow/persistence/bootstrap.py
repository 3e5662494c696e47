"""What a database needs before the daemon serves from it, and what it needs from time to time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import closing, suppress

import psycopg2
from psycopg2.errors import LockNotAvailable
from twisted.logger import Logger

from chatflow.errors import StartupError
from chatflow.lifecycle.clocks import WallTime
from chatflow.persistence import migrations, partitions
from chatflow.persistence.clock_watch import require_agreement
from chatflow.persistence.database import Database, connect
from chatflow.persistence.driver import Cursor
from chatflow.persistence.failures import one_line
from chatflow.persistence.heads import create_rooms_in_thread
from chatflow.persistence.history import heads_in_thread
from chatflow.persistence.server import check_in_thread, unlogged_in_thread
from chatflow.persistence.sessions import set_up_in_thread

_log = Logger()


def bootstrap(url: str, *, migrate: bool, rooms: int, ahead_days: int, now: WallTime) -> dict[int, int]:
    """Make schema, partitions and rooms ready. Blocks: called before the reactor runs.

    :param migrate: apply missing migrations, instead of refusing a database without them.
    :param now: this machine's clock.
    :returns: the last seq of every room that has one.
    :raises StartupError: in one line, what the operator has to do.
    """
    try:
        return _bootstrap(url, migrate, rooms, ahead_days, now)
    except psycopg2.Error as error:
        # The first, not that of a rollback on a connection that it has closed.
        first = error.__context__ if isinstance(error.__context__, psycopg2.Error) else error
        # PgBouncer with pool_mode statement hangs up on BEGIN, and libpq seldom gets to see why.
        hung_up = "pooling mode" in str(first) or "server closed the connection" in str(first)
        remedy = " (a PgBouncer must have the pool_mode transaction or session)" if hung_up else ""
        raise StartupError(f"the database refuses to be prepared: {one_line(first)}{remedy}") from error


def _bootstrap(url: str, migrate: bool, rooms: int, ahead_days: int, now: WallTime) -> dict[int, int]:
    with closing(connect(url, "chatflow-start")) as connection:
        with connection, connection.cursor() as cursor:
            set_up_in_thread(cursor)
            require_agreement(cursor, now)
            for warning in check_in_thread(cursor):
                _log.warn("{warning}", warning=warning)
        if migrate:
            migrations.apply_in_thread(connection)
        else:
            migrations.require_current(connection)
        if (newer := migrations.newer_version(connection)) is not None:
            _log.warn(
                "the database has schema version {version}: newer than this program, which it serves", version=newer
            )
        # Several instances that start together wait for each other only so long; the timer does it again.
        with suppress(LockNotAvailable), connection, connection.cursor() as cursor:
            set_up_in_thread(cursor)
            create_ahead_in_thread(cursor, ahead_days)
        with connection, connection.cursor() as cursor:
            set_up_in_thread(cursor)
            create_rooms_in_thread(cursor, range(1, rooms + 1))
            return heads_in_thread(cursor)


async def maintain_partitions(
    database: Database, ahead_days: int, retention_days: int | None, may_drop: Callable[[], Awaitable[bool]]
) -> None:
    """Create the partitions of the coming days, and drop those that retention ends (None keeps all).

    :param may_drop: whether it is certain enough which day it is.
    """
    await database.run_once("create partitions", create_ahead_in_thread, ahead_days)
    unlogged = await database.run_once("look for unlogged tables", unlogged_in_thread)
    if unlogged is not None:
        _log.error("{unlogged}", unlogged=unlogged)
    if retention_days is not None and await may_drop():
        dropped = partitions.MOST_DROPPED
        while dropped >= partitions.MOST_DROPPED:
            dropped = len(await database.run_once("drop partitions", drop_expired_in_thread, retention_days))


def create_ahead_in_thread(cursor: Cursor, days: int) -> list[str]:
    """:func:`.partitions.create_ahead` of the database's today."""
    return partitions.create_ahead(cursor, partitions.today(cursor), days)


def drop_expired_in_thread(cursor: Cursor, retention_days: int) -> list[str]:
    """:func:`.partitions.drop_expired` of the database's today."""
    return partitions.drop_expired(cursor, partitions.today(cursor), retention_days)
