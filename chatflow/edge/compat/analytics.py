"""``/api/metrics/…``: what is found in all that was stored. Pure.

Ids are strings there; times are in milliseconds with ``+00:00``, but minutes and the time of the answer end in ``Z``.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec

from chatflow.contracts import analytics as found


class RoomMessage(msgspec.Struct, frozen=True):
    """A message as the query for one room samples it."""

    message_id: str
    user_id: str
    username: str
    message_text: str
    message_type: str
    created_at: str


class UserMessage(msgspec.Struct, frozen=True):
    """A message as the query for one user samples it."""

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


class RoomMessagesQuery(_Timed, frozen=True):
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

    query1_room_messages: RoomMessagesQuery
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
    """Totals over everything stored so far."""

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
    """The body of ``/api/metrics/all``."""

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


def core_queries(answer: found.CoreQueries) -> CoreQueries:
    """``/api/metrics/core-queries``; of the first two an empty sample is null, as with the original."""
    room, user, active, rooms = answer.room_messages, answer.user_messages, answer.active_users, answer.user_rooms
    return CoreQueries(
        RoomMessagesQuery(room.milliseconds, room.count, [_room_message(one) for one in room.sample] or None),
        UserHistory(user.milliseconds, user.count, [_user_message(one) for one in user.sample] or None),
        ActiveUsersQuery(active.milliseconds, active.count, ActiveUsers(active.sample)),
        UserRoomsQuery(rooms.milliseconds, rooms.count, [_user_room(one) for one in rooms.sample]),
    )


def analytics(answer: found.Analytics) -> Analytics:
    """``/api/metrics/analytics``"""
    rate = answer.rate
    return Analytics(
        Rate(rate.messages, rate.seconds, rate.messages / rate.seconds if rate.seconds else None, rate.peak),
        [TopUser(str(one.user_id), one.username, one.messages, one.rooms) for one in answer.top_users],
        [TopRoom(str(one.room), one.messages, one.users) for one in answer.top_rooms],
        [_participation(one) for one in answer.participation],
        {name: _age(age) for name, age in answer.views.items()},
    )


def stats(answer: found.Totals) -> Stats:
    """``/api/metrics/stats``"""
    return Stats(answer.messages, answer.users, answer.rooms, answer.pairs)


def throughput(answer: found.Throughput) -> Throughput:
    """``/api/metrics/throughput``, which the original has not."""
    minutes = [Minute(_to_second(one.minute), one.messages, one.texts, one.joins, one.leaves) for one in answer.minutes]
    return Throughput(minutes, answer.truncated)


def generated_at(epoch_seconds: float) -> str:
    """The time of an answer in ISO-8601, UTC."""
    return datetime.fromtimestamp(epoch_seconds, UTC).isoformat().replace("+00:00", "Z")


def _room_message(one: found.StoredText) -> RoomMessage:
    created_at = _to_millisecond(one.created_at)
    return RoomMessage(one.message_id, str(one.user_id), one.username, one.text, one.message_type, created_at)


def _user_message(one: found.StoredText) -> UserMessage:
    return UserMessage(one.message_id, str(one.room), one.text, one.message_type, _to_millisecond(one.created_at))


def _user_room(one: found.RoomActivity) -> UserRoom:
    return UserRoom(str(one.room), _to_millisecond(one.last_at), one.messages)


def _participation(one: found.Participation) -> Participation:
    return Participation(str(one.user_id), one.username, one.texts, one.joins, one.leaves, _texts(one.rooms))


def _texts(numbers: Sequence[int]) -> list[str]:
    return [str(number) for number in numbers]


def _age(age: found.ViewAge) -> ViewAge:
    refreshed_at = None if age.refreshed_at is None else _to_millisecond(age.refreshed_at)
    return ViewAge(refreshed_at, None if age.seconds is None else round(age.seconds, 3))


def _to_millisecond(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds")


def _to_second(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
