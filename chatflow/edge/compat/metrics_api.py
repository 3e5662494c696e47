"""The operations below ``/api/metrics``: what they take, and how they refuse.

Their answers are those of :mod:`chatflow.edge.compat.analytics`.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any

import msgspec
from attrs import evolve, frozen

from chatflow.contracts.analytics import IAnalytics
from chatflow.contracts.identity import Identity
from chatflow.contracts.messages import MAX_USER_ID
from chatflow.edge.api import parse_time
from chatflow.edge.compat import analytics as shapes
from chatflow.edge.compat.analytics import Analytics, CoreQueries, Everything, Period, Stats, Throughput, generated_at
from chatflow.edge.operations import Operation, Parameter
from chatflow.edge.refusals import RequestRefused
from chatflow.errors import Refused
from chatflow.lifecycle.clocks import WallTime
from chatflow.rooms.messages import iso_timestamp, parse_room

#: Any text may name a user, as it could there; here they are numbers from 1 on.
_NOBODY = 0
_MAX_USER_CHARACTERS = 64

_BAD_TIME = "Invalid timestamp format, use ISO-8601 (e.g., 2024-01-01T00:00:00Z)"


class MetricsError(msgspec.Struct, frozen=True):
    """The reference's body for a refused or failed request."""

    error: str


class RefreshError(msgspec.Struct, frozen=True):
    """Why the views were not refreshed; ``status`` is ``error``."""

    status: str
    message: str


class Refreshed(msgspec.Struct, frozen=True):
    """The reference's body for a refresh that was asked for."""

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

    :param now: for the stamp of an answer.
    :param rooms: rooms are numbered from 1 to this.
    """

    def __init__(self, *, source: IAnalytics, now: WallTime, rooms: int) -> None:
        self._source = source
        self._now = now
        self._rooms = rooms

    async def core_queries(
        self, testStartTime: _Moment, testEndTime: _Moment, sampleUserId: int, sampleRoomId: int
    ) -> CoreQueries:
        """``GET /api/metrics/core-queries``"""
        start, end = _window(testStartTime, testEndTime)
        return shapes.core_queries(
            await _of_some_days(self._source.core_queries(start, end, sampleUserId, sampleRoomId))
        )

    async def analytics(self, testStartTime: _Moment, testEndTime: _Moment) -> Analytics:
        """``GET /api/metrics/analytics``"""
        return shapes.analytics(await _of_some_days(self._source.analytics(*_window(testStartTime, testEndTime))))

    async def stats(self) -> Stats:
        """``GET /api/metrics/stats``"""
        return shapes.stats(await self._source.stats())

    async def everything(
        self, testStartTime: _Moment, testEndTime: _Moment, sampleUserId: int, sampleRoomId: int
    ) -> Everything:
        """``GET /api/metrics/all``"""
        return Everything(
            Period(testStartTime.text, testEndTime.text, (testEndTime.us - testStartTime.us) // 1_000_000),
            await self.core_queries(testStartTime, testEndTime, sampleUserId, sampleRoomId),
            await self.analytics(testStartTime, testEndTime),
            await self.stats(),
            generated_at(self._now()),
        )

    async def throughput(self, testStartTime: _Moment, testEndTime: _Moment, roomId: int | None) -> Throughput:
        """``GET /api/metrics/throughput``"""
        return shapes.throughput(await self._source.throughput(*_window(testStartTime, testEndTime), roomId))

    async def refresh(self) -> Refreshed:
        """``POST /api/metrics/refresh-views``"""
        age_seconds = await self._source.refresh()
        if age_seconds is None:
            return Refreshed("success", "Materialized views are being refreshed by another instance")
        if age_seconds:
            return Refreshed("success", f"Materialized views were refreshed {age_seconds:.1f} s ago, so not again now")
        return Refreshed("success", "Materialized views refreshed")

    def operations(self) -> Sequence[Operation]:
        """The operations that only read, for the router and for OpenAPI."""
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
            evolve(
                _operation(
                    "throughput", "Messages per minute", Throughput, self.throughput, [self._room("roomId"), *window]
                ),
                may=_may_see_throughput,
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


def _may_see_throughput(identity: Identity, arguments: Mapping[str, Any]) -> bool:
    """Operators see all; a user that of a room that it may read, which tells nothing that its messages do not."""
    room = arguments["roomId"]
    return identity.is_operator or (identity.user_id is not None and room is not None and identity.may_read(room))


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
