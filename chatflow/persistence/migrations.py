"""The numbered files under ``sql/``, applied in order, each once, each in one transaction.

Plain blocking functions over a psycopg2 connection that is not in a transaction and not in autocommit mode.
They run before the daemon serves, or in ``chatflow-admin``. Two at once are safe.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path

import attrs
import psycopg2

import chatflow
from chatflow.errors import StartupError
from chatflow.persistence.driver import Connection, Cursor, only_row
from chatflow.persistence.server import check_in_thread
from chatflow.persistence.sessions import set_up_in_thread

_FILE_NAME = re.compile(r"(\d{4})_(\w+)\.sql")

# Held to the end of each file's transaction, so that of two who migrate at once one waits and then finds the
# work done. A lock of the transaction, not of the session: PgBouncer and RDS Proxy hand sessions around.
_ADVISORY_LOCK = 0x43464D49


@attrs.frozen
class Migration:
    """One numbered file.

    :ivar version: its number, 1, 2, 3, ...
    :ivar name: the file's name, such as ``0001_schema_version.sql``.
    :ivar checksum: SHA-256 of the text, in hex.
    """

    version: int
    name: str
    sql: str = attrs.field(repr=False)
    checksum: str


def sql_directory() -> Path:
    """Where the numbered files are.

    The wheel carries them as ``chatflow/sql/`` (setup.cfg maps that package to the top-level folder). In a
    checkout, and so with ``pip install -e``, they are beside the package.
    """
    package = Path(chatflow.__file__).parent
    installed = package / "sql"
    return installed if installed.is_dir() else package.parent / "sql"


def load_migrations(directory: Path | None = None) -> list[Migration]:
    """All numbered files, in order.

    :raises StartupError: there is none, or the numbers are not 1, 2, 3, ...
    """
    directory = directory or sql_directory()
    found = []
    for path in sorted(directory.glob("*.sql")):
        match = _FILE_NAME.fullmatch(path.name)
        if match is None:
            raise StartupError(f"{path} is not named like 0001_what_it_does.sql")
        sql = path.read_text(encoding="utf-8")
        found.append(Migration(int(match[1]), path.name, sql, hashlib.sha256(sql.encode()).hexdigest()))
    if not found or [migration.version for migration in found] != list(range(1, len(found) + 1)):
        raise StartupError(f"the schema's files in {directory} are incomplete: expected 0001, 0002, ... without a gap")
    return found


def current_version(connection: Connection) -> int:
    """Number of the newest file that the database has; 0 for an empty database."""
    with connection, connection.cursor() as cursor:
        return max(_applied(cursor), default=0)


def pending(connection: Connection, migrations: list[Migration] | None = None) -> list[Migration]:
    """The files that the database lacks, in the order in which to apply them.

    :raises StartupError: the database is too new for this program (:func:`newer_version` tells of those that are
        not), or was made from a file with other content.
    """
    migrations = load_migrations() if migrations is None else migrations
    with connection, connection.cursor() as cursor:
        return _missing(cursor, migrations)


def newer_version(connection: Connection, migrations: list[Migration] | None = None) -> int | None:
    """Number of the newest file that the database has, if this program does not know it."""
    own = len(load_migrations() if migrations is None else migrations)
    version = current_version(connection)
    return version if version > own else None


def apply_in_thread(
    connection: Connection,
    migrations: list[Migration] | None = None,
    *,
    on_applied: Callable[[Migration], object] = lambda migration: None,
) -> list[Migration]:
    """Bring the database up to this program's schema.

    :param on_applied: called after each file.
    :return: the files applied by this call, in order. Those before a failing one stay applied.
    :raises StartupError: as :func:`pending`, when the server cannot hold what is stored
        (:func:`.server.check_in_thread`), and when a file fails; nothing of that file remains.
    """
    migrations = load_migrations() if migrations is None else migrations
    applied: list[Migration] = []
    while True:
        with connection, connection.cursor() as cursor:
            set_up_in_thread(cursor)
            check_in_thread(cursor)
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", (_ADVISORY_LOCK,))
            missing = _missing(cursor, migrations)
            if not missing:
                return applied
            _apply(cursor, missing[0])
        applied.append(missing[0])
        on_applied(missing[0])


def require_current(connection: Connection, migrations: list[Migration] | None = None) -> None:
    """Return if the database has this program's schema, or a newer one that serves it.

    :raises StartupError: it is older (the text names the remedy), too new, or different.
    """
    missing = pending(connection, migrations)
    if missing:
        raise StartupError(
            f"the database lacks {len(missing)} of the schema's files, the first is {missing[0].name}: "
            "run `chatflow-admin migrate`"
        )


def _applied(cursor: Cursor) -> dict[int, tuple[str, str]]:
    """version -> (name, checksum) of what the database has."""
    cursor.execute("SELECT to_regclass('schema_version') IS NOT NULL")
    if not only_row(cursor)[0]:
        return {}
    cursor.execute("SELECT version, name, checksum FROM schema_version")
    return {version: (name, checksum) for version, name, checksum in cursor}


def _serves(cursor: Cursor, version: int) -> bool:
    """Whether a program whose newest file is this one may work with a newer schema."""
    cursor.execute("SELECT to_regclass('oldest_program') IS NOT NULL")
    if not only_row(cursor)[0]:
        return False
    cursor.execute("SELECT schema_version <= %s FROM oldest_program", (version,))
    return bool(only_row(cursor)[0])


def _missing(cursor: Cursor, migrations: list[Migration]) -> list[Migration]:
    applied = _applied(cursor)
    newest = max(applied, default=0)
    if newest > len(migrations) and not _serves(cursor, len(migrations)):
        raise StartupError(
            f"the database has schema version {newest}, newer than this program's {len(migrations)}: "
            "use a newer ChatFlow with it"
        )
    for migration in migrations:
        name, checksum = applied.get(migration.version, (migration.name, migration.checksum))
        if checksum != migration.checksum:
            raise StartupError(
                f"{migration.name} is not the file that this database was made from ({name}): "
                "an applied file must never change, add a new one instead"
            )
    return [migration for migration in migrations if migration.version not in applied]


def _apply(cursor: Cursor, migration: Migration) -> None:
    try:
        cursor.execute(migration.sql)
        cursor.execute(
            "INSERT INTO schema_version (version, name, checksum) VALUES (%s, %s, %s)",
            (migration.version, migration.name, migration.checksum),
        )
    except psycopg2.Error as error:
        reason = str(error).strip().partition("\n")[0]
        raise StartupError(f"{migration.name} failed, nothing of it was applied: {reason}") from error
