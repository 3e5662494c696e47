"""A query that takes too long is ended by PostgreSQL, and the client is told to come again."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import closing

import psycopg2
import pytest
import pytest_twisted
from attrs import frozen
from klein import Klein
from twisted.internet.threads import deferToThread
from twisted.web.server import Site

from chatflow.edge.api import Api
from chatflow.edge.compat.metrics_api import AnalyticsApi
from chatflow.edge.concurrency import ConcurrencyLimit
from chatflow.edge.gate import AdminTokens, Gate
from chatflow.edge.operations import add_operations
from chatflow.persistence.analytics_store import AnalyticsStore
from chatflow.persistence.archive import Archive
from chatflow.persistence.database import Database, SessionLimits
from chatflow.rooms.presence import NoOthers, Presence
from testbed import http_client as http
from tests.support.reactor import on_reactor, reactor

_WINDOW = "testStartTime=2020-01-01T00:00:00Z&testEndTime=2099-01-01T00:00:00Z"


@frozen
class Served:
    database: Database
    database_url: str
    port: int


@pytest_twisted.async_yield_fixture
async def served(database_url: str) -> AsyncIterator[Served]:
    """The API on a port, with little patience."""

    async def refresh() -> bool:
        return True

    database = Database(reactor=reactor, url=database_url, connections=2, limits=SessionLimits())
    database.start()
    presence = Presence(clock=reactor, table=NoOthers(), encode=lambda room, presence: b"")
    history = Api(rooms=20, archive=Archive(database, statement_seconds=0.1), presence=presence)
    analytics = AnalyticsApi(source=AnalyticsStore(database, refresh, statement_seconds=0.1), now=time.time, rooms=20)
    app = Klein()
    operations = [*history.operations(), *analytics.operations()]
    add_operations(app, operations, ConcurrencyLimit(running=1, waiting=10), Gate(admin_tokens=AdminTokens()))
    port = reactor.listenTCP(0, Site(app.resource()), interface="127.0.0.1")
    yield Served(database, database_url, port.getHost().port)
    await port.stopListening()
    await database.stop()


@pytest.mark.parametrize(
    "path",
    [
        "/api/rooms/1/messages",
        "/api/users/1/messages",
        f"/api/metrics/core-queries?{_WINDOW}",
        f"/api/metrics/analytics?{_WINDOW}",
        f"/api/metrics/all?{_WINDOW}",
    ],
)
@on_reactor
async def test_it_is_answered_503_and_the_next_one_is_answered(served: Served, path: str) -> None:
    with closing(psycopg2.connect(served.database_url)) as connection:
        with connection.cursor() as cursor:
            cursor.execute("LOCK TABLE messages IN ACCESS EXCLUSIVE MODE")
        answer = await deferToThread(http.request, served.port, "GET", path)
    assert (answer.status, answer.headers["retry-after"]) == (503, "1")
    told = answer.json()
    assert (told.get("error") or told["errorMessage"]).startswith("the database does not answer in time")
    assert served.database.available, "PostgreSQL has answered"
    assert (await deferToThread(http.request, served.port, "GET", path)).status == 200
