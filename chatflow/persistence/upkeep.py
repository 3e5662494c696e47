"""What the database needs from time to time while the daemon runs, as services."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Protocol

from twisted.application.service import Service

from chatflow.lifecycle import PeriodicService, run_in_own_thread
from chatflow.lifecycle.callback_service import CallbackService
from chatflow.lifecycle.clocks import WallTime
from chatflow.persistence.bootstrap import bootstrap, maintain_partitions
from chatflow.persistence.database import Database
from chatflow.persistence.refresh import Refresher, refresh_in_thread

_PARTITIONS_SECONDS = 3600.0


class UpkeepOptions(Protocol):
    """The options of the daemon that this needs; their help says what each is for."""

    @property
    def server_id(self) -> str: ...
    @property
    def rooms(self) -> int: ...
    @property
    def partitions_ahead_days(self) -> int: ...
    @property
    def retention_days(self) -> int | None: ...
    @property
    def refresh_views_seconds(self) -> float: ...


class Upkeep:
    """Partitions for the coming days, and views that are as fresh as asked for.

    :param reactor: the real one.
    :param url: for refreshes, which have a connection of their own.
    :param may_drop: see :func:`~chatflow.persistence.bootstrap.maintain_partitions`.
    :ivar refresher: of the views.
    """

    def __init__(
        self,
        *,
        reactor: Any,
        url: str,
        database: Database,
        options: UpkeepOptions,
        may_drop: Callable[[], Awaitable[bool]],
    ) -> None:
        self._reactor = reactor
        self._url = url
        self._options = options
        self._maintain_partitions = partial(
            maintain_partitions, database, options.partitions_ahead_days, options.retention_days, may_drop
        )
        self.refresher = Refresher(
            lambda unless: run_in_own_thread(
                reactor, "refresh views", partial(refresh_in_thread, url, options.server_id, unless)
            ),
            options.refresh_views_seconds,
            reactor.seconds,
        )

    def bootstrap(self, *, migrate: bool, now: WallTime) -> dict[int, int]:
        """Make the database ready for the daemon to serve from; see :mod:`chatflow.persistence.bootstrap`."""
        options = self._options
        return bootstrap(
            self._url, migrate=migrate, rooms=options.rooms, ahead_days=options.partitions_ahead_days, now=now
        )

    @property
    def services(self) -> Sequence[tuple[str, Service]]:
        """The periodic services that look after the database, by name, in the order of their start."""
        reactor, seconds = self._reactor, self._options.refresh_views_seconds
        partitions = PeriodicService(
            reactor, "partitions", _PARTITIONS_SECONDS, self._maintain_partitions, at_once=True
        )
        views = (
            [("views", PeriodicService(reactor, "refresh of views", seconds, self.refresher.on_timer))]
            if seconds
            else []
        )
        return [("partitions", partitions), *views, ("refresh of views", CallbackService(stop=self.refresher.stop))]
