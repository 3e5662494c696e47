"""How the database does, as an operator wants to see it: connections, sizes, statements, locks, views. Blocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from attrs import fields, frozen

from chatflow.persistence.driver import Connection, only_row
from chatflow.persistence.failures import database_errors

#: How an instance calls the connection of its heartbeats: its server id, and where it listens.
BEATS_NAME = "chatflow-beats"

_SHOWN_STATEMENTS = 5
_SHOWN_TABLES = 8

_SERVER = """
SELECT current_setting('server_version'),
       (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'),
       current_setting('max_connections')::int,
       (SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND pid <> pg_backend_pid()
               AND datname = current_database()),
       (SELECT count(*) FROM pg_locks WHERE NOT granted),
       (SELECT round(100.0 * sum(blks_hit) / nullif(sum(blks_hit + blks_read), 0), 2)::float8
        FROM pg_stat_database WHERE datname = current_database()),
       pg_database_size(current_database()),
       (SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()),
       pg_is_in_recovery()
"""

_STATEMENTS = """
SELECT pid, coalesce(usename, ''), coalesce(application_name, ''), coalesce(state, ''),
       extract(epoch FROM clock_timestamp() - coalesce(query_start, xact_start))::float8,
       coalesce(wait_event_type || ' ' || wait_event, ''), left(query, 200)
FROM pg_stat_activity
WHERE state IN ('active', 'idle in transaction') AND pid <> pg_backend_pid() AND datname = current_database()
ORDER BY 5 DESC NULLS LAST LIMIT %s
"""

_TABLES = """
SELECT c.relname, count(p.inhrelid), sum(pg_total_relation_size(coalesce(p.inhrelid, c.oid)))::bigint,
       greatest(max(c.reltuples), sum(k.reltuples))::bigint
FROM pg_class AS c
JOIN pg_namespace AS n ON n.oid = c.relnamespace AND n.nspname = current_schema()
LEFT JOIN pg_inherits AS p ON p.inhparent = c.oid
LEFT JOIN pg_class AS k ON k.oid = p.inhrelid
WHERE c.relkind IN ('r', 'p', 'm') AND NOT c.relispartition
GROUP BY c.relname ORDER BY 3 DESC LIMIT %s
"""

_VIEWS = "SELECT view_name, extract(epoch FROM now() - refreshed_at)::float8 FROM view_refreshes ORDER BY 1"

_INSTANCES = f"""
SELECT i.server_id, extract(epoch FROM now() - i.heartbeat_at)::float8, host(a.client_addr),
       split_part(a.application_name, ' ', 3)
FROM instances AS i
LEFT JOIN LATERAL (
    SELECT client_addr, application_name FROM pg_stat_activity
    WHERE datname = current_database() AND split_part(application_name, ' ', 1) = '{BEATS_NAME}'
      AND split_part(application_name, ' ', 2) = i.server_id
    ORDER BY backend_start DESC LIMIT 1) AS a ON TRUE
ORDER BY i.server_id, i.heartbeat_at
"""


@frozen
class Statement:
    """One that runs, or whose transaction is open."""

    pid: int
    user: str
    application: str
    state: str
    seconds: float
    waits_for: str
    text: str


@frozen
class TableSize:
    """:ivar partitions: 0 if it has none. :ivar rows: as the statistics estimate, -1 if they do not."""

    name: str
    partitions: int
    size_bytes: int
    rows: int


@frozen
class InstanceEntry:
    """:ivar url: where it answers HTTP, as far as its heartbeats' connection tells; None if there is none."""

    server_id: str
    silent_seconds: float
    url: str | None


@frozen
class Vitals:
    """:ivar cache_percent: None before anything was read. :ivar views: seconds since their refresh, by name."""

    version: str
    connections: int
    max_connections: int
    active: int
    lock_waits: int
    cache_percent: float | None
    size_bytes: int
    deadlocks: int
    is_standby: bool
    schema_version: int
    dead_letters: int
    statements: Sequence[Statement]
    tables: Sequence[TableSize]
    views: Sequence[tuple[str, float]]


def read_vitals(connection: Connection) -> Vitals:
    """
    :param connection: of psycopg2, not in a transaction.
    :raises Unavailable: the database does not answer, or has no schema of ChatFlow's.
    """
    with database_errors(), connection, connection.cursor() as cursor:
        cursor.execute("SET LOCAL statement_timeout = '5s'")
        cursor.execute(_SERVER)
        server = only_row(cursor)
        cursor.execute(_STATEMENTS, (_SHOWN_STATEMENTS,))
        statements = [Statement(*row) for row in cursor.fetchall()]
        cursor.execute(_TABLES, (_SHOWN_TABLES,))
        tables = [TableSize(*row) for row in cursor.fetchall()]
        cursor.execute(_VIEWS)
        views = cursor.fetchall()
        cursor.execute("SELECT max(version), (SELECT count(*) FROM dead_letters) FROM schema_version")
        ((schema_version, dead_letters),) = cursor.fetchall()
    names = (field.name for field in fields(Vitals))
    figures: tuple[Any, ...] = (*server, schema_version, dead_letters, statements, tables, views)
    return Vitals(**dict(zip(names, figures, strict=True)))


def read_instances(connection: Connection) -> list[InstanceEntry]:
    """Every instance of a cluster that has an entry, dead ones too until they are reaped. Raises like the above."""
    with database_errors(), connection, connection.cursor() as cursor:
        cursor.execute("SET LOCAL statement_timeout = '5s'")
        cursor.execute(_INSTANCES)
        return [InstanceEntry(name, silent, _url(host, place)) for name, silent, host, place in cursor.fetchall()]


def _url(host: str | None, place: str | None) -> str | None:
    """:param place: ``http://HOST:PORT``; without HOST, the one from which the instance connects."""
    scheme, separator, address = (place or "").partition("://")
    if not separator:
        return None
    known, _, port = address.rpartition(":")
    host = known or host or "127.0.0.1"  # None for a socket of the file system
    return f"{scheme}://[{host}]:{port}" if ":" in host and not host.startswith("[") else f"{scheme}://{host}:{port}"
