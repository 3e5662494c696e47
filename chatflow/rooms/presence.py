"""Who is in a room, over all instances.

Each instance tells the others of its members with every beat, only what has changed, and its own it always knows.
Joins and leaves between two beats become one change: a thousand reconnects are not a thousand broadcasts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping

from attrs import Factory, define
from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from chatflow.contracts.members import IMember
from chatflow.contracts.membership import IPresenceTable, RoomPresence, Who
from chatflow.errors import Unavailable
from chatflow.lifecycle import SharedCall

# An instance that dies is gone from everybody's sight after SILENT_SECONDS, plus FRESH_SECONDS for who asks, plus
# BEAT_SECONDS for who watches: 5 s together. One that lives may leave out a beat, or be late by 1.75 s.
#: How often an instance writes, and at most how often those who watch a room are told of a change.
BEAT_SECONDS = 1.5
#: The members of an instance that was silent for longer do not count.
SILENT_SECONDS = 3.25
#: Users of a room that an instance tells of, and that are shown of all instances together. Counts are always exact.
MAX_TOLD_USERS = 1000
MAX_SHOWN_USERS = 200

#: What the others told is not read again within.
FRESH_SECONDS = 0.25
#: While the database is away, what the others told last is shown for so long.
_STALE_SECONDS = 15.0


@implementer(IPresenceTable)
class NoOthers:
    """A single instance has nobody to tell."""

    async def beat(self) -> Collection[int] | None:
        """See :class:`IPresenceTable`."""
        return None

    async def tell(self, changed: Mapping[int, RoomPresence]) -> None:
        """See :class:`IPresenceTable`."""

    async def others(self) -> Mapping[int, RoomPresence]:
        """See :class:`IPresenceTable`."""
        return {}


@define
class _Room:
    members: int = 0
    users: Counter[Who] = Factory(Counter)

    def picture(self, limit: int) -> RoomPresence:
        named = sorted(self.users.items(), key=lambda item: (item[0].username, item[0].user_id))
        return RoomPresence(self.members, tuple(named[:limit]), len(named) > limit)


class Presence:
    """The members of all rooms. Runs on the reactor thread.

    :param encode: makes of a room's presence the bytes that those who watch it are given.
    """

    def __init__(
        self, *, clock: IReactorTime, table: IPresenceTable, encode: Callable[[int, RoomPresence], bytes]
    ) -> None:
        self._clock = clock
        self._table = table
        self._encode = encode
        self._rooms: dict[int, _Room] = {}
        self._changed: set[int] = set()
        self._others: Mapping[int, RoomPresence] = {}
        self._read_at = float("-inf")
        self._reads: SharedCall[None] = SharedCall()
        self._watchers: dict[int, dict[IMember, None]] = {}
        self._shown: dict[int, RoomPresence] = {}
        self.failed_beats = 0

    def joined(self, room: int, who: Who | None) -> None:
        """A connection has entered a room here."""
        state = self._rooms.setdefault(room, _Room())
        state.members += 1
        if who is not None:
            state.users[who] += 1
        self._changed.add(room)

    def left(self, room: int, who: Who | None) -> None:
        """A connection that had joined is gone."""
        state = self._rooms[room]
        state.members -= 1
        if who is not None:
            state.users[who] -= 1
            if not state.users[who]:
                del state.users[who]
        if not state.members:
            del self._rooms[room]
        self._changed.add(room)

    def watch(self, room: int, member: IMember) -> None:
        """With the next beat ``member`` is given the room's presence, and with later ones when it has changed."""
        self._watchers.setdefault(room, {})[member] = None
        self._shown.pop(room, None)

    def unwatch(self, room: int, member: IMember) -> None:
        """Nothing more for ``member``. Harmless if it did not watch."""
        watchers = self._watchers.get(room, {})
        watchers.pop(member, None)
        if not watchers:
            self._watchers.pop(room, None)
            self._shown.pop(room, None)

    async def room(self, room: int) -> RoomPresence:
        """A room's members on all instances; of others than this one as of some seconds ago."""
        await self._refresh()
        return self._together(room)

    async def members(self) -> Mapping[int, int]:
        """How many members each room with any has on all instances."""
        await self._refresh()
        here = {room: state.members for room, state in self._rooms.items()}
        there = {room: presence.members for room, presence in self._known_others().items()}
        return {room: here.get(room, 0) + there.get(room, 0) for room in sorted(here.keys() | there.keys())}

    async def beat(self) -> None:
        """Say that this instance lives, tell the others and those who watch. Call it every ``BEAT_SECONDS``.

        Does not fail because the database is away.
        """
        changed, self._changed = self._changed, set()
        try:
            known = await self._table.beat()
            if known is not None:
                # Also of what was forgotten there, or not told: a crash of the database empties the table.
                changed |= self._rooms.keys() ^ set(known)
                if changed:
                    await self._table.tell(self._pictures(changed))
                changed = set()
        except Unavailable:
            self.failed_beats += 1
        finally:
            self._changed |= changed
        if self._watchers:
            await self._refresh()
            self._tell()

    def _pictures(self, rooms: Iterable[int]) -> dict[int, RoomPresence]:
        nobody = _Room()
        return {room: self._rooms.get(room, nobody).picture(MAX_TOLD_USERS) for room in rooms}

    def _tell(self) -> None:
        # What is told may close who is told, and who is closed watches no more.
        for room, watchers in tuple(self._watchers.items()):
            presence = self._together(room)
            if not watchers or self._shown.get(room) == presence:
                continue
            self._shown[room] = presence
            block = self._encode(room, presence)
            for member in tuple(watchers):
                if member in watchers:
                    member.deliver(block)

    def _known_others(self) -> Mapping[int, RoomPresence]:
        return self._others if self._clock.seconds() - self._read_at < _STALE_SECONDS else {}

    def _together(self, room: int, limit: int = MAX_SHOWN_USERS) -> RoomPresence:
        here, there = self._rooms.get(room), self._known_others().get(room)
        if there is None:
            return here.picture(limit) if here else RoomPresence()
        both = _Room(there.members, Counter(dict(there.users)))
        if here is not None:
            both.members += here.members
            both.users += here.users
        picture = both.picture(limit)
        return RoomPresence(picture.members, picture.users, picture.truncated or there.truncated)

    async def _refresh(self) -> None:
        """Read what the others told, unless that was done just now; who asks meanwhile shares the answer."""
        if self._clock.seconds() - self._read_at < FRESH_SECONDS:
            return
        await self._reads.join(self._read_others)

    async def _read_others(self) -> None:
        try:
            self._others = await self._table.others()
            self._read_at = self._clock.seconds()
        except Unavailable:
            pass
