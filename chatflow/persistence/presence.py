"""What instances tell each other of their members. One statement per beat; all times are the database's own."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

from attrs import frozen
from zope.interface import implementer

from chatflow.contracts.membership import IPresenceTable, RoomPresence, Who
from chatflow.persistence.database import Database
from chatflow.rooms.presence import SILENT_SECONDS

#: Then anybody may remove what a dead instance has left.
_FORGET_SECONDS = 60.0

# xmax is 0 in a row that was inserted rather than updated.
_BEAT = """
INSERT INTO presence_instances AS known (server_id, start) VALUES (%s, %s)
ON CONFLICT (server_id, start) DO UPDATE SET seen_at = now()
RETURNING xmax <> 0
"""

_CHANGE = """
WITH changed AS (
    SELECT * FROM unnest(%(rooms)s::int[], %(members)s::int[], %(users)s::text[], %(truncated)s::boolean[])
           AS changed (room_id, members, users, truncated)
), gone AS (
    DELETE FROM presence USING changed
    WHERE server_id = %(server_id)s AND start = %(start)s AND presence.room_id = changed.room_id AND changed.members = 0
)
INSERT INTO presence (server_id, start, room_id, members, users, truncated)
SELECT %(server_id)s, %(start)s, room_id, members, users::jsonb, truncated FROM changed WHERE members > 0
ON CONFLICT (server_id, start, room_id) DO UPDATE SET
       members = excluded.members, users = excluded.users, truncated = excluded.truncated
"""

# Also when the clock was set back since: what lies in its future is no sign of life.
_OTHERS = """
SELECT room_id, members, users, truncated FROM presence JOIN presence_instances USING (server_id, start)
WHERE (server_id, start) <> (%s, %s) AND abs(extract(epoch FROM now() - seen_at)) < %s
"""

_FORGET = "DELETE FROM presence_instances WHERE seen_at < now() - make_interval(secs => %s)"


@frozen
class Start:
    """One start of one server."""

    server_id: str
    start: str


@implementer(IPresenceTable)
class PresenceTable:
    """Of one start of one instance. Each call is one short transaction.

    :param start: tells the starts of one server apart.
    """

    def __init__(self, database: Database, server_id: str, start: str) -> None:
        self._database = database
        self._own = Start(server_id, start)

    async def beat(self, changed: Mapping[int, RoomPresence]) -> bool:
        """See :class:`IPresenceTable`."""
        return await self._database.run_once("tell presence", beat_in_thread, self._own, dict(changed))

    async def others(self) -> Mapping[int, RoomPresence]:
        """See :class:`IPresenceTable`."""
        return await self._database.run_once("read presence", others_in_thread, self._own)

    async def leave(self) -> None:
        """See :class:`IPresenceTable`."""
        await self._database.run_once("leave presence", leave_in_thread, self._own)


def beat_in_thread(cursor: Any, own: Start, changed: dict[int, RoomPresence]) -> bool:
    """Whether this instance was known before. Also removes what others have left behind long ago."""
    cursor.execute(_BEAT, (own.server_id, own.start))
    ((known,),) = cursor.fetchall()
    if changed:
        cursor.execute(
            _CHANGE,
            {
                "server_id": own.server_id,
                "start": own.start,
                "rooms": list(changed),
                "members": [presence.members for presence in changed.values()],
                "users": [_users_to_json(presence) for presence in changed.values()],
                "truncated": [presence.truncated for presence in changed.values()],
            },
        )
    if not known:
        cursor.execute(_FORGET, (_FORGET_SECONDS,))
    return bool(known)


def others_in_thread(cursor: Any, own: Start) -> dict[int, RoomPresence]:
    """Rooms of the other living instances, put together."""
    cursor.execute(_OTHERS, (own.server_id, own.start, SILENT_SECONDS))
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


def leave_in_thread(cursor: Any, own: Start) -> None:
    """Its rooms go with it."""
    cursor.execute("DELETE FROM presence_instances WHERE server_id = %s AND start = %s", (own.server_id, own.start))


def _users_to_json(presence: RoomPresence) -> str:
    return json.dumps([[who.user_id, who.username, connections] for who, connections in presence.users])
