"""What is asked of all that was stored, and what is found."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from datetime import datetime
from typing import Generic, TypeVar

from attrs import frozen
from zope.interface import Interface

T = TypeVar("T")


@frozen
class StoredText:
    """A stored message, as far as these questions go."""

    message_id: str
    room: int
    user_id: int
    username: str
    text: str
    message_type: str
    created_at: datetime


@frozen
class RoomActivity:
    """What one user did in a room, in all time."""

    room: int
    last_at: datetime
    messages: int


@frozen
class Timed(Generic[T]):
    """A query's answer, with what it took.

    :ivar count: of the rows that it found. :ivar sample: the answer, or the first rows of it.
    """

    milliseconds: int
    count: int
    sample: T


@frozen
class CoreQueries:
    """The four that the system was designed for.

    :ivar room_messages: of a room in a window, newest first, at most 1,000 of them.
    :ivar user_messages: of a user in a window, newest first.
    :ivar active_users: how many users sent something in a window.
    :ivar user_rooms: where a user has sent something, the latest first.
    """

    room_messages: Timed[Sequence[StoredText]]
    user_messages: Timed[Sequence[StoredText]]
    active_users: Timed[int]
    user_rooms: Timed[Sequence[RoomActivity]]


@frozen
class Rate:
    """Of a window.

    :ivar seconds: from its first message to its last one; None without any.
    :ivar peak: most messages within one second; None likewise.
    """

    messages: int
    seconds: float | None
    peak: int | None


@frozen
class TopUser:
    """Who has sent the most, over how many rooms."""

    user_id: int
    username: str
    messages: int
    rooms: int


@frozen
class TopRoom:
    """Where the most was sent, by how many users."""

    room: int
    messages: int
    users: int


@frozen
class Participation:
    """What a user did by kind of message, and where."""

    user_id: int
    username: str
    texts: int
    joins: int
    leaves: int
    rooms: Sequence[int]


@frozen
class ViewAge:
    """When a view was refreshed, and how many seconds ago; both None if it never was."""

    refreshed_at: datetime | None = None
    seconds: float | None = None


@frozen
class Analytics:
    """Of a window only the rate; all else is what the views hold, of which ``views`` tells the age by name."""

    rate: Rate
    top_users: Sequence[TopUser]
    top_rooms: Sequence[TopRoom]
    participation: Sequence[Participation]
    views: Mapping[str, ViewAge]


@frozen
class Totals:
    """Of everything stored so far.

    :ivar rooms: with messages. :ivar pairs: of a user and a room in which that user has sent something.
    """

    messages: int
    users: int
    rooms: int
    pairs: int


@frozen
class MinuteCount:
    """A minute in which there were messages."""

    minute: datetime
    messages: int
    texts: int
    joins: int
    leaves: int


@frozen
class Throughput:
    """Messages per minute. :ivar truncated: whether there are more minutes than these."""

    minutes: Sequence[MinuteCount]
    truncated: bool


class IAnalytics(Interface):
    """The questions, with a window as two times in ISO-8601, both included.

    Each fails with :class:`chatflow.errors.Unavailable`, and those with a window with
    :class:`chatflow.errors.Refused` if it holds more days than can be asked for at once.
    """

    def core_queries(start: str, end: str, user_id: int, room: int) -> Awaitable[CoreQueries]:
        """The four core queries of the reference, each with its duration in milliseconds."""

    def analytics(start: str, end: str) -> Awaitable[Analytics]:
        """Rate in the window, and what the views hold, with their ages."""

    def stats() -> Awaitable[Totals]:
        """Totals of messages, users, rooms, and pairs of user and room."""

    def throughput(start: str, end: str, room: int | None) -> Awaitable[Throughput]:
        """Minutes with messages, of one room or of all."""

    def refresh() -> Awaitable[float | None]:
        """Refresh the views: how many seconds ago that was done, 0 for now; None if another instance does so now."""
