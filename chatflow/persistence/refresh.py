"""The materialized views, made anew by one instance at a time, on a connection of its own.

``REFRESH … CONCURRENTLY`` lets readers read on. It cannot run in a transaction with anything else, and takes seconds
when there are many users: so neither the writer's nor the readers' connections do it.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from contextlib import closing

import psycopg2
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from chatflow.errors import Unavailable
from chatflow.persistence.database import CONNECT_OPTIONS

VIEWS = ("mv_top_users", "mv_top_rooms", "mv_hourly_stats", "mv_user_participation")

#: Whoever holds it refreshes.
ADVISORY_LOCK = 0x43465256
_STATEMENT_SECONDS = 300

_YOUNGEST = """
SELECT count(*) FROM view_refreshes WHERE view_name = ANY(%s) AND refreshed_at > now() - make_interval(secs => %s)
"""

_REFRESHED = """
INSERT INTO view_refreshes (view_name, refreshed_at, seconds, server_id) VALUES (%s, %s, %s, %s)
ON CONFLICT (view_name) DO UPDATE SET
       refreshed_at = excluded.refreshed_at, seconds = excluded.seconds, server_id = excluded.server_id
"""


def refresh_in_thread(url: str, server_id: str, unless_within_seconds: float = 0.0) -> bool:
    """Refresh all views; False if another instance does so now, or did within so many seconds. Blocks.

    :raises Unavailable: the database does not answer, or it took too long.
    """
    try:
        with closing(psycopg2.connect(url, application_name=f"chatflow-views {server_id}", **CONNECT_OPTIONS)) as link:
            link.autocommit = True
            with link.cursor() as cursor:
                cursor.execute("SELECT set_config('statement_timeout', %s, false)", (f"{_STATEMENT_SECONDS}s",))
                # Held until the connection ends, however that happens.
                cursor.execute("SELECT pg_try_advisory_lock(%s)", (ADVISORY_LOCK,))
                if not cursor.fetchone()[0]:
                    return False
                cursor.execute(_YOUNGEST, (list(VIEWS), unless_within_seconds))
                if unless_within_seconds and cursor.fetchone()[0] == len(VIEWS):
                    return False
                for view in VIEWS:
                    cursor.execute("SELECT clock_timestamp()")
                    (as_of,) = cursor.fetchone()
                    began = time.perf_counter()
                    cursor.execute(f"REFRESH MATERIALIZED VIEW CONCURRENTLY {view}")
                    cursor.execute(_REFRESHED, (view, as_of, time.perf_counter() - began, server_id))
                return True
    except psycopg2.Error as error:
        raise Unavailable(f"refresh the views: {' '.join(str(error).split())}") from error


class Refresher:
    """One refresh at a time on this instance; who asks during one shares it. Runs on the reactor thread.

    :param refresh: :func:`refresh_in_thread`, run in a thread, with the seconds within which none is needed.
    """

    _log = Logger()

    def __init__(self, refresh: Callable[[float], Awaitable[bool]], interval_seconds: float) -> None:
        self._refresh = refresh
        self._interval_seconds = interval_seconds
        self._sharing: list[Deferred[bool]] | None = None

    async def on_timer(self) -> None:
        """Refresh unless somebody did within the interval. Does not fail."""
        try:
            # A little less, or it would often be found a moment too young, and be made every other time only.
            await self._once(0.9 * self._interval_seconds)
        except Unavailable as error:
            self._log.warn("the views stay as they are: {reason}", reason=str(error))

    async def now(self) -> bool:
        """Refresh; False if another instance is doing so.

        :raises Unavailable: the database does not answer.
        """
        return await self._once(0.0)

    async def _once(self, unless_within_seconds: float) -> bool:
        if self._sharing is not None:
            shared: Deferred[bool] = Deferred()
            self._sharing.append(shared)
            return await shared
        self._sharing = []
        try:
            done = await self._refresh(unless_within_seconds)
        except BaseException as error:
            waiting, self._sharing = self._sharing, None
            for deferred in waiting:
                deferred.errback(Unavailable(str(error)))
            raise
        waiting, self._sharing = self._sharing, None
        for deferred in waiting:
            deferred.callback(done)
        return done
