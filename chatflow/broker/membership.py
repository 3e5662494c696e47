"""This instance's membership of the cluster: one entry, one beat, to which its fan-out queue and its members belong.

An instance registers before it makes its fan-out queue and says with each beat that it lives. The others remove queue
and subscription of one that has been silent for too long. One that was only paused learns by its next beat that it was
taken for dead, and attaches another queue.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from zope.interface import implementer

from chatflow.contracts.membership import IMembershipTable, IPresenceTable, RoomPresence, Run
from chatflow.errors import Unavailable
from chatflow.lifecycle.blocking import at_once
from chatflow.rooms.presence import BEAT_SECONDS

#: Of two beats that are further apart, the database was away between them.
_PAUSE_SECONDS = 10.0


def beat_seconds(silent_seconds: float) -> float:
    """How often to say that one lives, if others take one for dead after ``silent_seconds``."""
    return min(BEAT_SECONDS, silent_seconds / 4)


@implementer(IPresenceTable)
class Membership:
    """This instance's own entry. Runs on the reactor thread.

    :param open_table: the same table on a connection of its own whose calls block, for the start.
    :param silent_seconds: an instance whose last beat is older is dead.
    :param on_taken_for_dead: called with each beat that finds that this instance was: its queue is gone or about to go.
    """

    _log = Logger()

    def __init__(
        self,
        *,
        clock: IReactorTime,
        table: IMembershipTable,
        open_table: Callable[[], AbstractContextManager[IMembershipTable]],
        server_id: str,
        silent_seconds: float,
        on_taken_for_dead: Callable[[], object],
    ) -> None:
        self._clock = clock
        self._table = table
        self._open_table = open_table
        self._server_id = server_id
        self._on_taken_for_dead = on_taken_for_dead
        self._pause_seconds = min(_PAUSE_SECONDS, silent_seconds / 2)
        self._run: Run | None = None
        self._is_away = False
        self._beaten_at = self._steady_since = float("-inf")

    @property
    def fanout_queue(self) -> str | None:
        """The name of this instance's queue, if it takes part."""
        return self._run.fanout_queue if self._run else None

    def register_now(self, run_id: str, fanout_queue: str) -> None:
        """:meth:`register` for the start of the daemon. Blocks.

        :raises StartupError: the database cannot be reached.
        :raises Unavailable: it does not answer.
        """
        run = Run(self._server_id, run_id, fanout_queue)
        with self._open_table() as table:
            at_once(table.register(run, None))  # type: ignore[arg-type]
        self._run = run

    async def register(self, run_id: str, fanout_queue: str) -> None:
        """Take part with this queue, which is about to be made. An earlier entry falls silent, and is reaped.

        :raises Unavailable: the database does not answer; nothing has changed.
        """
        run = Run(self._server_id, run_id, fanout_queue)
        await self._table.register(run, self._run)
        self._run = run

    async def beat(self) -> Collection[int] | None:
        """See :class:`IPresenceTable`. Call it every :func:`beat_seconds`."""
        run = self._run
        if run is None:
            return None
        try:
            known = await self._table.beat(run)
        except Unavailable as error:
            if not self._is_away:
                self._log.warn("no heartbeat: {reason}", reason=str(error))
            self._is_away = True
            raise
        self._is_away = False
        now = self._clock.seconds()
        if now - self._beaten_at > self._pause_seconds:
            self._steady_since = now
        self._beaten_at = now
        if known is None and run is self._run:
            self._log.error("this instance was taken for dead, and {queue} for left behind", queue=run.fanout_queue)
            self._on_taken_for_dead()
        return known

    async def tell(self, changed: Mapping[int, RoomPresence]) -> None:
        """See :class:`IPresenceTable`."""
        if self._run is not None:
            await self._table.tell(self._run, changed)

    async def others(self) -> Mapping[int, RoomPresence]:
        """See :class:`IPresenceTable`."""
        return {} if self._run is None else await self._table.others(self._run)

    def steady_seconds(self) -> float:
        """How long beats have come without a pause.

        After an outage of the database everybody's last beat is old: an instance that has just had a pause itself must
        not take the others for dead.
        """
        now = self._clock.seconds()
        return now - self._steady_since if now - self._beaten_at <= self._pause_seconds else 0.0

    async def leave(self) -> None:
        """This instance has removed its queue and stops. Does not fail: the others would notice."""
        run, self._run = self._run, None
        if run is None:
            return
        try:
            await self._table.leave(run)
        except Unavailable as error:
            self._log.warn("the entry of this instance stays: {reason}", reason=str(error))
