"""The table ``instances``: which runs live, what the dead must have removed, and who is in their rooms.

All times are the database's own. Each call is one short transaction.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import Any, Protocol, TypeVar

from zope.interface import implementer

from chatflow.contracts.membership import IMembershipTable, InstanceState, RoomPresence, Run, Who
from chatflow.persistence.driver import Connection, Cursor, only_row
from chatflow.persistence.failures import database_errors
from chatflow.persistence.sessions import UNLIMITED, SessionLimits, connect, set_up_in_thread
from chatflow.persistence.vitals import BEATS_NAME
from chatflow.rooms.presence import SILENT_SECONDS

T = TypeVar("T")

#: A reaper that died after it had claimed something is replaced after so long.
_CLAIM_SECONDS = 120.0
_ADVISORY_LOCK = 0x43465250

_REGISTER = """
INSERT INTO instances (server_id, start, fanout_queue) VALUES (%s, %s, %s)
ON CONFLICT (server_id, start) DO UPDATE SET
       fanout_queue = excluded.fanout_queue, heartbeat_at = now(), claimed_at = NULL
"""

_TAKE_OVER = "UPDATE presence SET start = %s WHERE server_id = %s AND start = %s"

# One that is claimed stays dead, even if it wakes: its queue is about to be deleted.
_BEAT = """
UPDATE instances SET heartbeat_at = now() WHERE server_id = %s AND start = %s AND claimed_at IS NULL
RETURNING ARRAY(SELECT room_id FROM presence
                WHERE presence.server_id = instances.server_id AND presence.start = instances.start)
"""

# The entry is gone when its run was taken for dead meanwhile: the next beat says so.
_TELL = """
WITH changed AS (
    SELECT * FROM unnest(%(rooms)s::int[], %(members)s::int[], %(users)s::text[], %(truncated)s::boolean[])
           AS changed (room_id, members, users, truncated)
), gone AS (
    DELETE FROM presence USING changed
    WHERE server_id = %(server_id)s AND start = %(start)s AND presence.room_id = changed.room_id AND changed.members = 0
)
INSERT INTO presence (server_id, start, room_id, members, users, truncated)
SELECT server_id, start, room_id, members, users::jsonb, truncated FROM instances, changed
WHERE server_id = %(server_id)s AND start = %(start)s AND members > 0
ON CONFLICT (server_id, start, room_id) DO UPDATE SET
       members = excluded.members, users = excluded.users, truncated = excluded.truncated
