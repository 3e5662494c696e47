"""What the database needs from time to time while the daemon runs, as services."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

from twisted.application.service import Service

from chatflow.lifecycle import Repeating, run_in_own_thread
from chatflow.lifecycle.step import Step
from chatflow.persistence.database import Database
from chatflow.persistence.prepare import maintain_partitions
from chatflow.persistence.refresh import Refresher, refresh_in_thread

_PARTITIONS_SECONDS = 3600.0


class Upkeep:
    """Partitions for the coming days, and views that are as fresh as asked for.

    :param reactor: the real one.
    :param url: for refreshes, which have a connection of their own.
    :param retention_days: 0 keeps all; see :func:`~chatflow.persistence.prepare.maintain_partitions`.
    :param refresh_views_seconds: 0 for only when somebody asks.
    :ivar refresher: of the views.
    """

    def __init__(
        self,
        *,
        reactor: Any,
        url: str,
        database: Database,
        server_id: str,
        partitions_ahead_days: int,
        retention_days: int,
        refresh_views_seconds: float,
        may_drop: Callable[[], Awaitable[bool]],
    ) -> None:
        self._reactor = reactor
        self._refresh_views_seconds = refresh_views_seconds
        self._maintain_partitions = partial(
            maintain_partitions, database, partitions_ahead_days, retention_days, may_drop
        )
        self.refresher = Refresher(
            lambda unless: run_in_own_thread(
                reactor, "refresh views", partial(refresh_in_thread, url, server_id, unless)
            ),
            refresh_views_seconds,
            reactor.seconds,
        )

    @property
    def services(self) -> Sequence[tuple[str, Service]]:
        """By name, in the order of their start."""
        reactor, seconds = self._reactor, self._refresh_views_seconds
        partitions = Repeating(reactor, "partitions", _PARTITIONS_SECONDS, self._maintain_partitions, at_once=True)
        views = [("views", Repeating(reactor, "refresh of views", seconds, self.refresher.on_timer))] if seconds else []
        return [("partitions", partitions), *views, ("refresh of views", Step(stop=self.refresher.stop))]
