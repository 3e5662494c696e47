"""Analytics in the shapes of the server that ChatFlow is compatible with: ``/api/metrics/…``."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
from attrs import frozen

from chatflow.contracts.messages import MAX_USER_ID
from chatflow.edge.api import parse_time
from chatflow.edge.operations import Operation, Parameter, RequestRefused
from chatflow.errors import Refused
from chatflow.rooms.messages import iso_timestamp, parse_room

#: Any text may name a user, as it could there; here they are numbers from 1 on.
_NOBODY = 0
_MAX_USER_CHARACTERS = 64

_BAD_TIME = "Invalid timestamp format, use ISO-8601 (e.g., 2024-01-01T00:00:00Z)"


class MetricsError(msgspec.Struct, frozen=True):
    """Why there is no answer."""

    error: str


class RefreshError(msgspec.Struct, frozen=True):
    """Why the views were not refreshed; ``status`` is ``error``."""

    status: str
    message: str


class RoomMessage(msgspec.Struct, frozen=True):
    """Of a room."""

    message_id: str
    user_id: str
    username: str
    message_text: str
    message_type: str
    created_at: str


class UserMessage(msgspec.Struct, frozen=True):
    """Of a user."""

    message_id: str
    room_id: str
    message_text: str
    message_type: str
    created_at: str


class ActiveUsers(msgspec.Struct, frozen=True):
    """Who sent something in the window."""

    active_users: int


class UserRoom(msgspec.Struct, frozen=True):
    """A room in which a user has sent something."""

    room_id: str
    last_activity: str
    message_count: int


class _Timed(msgspec.Struct, frozen=True):
    executionTimeMs: int
    resultCount: int


class RoomMessages(_Timed, frozen=True):
    """The newest of a room in the window, at most 1,000."""

    sampleData: list[RoomMessage] | None


class UserHistory(_Timed, frozen=True):
    """Those of a user in the window."""

    sampleData: list[UserMessage] | None


class ActiveUsersQuery(_Timed, frozen=True):
    """How many users were active."""

    sampleData: ActiveUsers


class UserRoomsQuery(_Timed, frozen=True):
    """A user's rooms, whatever the window is."""

    sampleData: list[UserRoom]


class CoreQueries(msgspec.Struct, frozen=True):
    """The four queries that the system was designed for."""

    query1_room_messages: RoomMessages
    query2_user_history: UserHistory
    query3_active_users: ActiveUsersQuery
    query4_user_rooms: UserRoomsQuery


class Rate(msgspec.Struct, frozen=True):
    """Of the window; ``duration_seconds``: from its first to its last message."""

    total_messages: int
    duration_seconds: float | None
    avg_msgs_per_second: float | None
    peak_msgs_per_second: int | None


class TopUser(msgspec.Struct, frozen=True):
    """Who has sent the most."""

    user_id: str
    username: str
    total_messages: int
    rooms_participated: int


class TopRoom(msgspec.Struct, frozen=True):
    """Where the most was sent."""

    room_id: str
    total_messages: int
    unique_users: int


class Participation(msgspec.Struct, frozen=True):
    """What a user did, and where."""

    user_id: str
    username: str
    text_messages: int
    join_events: int
    leave_events: int
    rooms: list[str]


class ViewAge(msgspec.Struct, frozen=True):
    """How old a view is; null if it was never refreshed."""

    refreshed_at: str | None
    age_seconds: float | None


class Analytics(msgspec.Struct, frozen=True):
    """All but the rate comes from the views, of which ``views`` tells the age."""

    messages_per_second: Rate
    top_users: list[TopUser]
    top_rooms: list[TopRoom]
    user_participation: list[Participation]
    views: dict[str, ViewAge]


class Stats(msgspec.Struct, frozen=True):
    """Of everything stored so far."""

    total_messages: int
    total_users: int
    total_rooms: int
    active_user_rooms: int


class Period(msgspec.Struct, frozen=True):
    """The window, as it was given."""

    start_time: str
    end_time: str
    duration_seconds: int


