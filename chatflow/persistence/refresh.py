"""The materialized views, made anew by one instance at a time, on a connection of its own.

``REFRESH … CONCURRENTLY`` lets readers read on, but takes seconds when there are many users: so neither the writer's
nor the readers' connections do it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from functools import partial

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger

from chatflow.errors import Unavailable
from chatflow.lifecycle import SharedCall
from chatflow.persistence.driver import Cursor, only_row
from chatflow.persistence.failures import database_errors
from chatflow.persistence.sessions import SessionLimits, connect, set_up_in_thread

VIEWS = ("mv_top_users", "mv_top_rooms", "mv_hourly_stats", "mv_user_participation")

#: Whoever holds it refreshes.
ADVISORY_LOCK = 0x43465256
_LIMITS = SessionLimits(300, 60, 60)
#: Anybody may ask for a refresh, and it costs the database seconds when there are many users.
MIN_AGE_SECONDS = 5.0
_QUICK_SECONDS = 0.25

#: Two sums that grow with everything that is stored or dropped, so nothing was while they are the same.
WHAT_IS_HELD = "SELECT coalesce(sum(first_seq), 0)::bigint, coalesce(sum(last_seq), 0)::bigint FROM rooms"

#: Nor is a refresh begun before so many times its last duration has passed: what users there are, anybody can make up.
_TIMES_ITS_DURATION = 20

_AGE = """
SELECT extract(epoch FROM now() - min(refreshed_at))::float8, sum(seconds)::float8
FROM view_refreshes WHERE view_name = ANY(%s)
HAVING count(*) = %s
"""

_REFRESHED = """
INSERT INTO view_refreshes (view_name, refreshed_at, first_seqs, last_seqs, seconds, server_id)
VALUES (%s, %s, %s, %s, %s, %s)
ON CONFLICT (view_name) DO UPDATE SET
       refreshed_at = excluded.refreshed_at, first_seqs = excluded.first_seqs, last_seqs = excluded.last_seqs,
       seconds = excluded.seconds, server_id = excluded.server_id
"""


def refresh_in_thread(url: str, server_id: str, unless_within_seconds: float = 0.0) -> float | None:
    """Refresh all views. Blocks.

    :param unless_within_seconds: not if all of them are younger, or than 20 times what the last refresh took.
    :returns: how many seconds ago they were refreshed, 0 for now; None if another instance does so now.
    :raises Unavailable: the database does not answer, or it took too long.
    """
    with database_errors("refresh the views"):
        with closing(connect(url, f"chatflow-views {server_id}")) as connection:
            for view in VIEWS:
                # One transaction each, so that none holds back vacuum for longer than it must. The lock is the
                # transaction's: a pooler may give the next one another session.
                with connection, connection.cursor() as cursor:
                    set_up_in_thread(cursor, _LIMITS)
                    cursor.execute("SELECT pg_try_advisory_xact_lock(%s)", (ADVISORY_LOCK,))
                    if not only_row(cursor)[0]:
                        return None
                    if view == VIEWS[0] and (age_seconds := _age_in_thread(cursor, unless_within_seconds)) is not None:
                        return age_seconds
                    _refresh_view_in_thread(cursor, view, server_id)
        return 0.0


def _age_in_thread(cursor: Cursor, unless_within_seconds: float) -> float | None:
    """The age of the oldest view in seconds, if they are young enough."""
    cursor.execute(_AGE, (list(VIEWS), len(VIEWS)))
    for age_seconds, took_seconds in cursor.fetchall():
        # Quick ones are not held up: what somebody asks for is there.
        least_seconds = _TIMES_ITS_DURATION * took_seconds if took_seconds > _QUICK_SECONDS else 0.0
        if age_seconds < max(unless_within_seconds, least_seconds):
            return max(0.001, float(age_seconds))  # 0 is now
    return None


def _refresh_view_in_thread(cursor: Cursor, view: str, server_id: str) -> None:
    # Before the refresh: what comes while it is made may be in the view or not.
    cursor.execute(f"SELECT clock_timestamp(), held.* FROM ({WHAT_IS_HELD}) AS held")
    (as_of,) = cursor.fetchall()
    # On, PostgreSQL would quote the name of its own temporary table wrongly.
    cursor.execute("SET LOCAL quote_all_identifiers = off")
    began = time.perf_counter()
    cursor.execute(f"REFRESH MATERIALIZED VIEW CONCURRENTLY {view}")
    cursor.execute(_REFRESHED, (view, *as_of, time.perf_counter() - began, server_id))


class Refresher:
    """One refresh at a time on this instance. Runs on the reactor thread.

    Who asks during one shares the next: the one under way may lack what was stored before it was asked for.

    :param refresh: :func:`refresh_in_thread`, run in a thread, with the seconds within which none is needed.
    :param seconds: a monotonic clock.
    """

    _log = Logger()

    def __init__(
        self,
        refresh: Callable[[float], Deferred[float | None]],
        interval_seconds: float,
        seconds: Callable[[], float] = time.monotonic,
    ) -> None:
        self._refresh = refresh
        self._seconds = seconds
        self._refreshed_at: float | None = None
        self._interval_seconds = interval_seconds
        self._runs: SharedCall[float | None] = SharedCall()
        self._running: Deferred[float | None] | None = None
        self._stopped = False

    def age_seconds(self) -> float:
        """How old the views are, as far as this instance knows: it learns of others' refreshes when it wants its own.

        NaN while it knows nothing.
        """
        return float("nan") if self._refreshed_at is None else self._seconds() - self._refreshed_at

    async def on_timer(self) -> None:
        """Refresh unless somebody did within the interval, or does so now. Does not fail."""
        if self._runs.under_way:
            return
        try:
            # A little less, or it would often be found a moment too young, and be made every other time only.
            await self._runs.next(partial(self._run, 0.9 * self._interval_seconds))
        except Unavailable as error:
            self._log.warn("the views stay as they are: {reason}", reason=str(error))

    async def now(self) -> float | None:
        """Refresh, unless that was done some seconds ago; see :func:`refresh_in_thread` for what it returns.

        :raises Unavailable: the database does not answer, or the daemon stops.
        """
        return await self._runs.next(partial(self._run, MIN_AGE_SECONDS))

    def stop(self) -> None:
        """Wait for no refresh any more: the database ends the one under way, or its last statement, by itself."""
        self._stopped = True
        if self._running is not None:
            self._running.cancel()

    async def _run(self, unless_within_seconds: float) -> float | None:
        if self._stopped:
            raise Unavailable("refresh the views: the daemon stops")
        try:
            self._running = self._refresh(unless_within_seconds)
            age_seconds = await self._running
            if age_seconds is not None:
                self._refreshed_at = self._seconds() - age_seconds
            return age_seconds
        except CancelledError:
            raise Unavailable("refresh the views: the daemon stops") from None
        finally:
            self._running = None
