"""What an error of PostgreSQL or its driver calls for: refuse the data, wait, or wait and call for somebody.

What waiting can heal is waited for. Data that no try will get stored is refused at once. All else (a table that is
missing, a permission, a full disk) is nobody's message's fault: it is waited for, since what was acknowledged must be
stored, and the log says at once what somebody has to do.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg2
from psycopg2 import errorcodes

from chatflow.errors import StartupError, Unavailable

# States of SQL that are no fault of the statement, beside those that psycopg2 calls OperationalError.
_TRANSIENT_STATES = {
    errorcodes.READ_ONLY_SQL_TRANSACTION,  # Aurora: the writer became a reader
    errorcodes.IDLE_IN_TRANSACTION_SESSION_TIMEOUT,  # this process was paused in a transaction
    errorcodes.IN_FAILED_SQL_TRANSACTION,
}

# What says that there is no database now, though something answered for it: it starts, stops, takes no more
# connections, or became a reader.
_AWAY_STATES = {
    errorcodes.ADMIN_SHUTDOWN,
    errorcodes.CRASH_SHUTDOWN,
    errorcodes.CANNOT_CONNECT_NOW,
    errorcodes.TOO_MANY_CONNECTIONS,
    errorcodes.READ_ONLY_SQL_TRANSACTION,
}

# Classes of SQLSTATE that are about the data: data exception, integrity constraint violation, violation of
# WITH CHECK OPTION, program limit exceeded (such as a value too long for an index), and what a trigger raises.
_DATA_CLASSES = {"22", "23", "44", "54", "P0"}

# What somebody has to do, by SQLSTATE or its class.
_REMEDIES = {
    "0A": "the database cannot do this: is it PostgreSQL 15 or newer?",
    "25006": "the database is read only: it is a standby, or default_transaction_read_only is set",
    "28": "the database does not let this role in: check the role, its password and pg_hba.conf",
    "3D": "there is no such database: check its name",
    "3F": "a schema is missing: check the role's search_path, or run `chatflow-admin migrate`",
    "42501": "the database's role lacks a permission: grant it",
    "42": "the schema is not this version's, or not in the role's search_path: run `chatflow-admin migrate`",
    "53100": "the database server's disk is full: free some of it",
    "53200": "the database server lacks memory or locks: raise max_locks_per_transaction",
    "53300": "the database server takes no more connections: raise max_connections",
    "53": "the database server lacks a resource",
    "58": "the database server's disk fails: look at its log",
    "XX001": "the database is damaged: look at the server's log, restore a backup",
    "XX002": "an index of the database is damaged: REINDEX it, and look at the server's log",
    "XX": "PostgreSQL failed: look at the server's log",
}
_NO_PARTITION = "there is no partition for these messages, nor messages_default: make that again"


def is_transient(error: BaseException) -> bool:
    """Whether the same transaction may succeed on another try, without anybody's help."""
    if _lacks_partition(error) or isinstance(error, psycopg2.OperationalError | psycopg2.InterfaceError):
        # Too large for PostgreSQL is an OperationalError for psycopg2.
        return not is_refusal(error)
    return isinstance(error, psycopg2.Error) and error.pgcode in _TRANSIENT_STATES


def is_answer(error: psycopg2.Error) -> bool:
    """Whether a database refused or ended the transaction, such as one that took too long; otherwise it is away."""
    return error.pgcode is not None and not error.pgcode.startswith("08") and error.pgcode not in _AWAY_STATES


def is_refusal(error: BaseException) -> bool:
    """Whether the data itself was refused, by PostgreSQL or before it got there, so that no try will succeed."""
    if isinstance(error, psycopg2.Error):
        if error.pgcode is None:
            # Of the driver, which cannot send it, or ours.
            return isinstance(error, psycopg2.DataError | psycopg2.IntegrityError | psycopg2.ProgrammingError)
        return error.pgcode[:2] in _DATA_CLASSES and not _lacks_partition(error)
    # What the driver raises for NUL and for what is no Unicode, Python for times and numbers out of range.
    return isinstance(error, ValueError | OverflowError | TypeError)


def remedy(error: psycopg2.Error) -> str | None:
    """What somebody has to do before it can succeed, in one line; None if it may pass by itself."""
    if _lacks_partition(error):
        return _NO_PARTITION
    state = error.pgcode or ""
    return _REMEDIES.get(state) or _REMEDIES.get(state[:2])


def _lacks_partition(error: BaseException) -> bool:
    """A row without a partition has the state of a violated constraint, but names none."""
    if not isinstance(error, psycopg2.Error) or error.pgcode != errorcodes.CHECK_VIOLATION:
        return False
    return error.diag.constraint_name is None and error.diag.datatype_name is None


def one_line(error: BaseException) -> str:
    """Its text, on one line that every log and column takes."""
    return " ".join(str(error).encode(errors="backslashreplace").decode().split())


@contextmanager
def database_errors(doing: str = "") -> Iterator[None]:
    """What PostgreSQL or its driver raise in here is ``Unavailable``; so is a connection that could not be made.

    For who has a connection of his own and does not try again; a :class:`chatflow.persistence.database.Database` knows
    more of what an error calls for.

    :param doing: what was attempted; stands before the reason.
    """
    try:
        yield
    except (psycopg2.Error, StartupError) as error:
        raise Unavailable(f"{doing}: {one_line(error)}" if doing else one_line(error)) from error
