"""What is asked of all that was stored."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Any

from zope.interface import Interface


class IAnalytics(Interface):
    """The questions, with times in ISO-8601. Each fails with :class:`chatflow.errors.Unavailable`."""

    def core_queries(start: str, end: str, user_id: int, room: int) -> Awaitable[Any]:
        """By name: milliseconds, count and sample of each."""

    def analytics(start: str, end: str) -> Awaitable[Any]:
        """Rate in the window, and what the views hold, with their ages."""

    def stats() -> Awaitable[Sequence[int]]:
        """Messages, users, rooms, pairs of user and room."""

    def throughput(start: str, end: str, room: int | None) -> Awaitable[tuple[Sequence[Sequence[Any]], bool]]:
        """Minutes with messages, and whether there are more than these."""

    def refresh() -> Awaitable[float | None]:
        """Refresh the views: how many seconds ago that was done, 0 for now; None if another instance does so now."""