"""

# Also when the clock was set back since: what lies in its future is no sign of life.
_OTHERS = """
SELECT room_id, members, users, truncated FROM presence_of_runs
WHERE (server_id, start) <> (%s, %s) AND abs(extract(epoch FROM now() - seen_at)) < %s
"""

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

    def __init__(self, connection: Connection, limits: SessionLimits = UNLIMITED) -> None:
        self._connection = connection
        self._limits = limits

    async def run_once(self, name: str, transaction_in_thread: Callable[..., T], *args: Any) -> T:
        """See :class:`Transactions`."""
        with database_errors(name), self._connection, self._connection.cursor() as cursor:
            set_up_in_thread(cursor, self._limits)
            return transaction_in_thread(cursor, *args)


@implementer(IMembershipTable)
class MembershipTable:
    """See :class:`IMembershipTable`. Runs where ``transactions`` does.

    :param address: where this instance answers HTTP, or empty; see :mod:`chatflow.persistence.vitals`.
    """

    def __init__(self, transactions: Transactions, address: Callable[[], str] = str) -> None:
        self._transactions = transactions
        self._address = address

    async def register(self, run: Run, former: Run | None) -> None:
        """See :class:`IMembershipTable`."""
        await self._transactions.run_once("register an instance", _register_in_thread, run, former)

    async def beat(self, run: Run) -> Collection[int] | None:
        """See :class:`IMembershipTable`."""
        return await self._transactions.run_once("heartbeat", _beat_in_thread, run, self._address())

    async def tell(self, run: Run, changed: Mapping[int, RoomPresence]) -> None:
        """See :class:`IMembershipTable`."""
        await self._transactions.run_once("tell presence", _tell_in_thread, run, dict(changed))

    async def others(self, run: Run) -> Mapping[int, RoomPresence]:
        """See :class:`IMembershipTable`."""
        return await self._transactions.run_once("read presence", _others_in_thread, run)

    async def leave(self, run: Run) -> None:
        """See :class:`IMembershipTable`."""
        await self._transactions.run_once("leave", _delete_in_thread, run)

    async def dead(self, silent_seconds: float) -> Sequence[Run]:
        """See :class:`IMembershipTable`."""
        return await self._transactions.run_once("find the dead", _dead_in_thread, silent_seconds)

    async def claim_dead(self, silent_seconds: float) -> Sequence[Run]:
        """See :class:`IMembershipTable`."""
        return await self._transactions.run_once("claim the dead", _claim_in_thread, silent_seconds)

    async def forget(self, run: Run) -> None:
        """See :class:`IMembershipTable`."""
        await self._transactions.run_once("forget an instance", _delete_in_thread, run)

    async def fanout_queues(self) -> Collection[str]:
        """See :class:`IMembershipTable`."""
        return await self._transactions.run_once("read the instances", _queues_in_thread)


@contextmanager
def open_membership(url: str, application_name: str = "chatflow-admin") -> Iterator[MembershipTable]:
    """The table on a connection of its own, whose calls block: for commands, and for the start of the daemon.

    :raises StartupError: the connection cannot be made.
    """
    with closing(connect(url, application_name)) as connection:
        yield MembershipTable(BlockingTransactions(connection))


async def read_census(transactions: Transactions) -> Sequence[InstanceState]:
    """Every server that has an entry, by its id; none where there is no cluster.

    :raises Unavailable: the database does not answer.
    """
    return await transactions.run_once("read the instances", _census_in_thread)


def _register_in_thread(cursor: Cursor, run: Run, former: Run | None) -> None:
    cursor.execute(_REGISTER, (run.server_id, run.run_id, run.fanout_queue))
    if former is not None:
        cursor.execute(_TAKE_OVER, (run.run_id, former.server_id, former.run_id))


def _beat_in_thread(cursor: Cursor, run: Run, address: str) -> list[int] | None:
    if address:
        # The address lives as long as the connection, and no longer than this process.
        name = f"{BEATS_NAME} {run.server_id} {address}"
        cursor.execute("SELECT set_config('application_name', %s, false)", (name,))
    cursor.execute(_BEAT, (run.server_id, run.run_id))
    found = cursor.fetchone()
    return found[0] if found else None


def _tell_in_thread(cursor: Cursor, run: Run, changed: dict[int, RoomPresence]) -> None:
    cursor.execute(
        _TELL,
        {
            "server_id": run.server_id,
            "start": run.run_id,
            "rooms": list(changed),
            "members": [presence.members for presence in changed.values()],
            "users": [_users_to_json(presence) for presence in changed.values()],
            "truncated": [presence.truncated for presence in changed.values()],
        },
    )


def _users_to_json(presence: RoomPresence) -> str:
    return json.dumps([[who.user_id, who.username, connections] for who, connections in presence.users])


def _others_in_thread(cursor: Cursor, run: Run) -> dict[int, RoomPresence]:
    """Rooms of the others, put together."""
    cursor.execute(_OTHERS, (run.server_id, run.run_id, SILENT_SECONDS))
    members: Counter[int] = Counter()
    users: dict[int, Counter[Who]] = {}
    truncated: set[int] = set()
    for room, count, named, cut in cursor.fetchall():
        members[room] += count
        own_users = users.setdefault(room, Counter())
        for user_id, username, connections in named:
            own_users[Who(user_id, username)] += connections
        if cut:
            truncated.add(room)
    return {room: RoomPresence(count, tuple(users[room].items()), room in truncated) for room, count in members.items()}


def _delete_in_thread(cursor: Cursor, run: Run) -> None:
    cursor.execute(_DELETE, (run.server_id, run.run_id))


def _dead_in_thread(cursor: Cursor, silent_seconds: float) -> list[Run]:
    cursor.execute(_DEAD, (silent_seconds,))
    return [Run(*row) for row in cursor.fetchall()]


def _claim_in_thread(cursor: Cursor, silent_seconds: float) -> list[Run]:
    # Who comes second need not wait: the first is doing the work.
    cursor.execute("SELECT pg_try_advisory_xact_lock(%s)", (_ADVISORY_LOCK,))
    if not only_row(cursor)[0]:
        return []
    cursor.execute(_CLAIM, (silent_seconds, _CLAIM_SECONDS))
    return [Run(*row) for row in cursor.fetchall()]


def _census_in_thread(cursor: Cursor) -> list[InstanceState]:
    cursor.execute(_CENSUS)
    return [InstanceState(*row) for row in cursor.fetchall()]


def _queues_in_thread(cursor: Cursor) -> set[str]:
    cursor.execute("SELECT fanout_queue FROM instances")
    return {name for (name,) in cursor.fetchall()}