class Everything(msgspec.Struct, frozen=True):
    """All of it."""

    test_period: Period
    core_queries: CoreQueries
    analytics: Analytics
    database_stats: Stats
    generated_at: str


class Minute(msgspec.Struct, frozen=True):
    """A minute in which there were messages."""

    minute: str
    messages: int
    texts: int
    joins: int
    leaves: int


class Throughput(msgspec.Struct, frozen=True):
    """Messages per minute, at most 1,440 minutes from the start on; ``truncated``: whether there are more."""

    minutes: list[Minute]
    truncated: bool


class Refreshed(msgspec.Struct, frozen=True):
    """What became of the request."""

    status: str
    message: str


@frozen
class _Moment:
    """A time as given, and as it is asked for."""

    text: str
    us: int

    @classmethod
    def parse(cls, text: str) -> _Moment:
        return cls(text, parse_time(text))

    @property
    def iso(self) -> str:
        return iso_timestamp(self.us)


class AnalyticsApi:
    """Handlers of the operations. Runs on the reactor thread.

    :param source: provides :class:`IAnalytics`.
    :param rooms: rooms are numbered from 1 to this.
    """

    def __init__(self, *, source: Any, rooms: int) -> None:
        self._source = source
        self._rooms = rooms

    async def core_queries(
        self, testStartTime: _Moment, testEndTime: _Moment, sampleUserId: int, sampleRoomId: int
    ) -> CoreQueries:
        """``GET /api/metrics/core-queries``"""
        start, end = _window(testStartTime, testEndTime)
        found = await _of_some_days(self._source.core_queries(start, end, sampleUserId, sampleRoomId))
        first, second, third, fourth = found.values()
        ((active,),) = third.sample
        return CoreQueries(
            RoomMessages(first.milliseconds, first.count, [RoomMessage(*row) for row in first.sample] or None),
            UserHistory(second.milliseconds, second.count, [UserMessage(*row) for row in second.sample] or None),
            ActiveUsersQuery(third.milliseconds, third.count, ActiveUsers(active)),
            UserRoomsQuery(fourth.milliseconds, fourth.count, [UserRoom(*row) for row in fourth.sample]),
        )

    async def analytics(self, testStartTime: _Moment, testEndTime: _Moment) -> Analytics:
        """``GET /api/metrics/analytics``"""
        found = await _of_some_days(self._source.analytics(*_window(testStartTime, testEndTime)))
        total, seconds, peak = found.rate
        return Analytics(
            Rate(total, seconds, total / seconds if seconds else None, peak),
            [TopUser(*row) for row in found.top_users],
            [TopRoom(*row) for row in found.top_rooms],
            [Participation(*row) for row in found.participation],
            {name: _age(*age) for name, age in found.views.items()},
        )

    async def stats(self) -> Stats:
        """``GET /api/metrics/stats``"""
        return Stats(*await self._source.stats())

    async def everything(
        self, testStartTime: _Moment, testEndTime: _Moment, sampleUserId: int, sampleRoomId: int
    ) -> Everything:
        """``GET /api/metrics/all``"""
        return Everything(
            Period(testStartTime.text, testEndTime.text, (testEndTime.us - testStartTime.us) // 1_000_000),
            await self.core_queries(testStartTime, testEndTime, sampleUserId, sampleRoomId),
            await self.analytics(testStartTime, testEndTime),
            await self.stats(),
            datetime.now(UTC).isoformat().replace("+00:00", "Z"),
        )

    async def throughput(self, testStartTime: _Moment, testEndTime: _Moment, roomId: int | None) -> Throughput:
        """``GET /api/metrics/throughput``"""
        rows, more = await self._source.throughput(*_window(testStartTime, testEndTime), roomId)
        return Throughput([Minute(*row) for row in rows], more)

    async def refresh(self) -> Refreshed:
        """``POST /api/metrics/refresh-views``"""
        age_seconds = await self._source.refresh()
        if age_seconds is None:
            return Refreshed("success", "Materialized views are being refreshed by another instance")
        if age_seconds:
            return Refreshed("success", f"Materialized views were refreshed {age_seconds:.1f} s ago, so not again now")
        return Refreshed("success", "Materialized views refreshed")

    def operations(self) -> Sequence[Operation]:
        """Those that read."""
        window = [
            _moment("testStartTime", "begin of the time that is looked at, included"),
            _moment("testEndTime", "its end, included, not before its begin"),
        ]
        sample = [self._room("sampleRoomId", default=1), *window, _user("sampleUserId")]
        return [
            _operation("all", "Core queries, analytics and stats together", Everything, self.everything, sample),
            _operation("core-queries", "The four core queries, timed", CoreQueries, self.core_queries, sample),
            _operation("analytics", "Rate of a window, top users and rooms", Analytics, self.analytics, window),
            _operation("stats", "What is stored", Stats, self.stats),
            _operation(
                "throughput", "Messages per minute", Throughput, self.throughput, [self._room("roomId"), *window]
            ),
        ]

    def refreshing(self) -> Sequence[Operation]:
        """The one that makes the views anew."""
        return [
            Operation(
                path="/api/metrics/refresh-views",
                summary="Refresh the views now",
                answer=Refreshed,
                handler=self.refresh,
                method="POST",
                strict=False,
                error=RefreshError,
                refusal=lambda refused: RefreshError("error", str(refused)),
            )
        ]

    def _room(self, name: str, **more: Any) -> Parameter:
        def parse(text: str) -> int:
            room = parse_room(text, self._rooms) if text else None
            if room is None:
                raise ValueError
            return room

        return Parameter(
            name=name,
            help="a room",
            parse=parse,
            allowed="a room",
            schema={"type": "integer", "minimum": 1, "maximum": self._rooms, **more},
            complaint=f"Invalid roomId, must be 1-{self._rooms}",
            **more,
        )


def _operation(name: str, summary: str, answer: Any, handler: Any, parameters: Sequence[Parameter] = ()) -> Operation:
    return Operation(
        path=f"/api/metrics/{name}",
        summary=summary,
        answer=answer,
        handler=handler,
        parameters=parameters,
        strict=False,
        error=MetricsError,
        refusal=lambda refused: MetricsError(str(refused)),
    )


def _moment(name: str, help: str) -> Parameter:
    return Parameter(
        name=name,
        help=help,
        parse=_Moment.parse,
        allowed="a time",
        schema={"type": "string", "format": "date-time"},
        required=True,
        complaint=_BAD_TIME,
    )


def _user(name: str) -> Parameter:
    def parse(text: str) -> int:
        if len(text) > _MAX_USER_CHARACTERS:
            raise ValueError
        digits = re.fullmatch("(?:user-?)?([0-9]+)", text)
        return int(digits[1]) if digits and int(digits[1]) <= MAX_USER_ID else _NOBODY

    return Parameter(
        name=name,
        help="a userId, also as user1 or user-1; of any other there are no messages",
        parse=parse,
        allowed=f"a userId of at most {_MAX_USER_CHARACTERS} characters",
        schema={"type": "string", "maxLength": _MAX_USER_CHARACTERS, "default": "1"},
        default=1,
    )


def _age(refreshed_at: str | None, seconds: float | None) -> ViewAge:
    return ViewAge(refreshed_at, None if seconds is None else round(seconds, 3))


async def _of_some_days(asked: Awaitable[Any]) -> Any:
    """What is found in a window, unless that holds too many days."""
    try:
        return await asked
    except Refused as refused:
        raise RequestRefused(400, "invalid_parameter", str(refused)) from None


def _window(start: _Moment, end: _Moment) -> tuple[str, str]:
    if end.us < start.us:
        raise RequestRefused(400, "invalid_parameter", "testEndTime must be after testStartTime")
    return start.iso, end.iso
