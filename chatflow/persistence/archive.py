"""Reads for those who look back: a room's and a user's messages, a user's rooms, the rooms' heads."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Any, TypeVar

from zope.interface import implementer

from chatflow.contracts.archive import IArchive, PageCursor, RoomHead, UserRoom
from chatflow.contracts.messages import Message, StoredMessage
from chatflow.persistence.database import Database
from chatflow.persistence.days import (
    Row,
    are_many_in_thread,
    days_in_thread,
    one_slice_in_thread,
    room_rows_in_thread,
    slices,
)
from chatflow.persistence.driver import Cursor
from chatflow.rooms.messages import iso_timestamp

T = TypeVar("T")

#: Longer is no page that anybody waits for, and resuming clients share the connections.
_STATEMENT_SECONDS = 5

_COLUMNS = """
room_id, seq, server_id, message_id::text, (extract(epoch FROM created_at) * 1000000)::bigint, user_id, username,
message_text, message_type, to_json(client_timestamp)#>>'{}'
"""

_USER_ROOMS = """
SELECT room_id, message_count, text_count, join_count, leave_count,
       (extract(epoch FROM first_activity) * 1000000)::bigint, (extract(epoch FROM last_activity) * 1000000)::bigint
FROM user_activity WHERE user_id = %s ORDER BY room_id
"""

_HEADS = """
SELECT room_id, last_seq, (extract(epoch FROM last_activity) * 1000000)::bigint
FROM rooms WHERE room_id > %s ORDER BY room_id LIMIT %s
"""


@implementer(IArchive)
class Archive:
    """Each read is one short transaction in the readers' pool.

    :param statement_seconds: PostgreSQL ends what takes longer.
    """

    def __init__(self, database: Database, *, statement_seconds: float = _STATEMENT_SECONDS) -> None:
        self._database = database
        self._statement_seconds = statement_seconds

    def room_messages(
        self, room: int, after: int | None, before: int | None, limit: int
    ) -> Awaitable[list[StoredMessage]]:
        """Ascending. With ``after`` the first ones behind it, otherwise the last ones (before ``before``)."""
        return self._read("read messages of a room", room_messages_in_thread, room, after, before, limit)

    def user_messages(
        self,
        user_id: int,
        after: PageCursor | None,
        before: PageCursor | None,
        from_us: int | None,
        to_us: int | None,
        limit: int,
    ) -> Awaitable[list[StoredMessage]]:
        """Descending by place. With ``after`` those next to it, otherwise the newest (before ``before``)."""
        bounds = after, before, from_us, to_us
        return self._read("read messages of a user", user_messages_in_thread, user_id, *bounds, limit)

    def user_rooms(self, user_id: int) -> Awaitable[list[UserRoom]]:
        """See :class:`IArchive`."""
        return self._read("read rooms of a user", user_rooms_in_thread, user_id)

    def room_heads(self, after: int, limit: int) -> Awaitable[list[RoomHead]]:
        """See :class:`IArchive`."""
        return self._read("read rooms", room_heads_in_thread, after, limit)

    async def _read(self, name: str, read_in_thread: Callable[..., T], *args: Any) -> T:
        return await self._database.run_once(name, limited_in_thread, self._statement_seconds, read_in_thread, *args)


def limited_in_thread(cursor: Cursor, seconds: float, read_in_thread: Callable[..., T], *args: Any) -> T:
    """A read whose statements PostgreSQL ends after so many seconds."""
    cursor.execute("SELECT set_config('statement_timeout', %s, true)", (str(round(seconds * 1000)),))
    return read_in_thread(cursor, *args)


def room_messages_in_thread(
    cursor: Cursor, room: int, after: int | None, before: int | None, limit: int
) -> list[StoredMessage]:
    """See :meth:`Archive.room_messages`."""
    first = None if after is None else after + 1
    last = None if before is None else before - 1
    return _messages(room_rows_in_thread(cursor, _COLUMNS, room, first, last, limit, newest=after is None))


def user_messages_in_thread(
    cursor: Cursor,
    user_id: int,
    after: PageCursor | None,
    before: PageCursor | None,
    from_us: int | None,
    to_us: int | None,
    limit: int,
) -> list[StoredMessage]:
    """See :meth:`Archive.user_messages`."""
    where: list[str] = ["user_id = %s"]
    values: list[Any] = [user_id]
    for place, operator in ((after, ">"), (before, "<")):
        if place is not None:
            # The first condition is what PostgreSQL can exclude partitions by.
            where.append(
                f"created_at {operator}= %s::timestamptz AND (created_at, room_id, seq) {operator} (%s, %s, %s)"
            )
            moment = iso_timestamp(place.created_at_us)
            values += [moment, moment, place.room, place.seq]
    for time_us, operator in ((from_us, ">="), (to_us, "<")):
        if time_us is not None:
            where.append(f"created_at {operator} %s::timestamptz")
            values.append(iso_timestamp(time_us))
    order = "DESC" if after is None else "ASC"
    sql = f"SELECT {_COLUMNS} FROM messages WHERE {' AND '.join(where)}"
    end = f"ORDER BY created_at {order}, room_id {order}, seq {order} LIMIT %s"
    if not are_many_in_thread(cursor):
        cursor.execute(f"{sql} {end}", (*values, limit))
        found = _messages(cursor.fetchall())
    else:
        found = _messages(_in_slices(cursor, sql, end, values, user_id, limit, newest=after is None))
    return found if after is None else found[::-1]


def _in_slices(
    cursor: Cursor, sql: str, end: str, values: Sequence[Any], user_id: int, limit: int, newest: bool
) -> list[Row]:
    """A few days at a time, from one end of those in which the user was active, until there are enough."""
    cursor.execute("SELECT min(first_activity), max(last_activity) FROM user_activity WHERE user_id = %s", (user_id,))
    ((first, last),) = cursor.fetchall()
    if first is None:
        return []
    parts = slices(days_in_thread(cursor), first, last + timedelta(microseconds=1))
    rows: list[Row] = []
    for since, until in reversed(parts) if newest else parts:
        if len(rows) < limit:
            within = f"{sql} AND created_at >= %s AND created_at < %s {end}"
            rows += one_slice_in_thread(cursor, within, (*values, since, until, limit - len(rows)))
    return rows


def user_rooms_in_thread(cursor: Cursor, user_id: int) -> list[UserRoom]:
    """See :meth:`Archive.user_rooms`."""
    cursor.execute(_USER_ROOMS, (user_id,))
    return [UserRoom(*row) for row in cursor.fetchall()]


def room_heads_in_thread(cursor: Cursor, after: int, limit: int) -> list[RoomHead]:
    """See :meth:`Archive.room_heads`."""
    cursor.execute(_HEADS, (min(after, 2**31 - 1), limit))
    return [RoomHead(*row) for row in cursor.fetchall()]


def _messages(rows: Sequence[Row]) -> list[StoredMessage]:
    return [StoredMessage(room, seq, server_id, Message(*fields)) for room, seq, server_id, *fields in rows]
