"""How every connection to PostgreSQL is made, and what a transaction relies on. Blocking.

Nothing is set for a session, since a pooler such as PgBouncer hands one to the next client, or gives the next
transaction another one: what a transaction relies on, it sets for itself, in the round trip of its BEGIN.

Encoding and name of the application are parameters of the connection, so neither the environment nor the settings of
role and database change them. ``docs/operations.rst`` says which variables of the environment count.
"""

from __future__ import annotations

from typing import Any

import psycopg2
from attrs import field, frozen

from chatflow.errors import StartupError
from chatflow.persistence.driver import Connection, Cursor
from chatflow.persistence.reasons import reason_of

#: Connect and notice a dead server within seconds, also behind a failover; libpq ignores those of TCP on sockets
#: of the file system. Aurora's old writer accepts connections but no writes, hence target_session_attrs.
CONNECT_OPTIONS = {
    "connect_timeout": 3,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 5000,
    "target_session_attrs": "read-write",
    "client_encoding": "UTF8",
}

# Transactions of several statements count on seeing what others commit meanwhile.
_BEGIN = "BEGIN ISOLATION LEVEL READ COMMITTED"
_ISOLATION = "SET TRANSACTION ISOLATION LEVEL READ COMMITTED"

# An answer given after a commit must be true: neither role nor database may have turned that off. What is stronger, as
# remote_apply, stays.
_DURABLE = (
    "SELECT set_config('synchronous_commit', 'on', true)"
    " WHERE current_setting('synchronous_commit') IN ('off', 'local')"
)

# The time limit would end the wait for a synchronous standby, with a mere warning, and the commit would
# be taken for done.
COMMIT = "SET LOCAL statement_timeout = 0; COMMIT"

_TRANSACTION_TIMEOUT_SINCE = 170000


@frozen
class SessionLimits:
    """What PostgreSQL ends by itself, in seconds; 0 for no limit, whatever role and database have set."""

    statement_seconds: float = 30
    lock_seconds: float = 10
    idle_in_transaction_seconds: float = 10
    application_name: str = field(default="chatflow")

    def begin(self, server_version: int) -> str:
        """A transaction with these limits and all that ours rely on, as one string of statements.

        :param server_version: such as 150004.
        """
        return f"{_BEGIN}; {self.settings(server_version)}"

    def settings(self, server_version: int) -> str:
        """The settings as statements for a transaction that has begun."""
        return "; ".join(
            [
                # In one string of statements PostgreSQL measures from the first of them on, by the limit that is set
                # there, until one is without a limit.
                _limit("statement_timeout", 0),
                _limit("lock_timeout", self.lock_seconds),
                _limit("idle_in_transaction_session_timeout", self.idle_in_transaction_seconds),
                *_no_transaction_timeout(server_version),
                "SET LOCAL TimeZone = 'UTC'",
                "SET LOCAL DateStyle = 'ISO, MDY'",
                _DURABLE,
                _limit("statement_timeout", self.statement_seconds),
            ]
        )

    def alone(self, server_version: int) -> str:
        """What stands before a statement that is a transaction of its own, in the same string.

        Of these limits only that for locks counts. Times in such a statement name their zone, and what it writes
        durably it says itself.
        """
        return "; ".join(
            [
                _ISOLATION,
                _limit("statement_timeout", 0),
                _limit("lock_timeout", self.lock_seconds),
                *_no_transaction_timeout(server_version),
            ]
        )


def _limit(name: str, seconds: float) -> str:
    return f"SET LOCAL {name} = {round(seconds * 1000)}"


def _no_transaction_timeout(server_version: int) -> list[str]:
    return [_limit("transaction_timeout", 0)] if server_version >= _TRANSACTION_TIMEOUT_SINCE else []


#: For commands, and for what is done before the daemon serves: it takes as long as it takes.
UNLIMITED = SessionLimits(0, 0, 0)


def connect(url: str, application_name: str = "chatflow-admin", **options: Any) -> Connection:
    """A connection of one's own, outside the pools; its transactions begin with :func:`set_up_in_thread`.

    :param options: of libpq, in place of those in ``CONNECT_OPTIONS``.
    :raises StartupError: it cannot be made.
    """
    try:
        connection: Connection = psycopg2.connect(
            url, **{**CONNECT_OPTIONS, **options}, application_name=application_name
        )
        connection.set_session(isolation_level="READ COMMITTED")
    except psycopg2.Error as error:
        reason = reason_of(error, url)
        if "session is read-only" in reason:
            reason += " (a standby, or default_transaction_read_only is set for the role or the database)"
        raise StartupError(f"cannot connect to the database: {reason}") from None
    return connection


def set_up_in_thread(cursor: Cursor, limits: SessionLimits = UNLIMITED) -> None:
    """Set what this transaction relies on, until it ends."""
    cursor.execute(limits.settings(cursor.connection.server_version))
