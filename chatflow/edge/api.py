"""The HTTP API: history, rooms and who is there. Each operation is in the table at the end."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
from attrs import evolve

from chatflow.contracts.archive import PageCursor, RoomHead
from chatflow.contracts.identity import Identity
from chatflow.contracts.messages import MAX_USER_ID
from chatflow.edge import v2
from chatflow.edge.connect_parameters import MAX_SEQ
from chatflow.edge.operations import Operation, Parameter, integer
from chatflow.rooms.messages import Broadcast, broadcast, iso_timestamp
from chatflow.rooms.presence import Presence

MAX_PAGE = 1000
DEFAULT_PAGE = 100


class RoomMessages(msgspec.Struct, frozen=True):
    """A page of a room's messages, ascending. ``next``: of newer ones; ``previous``: of older ones."""

    roomId: str
    messages: list[Broadcast]
    next: str | None
    previous: str | None


class UserMessages(msgspec.Struct, frozen=True):
    """A page of a user's messages, newest first. ``next``: of older ones; ``previous``: of newer ones."""

    userId: str
    messages: list[Broadcast]
    next: str | None
    previous: str | None


class UserRoomAnswer(msgspec.Struct, frozen=True):
    """What a user did in a room."""

    roomId: str
    messages: int
    texts: int
    joins: int
    leaves: int
    firstActivity: str
    lastActivity: str


class UserRooms(msgspec.Struct, frozen=True):
    """The rooms in which a user has sent something."""

    userId: str
    rooms: list[UserRoomAnswer]


class RoomAnswer(msgspec.Struct, frozen=True):
    """``head``: the seq of its newest message; ``members``: connections on all instances."""

    roomId: str
    head: int
    members: int
    lastActivity: str | None


class Rooms(msgspec.Struct, frozen=True):
    """A page of rooms with their heads, by number."""

    rooms: list[RoomAnswer]
    next: str | None


class RoomPresenceAnswer(msgspec.Struct, frozen=True):
    """``members``: connections on all instances; ``users``: those of them that have said who they are."""

    roomId: str
    members: int
    users: list[v2.User]
    truncated: bool


class Api:
    """Handlers of the operations. Runs on the reactor thread.

    :param rooms: rooms are numbered from 1 to this.
    """

    def __init__(self, *, rooms: int, archive: Any, presence: Presence) -> None:
        self._rooms = rooms
        self._archive = archive
        self._presence = presence

    async def room_messages(self, room: int, after: int | None, before: int | None, limit: int) -> RoomMessages:
        """``GET /api/rooms/{room}/messages``"""
        found = await self._archive.room_messages(room, after, before, limit + 1)
        more = len(found) > limit
        path = f"/api/rooms/{room}/messages?limit={limit}"
        if after is not None:
            found = found[:limit]
            first, last = (found[0].seq, found[-1].seq) if found else (after + 1, after)
            following, preceding = more, bool(await self._archive.room_messages(room, None, first, 1))
        else:
            found = found[-limit:]
            first, last = (found[0].seq, found[-1].seq) if found else (before or 1, (before or 1) - 1)
            following, preceding = before is not None, more
        bound = f"&before={before}" if after is not None and before is not None else ""
        return RoomMessages(
            str(room),
            [broadcast(stored) for stored in found],
            f"{path}&after={last}{bound}" if following else None,
            f"{path}&before={first}" if preceding else None,
        )

    async def user_messages(
        self, id: int, after: PageCursor | None, before: PageCursor | None, limit: int, **times: int | None
    ) -> UserMessages:
        """``GET /api/users/{id}/messages``"""
        from_us, to_us = times["from"], times["to"]
        found = await self._archive.user_messages(id, after, before, from_us, to_us, limit + 1)
        more = len(found) > limit
        found = found[-limit:] if after is not None else found[:limit]
        path = f"/api/users/{id}/messages?limit={limit}"
        path += f"&from={iso_timestamp(from_us)}" if from_us is not None else ""
        path += f"&to={iso_timestamp(to_us)}" if to_us is not None else ""
        older = newer = None
        if after is not None:
            # What is older than an empty page begins with the message at the place that it is behind.
            oldest = PageCursor.of(found[-1]) if found else evolve(after, seq=after.seq + 1)
            if await self._archive.user_messages(id, None, oldest, from_us, to_us, 1):
                older = f"{path}&before={oldest}"
            if more:
                newer = f"{path}&after={PageCursor.of(found[0])}" + (f"&before={before}" if before is not None else "")
        else:
            if more:
                older = f"{path}&before={PageCursor.of(found[-1])}"
            if before is not None:
                newest = PageCursor.of(found[0]) if found else evolve(before, seq=max(before.seq - 1, 0))
                newer = f"{path}&after={newest}"
        return UserMessages(str(id), [broadcast(stored) for stored in found], older, newer)

    async def user_rooms(self, id: int) -> UserRooms:
        """``GET /api/users/{id}/rooms``"""
        return UserRooms(
            str(id),
            [
                UserRoomAnswer(
                    str(one.room),
                    one.messages,
                    one.texts,
                    one.joins,
                    one.leaves,
                    iso_timestamp(one.first_us),
                    iso_timestamp(one.last_us),
                )
                for one in await self._archive.user_rooms(id)
            ],
        )

    async def rooms(self, after: int, limit: int) -> Rooms:
        """``GET /api/rooms``"""
        last = min(after + limit, self._rooms)
        heads = {head.room: head for head in await self._archive.room_heads(after, limit)}
        members = await self._presence.members()
        rooms = [_room(room, heads.get(room, RoomHead(room, 0, None)), members) for room in range(after + 1, last + 1)]
        return Rooms(rooms, f"/api/rooms?limit={limit}&after={last}" if last < self._rooms else None)

    async def presence(self, room: int) -> RoomPresenceAnswer:
        """``GET /api/rooms/{room}/presence``"""
        presence = await self._presence.room(room)
        return RoomPresenceAnswer(str(room), presence.members, v2.users(presence), presence.truncated)

    def operations(self) -> Sequence[Operation]:
        """The operations of history, rooms and presence, for the router and for OpenAPI."""
        room = integer("room", 1, self._rooms, "the room", in_path=True, required=True, status=404, code="no_such_room")
        user = integer("id", 1, MAX_USER_ID, "the userId", in_path=True, required=True, status=404, code="no_such_user")
        limit = integer("limit", 1, MAX_PAGE, "how many at most", default=DEFAULT_PAGE)
        return [
            Operation(
                path="/api/rooms",
                summary="The rooms, with head, members and last activity",
                answer=Rooms,
                handler=self.rooms,
                tells_what_is_said=True,
                may=lambda identity, arguments: True,
                seen_by=_readable,
                parameters=[integer("after", 0, MAX_SEQ, "only rooms behind this one", default=0), limit],
                links=_links,
            ),
            Operation(
                path="/api/rooms/{room}/messages",
                summary="A room's messages by seq, ascending; without after and before the newest ones",
                answer=RoomMessages,
                handler=self.room_messages,
                tells_what_is_said=True,
                may=_may_read,
                parameters=[
                    room,
                    integer("after", 0, MAX_SEQ, "only messages with a larger seq"),
                    integer("before", 0, MAX_SEQ, "only messages with a smaller seq"),
                    limit,
                ],
                links=_links,
            ),
            Operation(
                path="/api/rooms/{room}/presence",
                summary="Who is in a room, on all instances, as of some seconds ago",
                answer=RoomPresenceAnswer,
                handler=self.presence,
                tells_what_is_said=True,
                may=_may_read,
                parameters=[room],
            ),
            Operation(
                path="/api/users/{id}/messages",
                summary="A user's messages in all rooms, newest first",
                answer=UserMessages,
                handler=self.user_messages,
                tells_what_is_said=True,
                may=_is_own,
                parameters=[
                    user,
                    _place("after", "only messages newer than this place, nearest to it; from a link"),
                    _place("before", "only messages older than this place; from a link"),
                    time_parameter("from", "not before this time"),
                    time_parameter("to", "before this time"),
                    limit,
                ],
                links=_links,
            ),
            Operation(
                path="/api/users/{id}/rooms",
                summary="The rooms in which a user has sent something",
                answer=UserRooms,
                handler=self.user_rooms,
                tells_what_is_said=True,
                may=_is_own,
                parameters=[user],
            ),
        ]


