"""What a database needs before the daemon serves from it, and what it needs from time to time."""

from __future__ import annotations

from contextlib import closing, suppress
from datetime import UTC, date, datetime

from psycopg2.errors import LockNotAvailable

from chatflow.persistence import migrations, partitions
from chatflow.persistence.database import Database, connect
from chatflow.persistence.history import heads_in_thread


def prepare(url: str, *, migrate: bool, rooms: int, ahead_days: int, now_seconds: float) -> dict[int, int]:
    """Make schema, partitions and rooms ready. Blocks: called before the reactor runs.

    :param migrate: apply missing migrations, instead of refusing a database without them.
    :returns: the last seq of every room that has one.
    :raises StartupError: in one line, what the operator has to do.
    """
    with closing(connect(url, "chatflow-start")) as connection:
        if migrate:
            migrations.apply_in_thread(connection)
        else:
            migrations.require_current(connection)
        # Several instances that start together wait for each other only so long; the timer does it again.
        with suppress(LockNotAvailable), connection, connection.cursor() as cursor:
            partitions.create_ahead(cursor, _day(now_seconds), ahead_days)
        with connection, connection.cursor() as cursor:
            cursor.execute("INSERT INTO rooms (room_id) SELECT generate_series(1, %s) ON CONFLICT DO NOTHING", (rooms,))
            return heads_in_thread(cursor)


async def maintain_partitions(database: Database, now_seconds: float, ahead_days: int, retention_days: int) -> None:
    """Create the partitions of the coming days, and drop those that retention ends (0 keeps all)."""
    today = _day(now_seconds)
    await database.run_once("create partitions", partitions.create_ahead, today, ahead_days)
    if retention_days:
        await database.run_once("drop partitions", partitions.drop_expired, today, retention_days)


def _day(seconds: float) -> date:
    return datetime.fromtimestamp(seconds, UTC).date()
