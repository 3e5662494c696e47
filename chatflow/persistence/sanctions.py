"""The table ``sanctions``: what operators ordered.

All times are the database's own. Each call is one short transaction.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from typing import Any

from zope.interface import implementer

from chatflow.contracts.moderation import MAX_SANCTIONS, Action, ISanctionTable, Sanction, Sanctions, Subject
from chatflow.errors import TooManySanctions
from chatflow.persistence.driver import Cursor, only_row
from chatflow.persistence.membership import BlockingTransactions, Transactions
from chatflow.persistence.sessions import connect

# Changes are made one after the other, so that who has seen one has seen all before it.
_ADVISORY_LOCK = 0x4346534E

#: For how long an instance whose database was away still learns of it. Who came after the order is left alone anyway.
_DISCONNECT_SECONDS = 3600.0

#: What has ended is kept so long, for who asks what happened.
_KEPT_DAYS = 30

_IN_FORCE = "lifted_by IS NULL AND (ends_at IS NULL OR ends_at > now())"

_COLUMNS = """
action, user_id, network::text, room_id, reason, ordered_by, lifted_by, ordered_at, ends_at, clock_timestamp()
"""

_VERSION = "SELECT coalesce(max(changed_at)::text, '') FROM sanctions"

_READ = f"""
SELECT {_COLUMNS}, {_IN_FORCE} FROM sanctions
WHERE {_IN_FORCE} OR changed_at > %s::timestamptz ORDER BY ordered_at, changed_at
"""

_NEXT_CHANGE = f"""
SELECT greatest(clock_timestamp(), max(changed_at) + interval '1 microsecond'), count(*) FILTER (WHERE {_IN_FORCE})
FROM sanctions
"""

_ORDER = f"""
INSERT INTO sanctions (action, user_id, network, room_id, reason, ordered_by, ordered_at, ends_at, changed_at)
VALUES (%(action)s, %(user_id)s, %(network)s, %(room_id)s, %(reason)s, %(by)s, %(at)s,
        %(at)s + make_interval(secs => %(for_seconds)s), %(at)s)
ON CONFLICT (action, user_id, network, room_id) DO UPDATE SET
       reason = excluded.reason, ordered_by = excluded.ordered_by, ordered_at = excluded.ordered_at,
       ends_at = excluded.ends_at, lifted_by = NULL, changed_at = excluded.changed_at
RETURNING {_COLUMNS}
"""

_LIFT = f"""
UPDATE sanctions SET ends_at = now(), lifted_by = %(by)s, changed_at = %(at)s
WHERE action = %(action)s AND {_IN_FORCE}
  AND (user_id, network, room_id) IS NOT DISTINCT FROM (%(user_id)s::integer, %(network)s::cidr, %(room_id)s::integer)
RETURNING {_COLUMNS}
"""


@implementer(ISanctionTable)
class SanctionTable:
    """See :class:`ISanctionTable`. Runs where ``transactions`` does."""

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions

    async def read(self, known_version: str | None) -> Sanctions | None:
        """See :class:`ISanctionTable`."""
        return await self._transactions.run_once("read the sanctions", _read_in_thread, known_version)

    async def order(
        self, action: Action, subject: Subject, *, reason: str, by: str, for_seconds: float | None
    ) -> Sanction:
        """See :class:`ISanctionTable`."""
        if action == "disconnect":
            for_seconds = _DISCONNECT_SECONDS
        values = {**_values(action, subject), "reason": reason, "by": by, "for_seconds": for_seconds}
        return await self._transactions.run_once(f"order a {action}", _order_in_thread, values)

    async def lift(self, action: Action, subject: Subject, *, by: str) -> Sanction | None:
        """See :class:`ISanctionTable`."""
        values = {**_values(action, subject), "by": by}
        return await self._transactions.run_once(f"lift a {action}", _lift_in_thread, values)


@contextmanager
def open_sanctions(url: str, application_name: str = "chatflow-admin") -> Iterator[SanctionTable]:
    """The table on a connection of its own, whose calls block: for commands, and for the start of the daemon.

    :raises StartupError: the connection cannot be made.
    """
    with closing(connect(url, application_name)) as connection:
        yield SanctionTable(BlockingTransactions(connection))


def _read_in_thread(cursor: Cursor, known_version: str | None) -> Sanctions | None:
    cursor.execute(_VERSION)
    (version,) = only_row(cursor)
    if version == known_version:
        return None
    # What is committed between the two statements is read with the next version once more.
    cursor.execute(_READ, ("infinity" if known_version is None else known_version or "-infinity",))
    in_force: list[Sanction] = []
    ended: list[Sanction] = []
    for *row, is_in_force in cursor.fetchall():
        (in_force if is_in_force else ended).append(_sanction(row))
    return Sanctions(version, in_force, ended)


def _order_in_thread(cursor: Cursor, values: dict[str, Any]) -> Sanction:
    count = _begin_change(cursor, values)
    cursor.execute("DELETE FROM sanctions WHERE ends_at < now() - make_interval(days => %s)", (_KEPT_DAYS,))
    if count >= MAX_SANCTIONS:
        raise TooManySanctions(f"there are {count} mutes and bans in force already: lift some, or ban a network")
    cursor.execute(_ORDER, values)
    return _sanction(only_row(cursor))


def _lift_in_thread(cursor: Cursor, values: dict[str, Any]) -> Sanction | None:
    _begin_change(cursor, values)
    cursor.execute(_LIFT, values)
    found = cursor.fetchall()
    return _sanction(found[0]) if found else None


def _begin_change(cursor: Cursor, values: dict[str, Any]) -> int:
    """Set the time of a change, which is behind all others; how many sanctions are in force."""
    cursor.execute("SELECT pg_advisory_xact_lock(%s)", (_ADVISORY_LOCK,))
    cursor.execute(_NEXT_CHANGE)
    values["at"], count = only_row(cursor)
    return int(count)


def _values(action: Action, subject: Subject) -> dict[str, Any]:
    network = None if subject.network is None else str(subject.network)
    return {"action": action, "user_id": subject.user_id, "network": network, "room_id": subject.room}


def _sanction(row: Any) -> Sanction:
    action, user_id, network, room, reason, by, lifted_by, ordered_at, ends_at, now = row
    return Sanction(
        action=action,
        subject=Subject(user_id, None if network is None else ip_network(network), room),
        reason=reason,
        by=by,
        lifted_by=lifted_by,
        age_seconds=(now - ordered_at).total_seconds(),
        left_seconds=None if ends_at is None else (ends_at - now).total_seconds(),
        ordered_at_us=_microseconds(ordered_at),
        ends_at_us=None if ends_at is None else _microseconds(ends_at),
    )


def _microseconds(moment: datetime) -> int:
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