def _may_read(identity: Identity, arguments: Mapping[str, Any]) -> bool:
    return identity.may_read(arguments["room"])


def _is_own(identity: Identity, arguments: Mapping[str, Any]) -> bool:
    """Whether somebody asks for their own history. Rooms that they may read no more are part of it."""
    return identity.user_id in (None, arguments["id"])


def _readable(identity: Identity, rooms: Rooms) -> Rooms:
    return Rooms([room for room in rooms.rooms if identity.may_read(int(room.roomId))], rooms.next)


def _room(room: int, head: RoomHead, members: Mapping[int, int]) -> RoomAnswer:
    last = None if head.last_us is None else iso_timestamp(head.last_us)
    return RoomAnswer(str(room), head.head, members.get(room, 0), last)


def _links(answer: Any) -> Mapping[str, str | None]:
    """RFC 8288."""
    return {"next": answer.next, "prev": getattr(answer, "previous", None)}


def _place(name: str, help: str) -> Parameter:
    return Parameter(
        name=name,
        help=help,
        parse=PageCursor.parse,
        allowed="a place as links have it, such as 1764153000123456-7-42",
        schema={"type": "string", "pattern": PageCursor.PATTERN},
    )


def time_parameter(name: str, help: str, **more: Any) -> Parameter:
    """A moment in ISO-8601; its value is in microseconds since 1970."""
    return Parameter(
        name=name,
        help=help,
        parse=parse_time,
        allowed="an ISO-8601 time with a zone, such as 2026-11-23T10:30:00Z",
        schema={"type": "string", "format": "date-time"},
        **more,
    )


_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?(Z|[+-][0-9]{2}:[0-9]{2})")
_LATEST_US = 253_402_300_799_999_999


def parse_time(text: str) -> int:
    """Microseconds since 1970 of an RFC 3339 date-time; what is before counts as 1970.

    :raises ValueError: the text is none.
    """
    text = text.upper()
    if not _TIME.fullmatch(text):
        raise ValueError
    # RFC 3339 5.6 knows leap seconds, datetime does not; digits beyond the microsecond are lost.
    text = re.sub(r"(:[0-9]{2}):60", r"\1:59", text)
    text = re.sub(r"(\.[0-9]{6})[0-9]+", r"\1", text)
    moment = datetime.fromisoformat(text)
    try:
        seconds = (moment - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds()
    except OverflowError:
        seconds = 0.0 if moment.year < 1970 else _LATEST_US / 1e6
    return min(max(0, round(seconds * 1e6)), _LATEST_US)
