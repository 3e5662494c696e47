"""What a database server must be before messages are entrusted to it. Blocking; reads only."""

from __future__ import annotations

from chatflow.errors import StartupError
from chatflow.persistence.driver import Cursor

_OLDEST_VERSION = 150000

_SETTINGS = """
SELECT current_database(), getdatabaseencoding(), current_setting('fsync'), current_setting('full_page_writes'),
       current_setting('zero_damaged_pages')
"""

# What a crash of the server may empty. Presence is unlogged on purpose.
_UNLOGGED = """
SELECT relname FROM pg_class
WHERE relpersistence = 'u' AND relkind IN ('r', 'p')
  AND (oid = ANY(ARRAY(SELECT to_regclass(name) FROM unnest(%s) AS name))
       OR oid IN (SELECT inhrelid FROM pg_inherits WHERE inhparent = to_regclass('messages')))
ORDER BY relname
"""
_LASTING = ["messages", "rooms", "user_activity", "message_stats_minute", "dead_letters", "schema_version", "instances"]


def check_in_thread(cursor: Cursor) -> list[str]:
    """Whether it can keep what it is given.

    :returns: what an operator should be warned of, a line each.
    :raises StartupError: it cannot; the line says what to do.
    """
    version = cursor.connection.server_version
    if version < _OLDEST_VERSION:
        raise StartupError(f"the database is PostgreSQL {version // 10000}, ChatFlow needs 15 or newer: upgrade it")
    cursor.execute(_SETTINGS)
    ((name, encoding, fsync, full_page_writes, zero_damaged_pages),) = cursor.fetchall()
    if encoding != "UTF8":
        raise StartupError(
            f"the database {name} has the encoding {encoding}, which does not hold every character: make one "
            "that does (CREATE DATABASE ... ENCODING 'UTF8' LOCALE 'C' TEMPLATE template0) and use that"
        )
    unlogged = unlogged_in_thread(cursor)
    if unlogged:
        raise StartupError(unlogged)
    warnings = []
    if fsync == "off":
        warnings.append("fsync is off on the database server: a crash of its machine loses acknowledged messages")
    if full_page_writes == "off":
        warnings.append(
            "full_page_writes is off on the database server: a crash of its machine may damage the database"
        )
    if zero_damaged_pages == "on":
        warnings.append("zero_damaged_pages is on: the database server empties pages that it finds damaged")
    return warnings


def unlogged_in_thread(cursor: Cursor) -> str | None:
    """What to do about tables that a crash would empty, if there are any."""
    cursor.execute(_UNLOGGED, (_LASTING,))
    names = [name for (name,) in cursor.fetchall()]
    if not names:
        return None
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"table {names[0]}{more} is unlogged, a crash of the database server empties it: ALTER TABLE ... SET LOGGED"
