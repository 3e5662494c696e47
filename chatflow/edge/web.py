"""What is answered over HTTP, put together; and the timers that look after those who are connected."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from klein import Klein
from twisted.application.service import Service

from chatflow.contracts.analytics import IAnalytics
from chatflow.contracts.archive import IArchive
from chatflow.edge.api import Api
from chatflow.edge.apps import operator_routes, routes
from chatflow.edge.chat import ChatResource
from chatflow.edge.compat.metrics_api import AnalyticsApi
from chatflow.edge.compat.routes import InstanceSource
from chatflow.edge.connections import IConnection
from chatflow.edge.dashboard import Dashboard
from chatflow.edge.gate import Gate, Gates
from chatflow.edge.http import Root
from chatflow.edge.moderation_api import ModerationApi
from chatflow.edge.operations import Operation
from chatflow.edge.publishing import Publishing
from chatflow.edge.services import EdgeServices
from chatflow.edge.site import ChatSite
from chatflow.edge.static import add_pages
from chatflow.edge.stored import LOOK_UP_SECONDS
from chatflow.edge.sweep import Sweep
from chatflow.edge.v2 import HEARTBEAT_SECONDS
from chatflow.lifecycle import PeriodicService
from chatflow.lifecycle.callback_service import CallbackService
from chatflow.rooms.sanction_watch import SanctionWatch


def make_sites(
    *,
    reactor: Any,
    edge: EdgeServices,
    instance: InstanceSource,
    ready: Callable[[], bool],
    archive: IArchive,
    analytics: IAnalytics,
    dashboard: Dashboard,
    allowed_origins: Sequence[str],
    page_token_url: str | None,
    gates: Gates,
    sanctions: SanctionWatch,
) -> tuple[ChatSite, ChatSite]:
    """What the ports listen with: the chat, the API, what the instance tells of itself, the pages; and what those of
    operators do, to which all that is for operators moves if there are any.

    :param ready: whether a load balancer should send clients here.
    :param page_token_url: where the page fetches its tokens; None if it does not.
    :param gates: of both.
    :param sanctions: what operators ordered.
    """
    api = Api(rooms=edge.rooms, archive=archive, presence=edge.presence)
    analytics_api = AnalyticsApi(source=analytics, now=edge.now, rooms=edge.rooms)
    moderation_api = ModerationApi(rooms=edge.rooms, table=sanctions.table, refresh=sanctions.refresh)
    operators = operator_routes(instance, dashboard)

    def app(gate: Gate, history: Sequence[Operation] = (), publishing: Sequence[Operation] = ()) -> Klein:
        for_operators = gate.has_operators
        return routes(
            instance,
            ready=ready,
            gate=gate,
            history=history,
            publishing=publishing,
            analytics=analytics_api.operations() if for_operators else (),
            refreshing=analytics_api.refreshing() if for_operators else (),
            moderating=moderation_api.operations() if for_operators else (),
            moderator=edge.moderator,
        )

    gate = gates.public
    public_app = app(gate, api.operations(), [Publishing(edge).operation(edge.rooms)])
    add_pages(public_app, page_token_url)
    public = Root(
        ChatResource(edge, gate, allowed_origins),
        public_app,
        operators if gate.has_operators else None,
        gate,
        edge,
        allowed_origins,
    )
    admin = Root(None, app(gates.operators), operators, gates.operators, edge)
    return ChatSite(public, edge, reactor), ChatSite(admin, edge, reactor)


def connection_services(edge: EdgeServices, site: ChatSite) -> Sequence[tuple[str, Service]]:
    """The periodic services that look after connections, by name, in the order of their start."""

    def sweep(interval_seconds: float, visit: Callable[[IConnection], object]) -> CallbackService:
        each = Sweep(clock=edge.clock, connections=edge.connections, interval_seconds=interval_seconds, visit=visit)
        return CallbackService(each.start, each.stop)

    async def look_for_late_requests() -> None:
        site.unfinished.end_late()

    async def look_for_stalled_answers() -> None:
        site.end_stalled()

    # Often enough that nobody stands still for much longer than allowed.
    looks_seconds = edge.limits.send_timeout_seconds / 4
    return [
        ("limits", CallbackService(edge.in_force.fit_process)),
        ("places", PeriodicService(edge.clock, "look-up of places", LOOK_UP_SECONDS, edge.stored.look_up)),
        ("pings", sweep(edge.ping_interval_seconds, lambda each: each.ping_or_drop())),
        ("heads", sweep(HEARTBEAT_SECONDS, lambda each: each.tell_head())),
        ("stalled clients", sweep(looks_seconds, lambda each: each.leave_if_stalled())),
        ("late requests", PeriodicService(edge.clock, "late requests", 1.0, look_for_late_requests)),
        ("stalled answers", PeriodicService(edge.clock, "stalled answers", looks_seconds, look_for_stalled_answers)),
    ]
