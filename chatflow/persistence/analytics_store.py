"""Analytics for the HTTP API, bounded in time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from zope.interface import implementer

from chatflow.contracts.analytics import Analytics, CoreQueries, IAnalytics, Throughput, Totals
from chatflow.persistence.analytics import (
    Window,
    analytics_in_thread,
    core_queries_in_thread,
    stats_in_thread,
    throughput_in_thread,
)
from chatflow.persistence.archive import limited_in_thread
from chatflow.persistence.database import Database

_STATEMENT_SECONDS = 20


@implementer(IAnalytics)
class AnalyticsStore:
    """Runs on the reactor thread; each answer is one short transaction in the readers' pool.

    :param refresh: see :meth:`chatflow.persistence.refresh.Refresher.now`.
    :param statement_seconds: PostgreSQL ends what takes longer.
    """

    def __init__(
        self,
        database: Database,
        refresh: Callable[[], Awaitable[float | None]],
        *,
        statement_seconds: float = _STATEMENT_SECONDS,
    ) -> None:
        self._database = database
        self._refresh = refresh
        self._statement_seconds = statement_seconds

    async def refresh(self) -> float | None:
        """Refresh the views; see :class:`IAnalytics`."""
        return await self._refresh()

    async def core_queries(self, start: str, end: str, user_id: int, room: int) -> CoreQueries:
        """See :class:`IAnalytics`."""
        found: CoreQueries = await self._read(core_queries_in_thread, Window(start, end), user_id, room)
        return found

    async def analytics(self, start: str, end: str) -> Analytics:
        """See :class:`IAnalytics`."""
        found: Analytics = await self._read(analytics_in_thread, Window(start, end))
        return found

    async def stats(self) -> Totals:
        """See :class:`IAnalytics`."""
        found: Totals = await self._read(stats_in_thread)
        return found

    async def throughput(self, start: str, end: str, room: int | None) -> Throughput:
        """See :class:`IAnalytics`."""
        found: Throughput = await self._read(throughput_in_thread, Window(start, end), room)
        return found

    async def _read(self, read_in_thread: Callable[..., Any], *args: Any) -> Any:
        return await self._database.run_once(
            "read analytics", limited_in_thread, self._statement_seconds, read_in_thread, *args
        )
