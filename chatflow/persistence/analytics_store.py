"""Analytics for the HTTP API: bounded in time, and asked once for all who ask the same at the same moment."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import psycopg2.errors
from twisted.internet.defer import Deferred

from chatflow.errors import Unavailable
from chatflow.persistence.analytics import (
    Analytics,
    CoreQuery,
    Row,
    Window,
    analytics_in_thread,
    core_queries_in_thread,
    stats_in_thread,
    throughput_in_thread,
)
from chatflow.persistence.archive import limited_in_thread
from chatflow.persistence.database import Database

_STATEMENT_SECONDS = 20


class AnalyticsStore:
    """Runs on the reactor thread; each answer is one short transaction in the readers' pool.

    :param refresh: see :meth:`chatflow.persistence.refresh.Refresher.now`.
    """

    def __init__(self, database: Database, refresh: Callable[[], Awaitable[float | None]]) -> None:
        self._database = database
        self._sharing: dict[Row, list[Deferred[Any]]] = {}
        self.refresh = refresh

    async def core_queries(self, start: str, end: str, user_id: int, room: int) -> dict[str, CoreQuery]:
        """By name: milliseconds, count and sample of each."""
        found: dict[str, CoreQuery] = await self._read(core_queries_in_thread, Window(start, end), user_id, room)
        return found

    async def analytics(self, start: str, end: str) -> Analytics:
        """Rate in the window, and what the views hold, with their ages."""
        found: Analytics = await self._read(analytics_in_thread, Window(start, end))
        return found

    async def stats(self) -> Row:
        """Messages, users, rooms, pairs of user and room."""
        found: Row = await self._read(stats_in_thread)
        return found

    async def throughput(self, start: str, end: str, room: int | None) -> Sequence[Row]:
        """Minutes with messages."""
        found: Sequence[Row] = await self._read(throughput_in_thread, Window(start, end), room)
        return found

    async def _read(self, read_in_thread: Callable[..., Any], *args: Any) -> Any:
        key = (read_in_thread, *args)
        if key in self._sharing:
            shared: Deferred[Any] = Deferred()
            self._sharing[key].append(shared)
            return await shared
        self._sharing[key] = []
        try:
            result = await self._database.run_once(
                "read analytics", limited_in_thread, _STATEMENT_SECONDS, read_in_thread, *args
            )
        except BaseException as error:
            if isinstance(error, psycopg2.errors.QueryCanceled):
                error = Unavailable("read analytics: it took too long")
            for waiting in self._sharing.pop(key):
                waiting.errback(error)
            raise error from None
        for waiting in self._sharing.pop(key):
            waiting.callback(result)
        return result
