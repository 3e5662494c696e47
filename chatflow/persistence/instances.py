"""The table ``instances``: who is alive, and what the dead must have removed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import closing
from typing import Any, Protocol, TypeVar

import psycopg2
from zope.interface import implementer

from chatflow.contracts.membership import IInstanceTable, InstanceStart, InstanceState
from chatflow.errors import StartupError, Unavailable
from chatflow.persistence.sessions import connect, set_up_in_thread
from chatflow.persistence.vitals import BEATS_NAME

T = TypeVar("T")

#: A reaper that died after it had claimed something is replaced after so long.
_CLAIM_SECONDS = 120.0
_ADVISORY_LOCK = 0x43465250

_REGISTER = """
INSERT INTO instances (server_id, start, fanout_queue) VALUES (%s, %s, %s)
ON CONFLICT (server_id, start) DO UPDATE SET
       fanout_queue = excluded.fanout_queue, heartbeat_at = now(), claimed_at = NULL
"""

# One that is claimed stays dead, even if it wakes: its queue is about to be deleted.
_HEARTBEAT = "UPDATE instances SET heartbeat_at = now() WHERE server_id = %s AND start = %s AND claimed_at IS NULL"

_DELETE = "DELETE FROM instances WHERE server_id = %s AND start = %s"

_DEAD = """
SELECT server_id, start, fanout_queue FROM instances
WHERE heartbeat_at < now() - make_interval(secs => %s) ORDER BY heartbeat_at
"""

_CENSUS = """
SELECT DISTINCT ON (server_id) server_id, extract(epoch FROM now() - started_at)::float8,
       extract(epoch FROM now() - heartbeat_at)::float8
FROM instances ORDER BY server_id, heartbeat_at DESC
"""

_CLAIM = """
UPDATE instances SET claimed_at = now()
WHERE heartbeat_at < now() - make_interval(secs => %s)
  AND (claimed_at IS NULL OR claimed_at < now() - make_interval(secs => %s))
RETURNING server_id, start, fanout_queue
"""


class Transactions(Protocol):
    """What runs a function of a cursor in a transaction: :class:`~chatflow.persistence.database.Database` does."""

    async def run_once(self, name: str, transaction_in_thread: Callable[..., T], *args: Any) -> T:
        """Its result.

        :raises Unavailable: the database does not answer.
        """


class BlockingTransactions:
    """Each transaction blocks; see :func:`chatflow.lifecycle.blocking.at_once`.

    :param connection: of psycopg2, not in a transaction.
    """

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def run_once(self, name: str, transaction_in_thread: Callable[..., T], *args: Any) -> T:
        """See :class:`Transactions`."""
        try:
            with self._connection, self._connection.cursor() as cursor:
                return transaction_in_thread(cursor, *args)
        except psycopg2.Error as error:
            raise Unavailable(f"{name}: {' '.join(str(error).split())}") from error


@implementer(IInstanceTable)
class InstanceTable:
    """See :class:`IInstanceTable`. Runs where ``transactions`` does.

    :param address: where this instance answers HTTP, or empty; see :mod:`chatflow.persistence.vitals`.
    """

    def __init__(self, transactions: Transactions, address: Callable[[], str] = str) -> None:
        self._transactions = transactions
        self._address = address

    async def register(self, instance: InstanceStart) -> None:
        """See :class:`IInstanceTable`."""
        await self._transactions.run_once("register an instance", register_in_thread, instance)

    async def heartbeat(self, instance: InstanceStart) -> bool:
        """See :class:`IInstanceTable`."""
        changed = await self._transactions.run_once("heartbeat", _heartbeat_in_thread, instance, self._address())
        return changed == 1

    async def leave(self, instance: InstanceStart) -> None:
        """See :class:`IInstanceTable`."""
        await self._transactions.run_once("leave", _change_in_thread, _DELETE, instance)

    async def dead(self, silent_seconds: float) -> Sequence[InstanceStart]:
        """See :class:`IInstanceTable`."""
        return await self._transactions.run_once("find the dead", _dead_in_thread, silent_seconds)

    async def claim_dead(self, silent_seconds: float) -> Sequence[InstanceStart]:
        """See :class:`IInstanceTable`."""
        return await self._transactions.run_once("claim the dead", _claim_in_thread, silent_seconds)

    async def forget(self, instance: InstanceStart) -> None:
        """See :class:`IInstanceTable`."""
        await self._transactions.run_once("forget an instance", _change_in_thread, _DELETE, instance)

    async def fanout_queues(self) -> Collection[str]:
        """See :class:`IInstanceTable`."""
        return await self._transactions.run_once("read the instances", _queues_in_thread)


async def read_census(transactions: Transactions) -> Sequence[InstanceState]:
    """Every server that has an entry, by its id; none where there is no cluster.

    :raises Unavailable: the database does not answer.
    """
    return await transactions.run_once("read the instances", _census_in_thread)


def register_now(url: str, instance: InstanceStart) -> None:
    """:meth:`InstanceTable.register` before the reactor runs, on a connection of its own. Blocks.

    :raises Unavailable: the database does not answer.
    """
    try:
        with (
            closing(connect(url, "chatflow-start")) as connection,
            connection,
            connection.cursor() as cursor,
        ):
            set_up_in_thread(cursor)
            register_in_thread(cursor, instance)
    except (psycopg2.Error, StartupError) as error:
        raise Unavailable(f"register an instance: {' '.join(str(error).split())}") from error


def register_in_thread(cursor: Any, instance: InstanceStart) -> None:
    """Add it, alive from now on."""
    cursor.execute(_REGISTER, (instance.server_id, instance.start, instance.fanout_queue))


def _heartbeat_in_thread(cursor: Any, instance: InstanceStart, address: str) -> int:
    if address:
        # The address lives as long as the connection, and no longer than this process.
        name = f"{BEATS_NAME} {instance.server_id} {address}"
        cursor.execute("SELECT set_config('application_name', %s, false)", (name,))
    return _change_in_thread(cursor, _HEARTBEAT, instance)


def _change_in_thread(cursor: Any, sql: str, instance: InstanceStart) -> int:
    cursor.execute(sql, (instance.server_id, instance.start))
    count: int = cursor.rowcount
    return count


def _dead_in_thread(cursor: Any, silent_seconds: float) -> list[InstanceStart]:
    cursor.execute(_DEAD, (silent_seconds,))
    return [InstanceStart(*row) for row in cursor.fetchall()]


def _claim_in_thread(cursor: Any, silent_seconds: float) -> list[InstanceStart]:
    # Who comes second need not wait: the first is doing the work.
    cursor.execute("SELECT pg_try_advisory_xact_lock(%s)", (_ADVISORY_LOCK,))
    if not cursor.fetchone()[0]:
        return []
    cursor.execute(_CLAIM, (silent_seconds, _CLAIM_SECONDS))
    return [InstanceStart(*row) for row in cursor.fetchall()]


def _census_in_thread(cursor: Any) -> list[InstanceState]:
    cursor.execute(_CENSUS)
    return [InstanceState(*row) for row in cursor.fetchall()]


def _queues_in_thread(cursor: Any) -> set[str]:
    cursor.execute("SELECT fanout_queue FROM instances")
    return {name for (name,) in cursor.fetchall()}
