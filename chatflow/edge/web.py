"""Everything that is answered over HTTP, put together: the chat, the API, the figures, the pages."""

from __future__ import annotations

from typing import Any

from chatflow.contracts.analytics import IAnalytics
from chatflow.contracts.archive import IArchive
from chatflow.edge.analytics import AnalyticsApi
from chatflow.edge.api import Api
from chatflow.edge.connections import ChatFactory
from chatflow.edge.dashboard import Dashboard
from chatflow.edge.http import ChatResource, Root, Status, routes
from chatflow.edge.site import ChatSite
from chatflow.rooms.presence import Presence


def make_site(
    *,
    reactor: Any,
    chat: ChatFactory,
    status: Status,
    archive: IArchive,
    analytics: IAnalytics,
    presence: Presence,
    dashboard: Dashboard,
    rooms: int,
    allowed_origins: tuple[str, ...],
) -> ChatSite:
    """What the ports listen with.

    :param status: what instance and queues tell of themselves.
    """
    api = Api(rooms=rooms, archive=archive, presence=presence)
    analytics_api = AnalyticsApi(source=analytics, rooms=rooms)
    app = routes(
        status,
        history=api.operations(),
        analytics=analytics_api.operations(),
        refreshing=analytics_api.refreshing(),
        dashboard=dashboard,
    )
    return ChatSite(Root(ChatResource(chat, allowed_origins), app, allowed_origins), chat, reactor)
