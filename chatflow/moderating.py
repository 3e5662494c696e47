"""What tells a daemon of its operators' orders, and carries them out."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from chatflow.edge.connections import Connections
from chatflow.edge.enforcement import Enforcement
from chatflow.lifecycle.callback_service import CallbackService
from chatflow.metrics import Metrics
from chatflow.persistence.database import Database
from chatflow.persistence.sanctions import SanctionTable, open_sanctions
from chatflow.rooms.moderator import Moderator
from chatflow.rooms.sanction_watch import SanctionWatch


def make_sanction_watch(
    reactor: Any,
    url: str,
    database: Callable[[str, int], Database],
    moderator: Moderator,
    connections: Connections,
    metrics: Metrics,
) -> SanctionWatch:
    """:param url: of the database, for the start.
    :param database: makes connections to it; one is for sanctions alone, so that no slow query keeps an order waiting.
    """
    orders = database("sanctions", 1)
    watch = SanctionWatch(
        clock=reactor,
        moderator=moderator,
        table=SanctionTable(orders),
        open_table=partial(open_sanctions, url, "chatflow-start"),
        connection=CallbackService(orders.start, orders.stop),
    )
    enforcement = Enforcement(clock=reactor, connections=connections)
    watch.on_orders = enforcement.carry_out
    metrics.add([*watch.readings(), *enforcement.readings()])
    return watch
