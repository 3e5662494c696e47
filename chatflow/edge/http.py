"""HTTP on the chat's port: who may connect to a room, health, metrics and the page.

Routes are Klein's; ``/chat/`` is handed to Autobahn once the request is one that a room can take.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from importlib import metadata
from typing import Any
from urllib.parse import urlsplit

from autobahn.twisted.resource import WebSocketResource
from klein import Klein
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http import Request
from twisted.web.resource import IResource, Resource
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from chatflow.edge.connections import ChatFactory
from chatflow.edge.dashboard import Dashboard, add_dashboard
from chatflow.edge.operations import INTERNAL_ERROR, Gate, OpenApi, Operation, add_operations, json_response
from chatflow.edge.static import add_pages
from chatflow.edge.wishes import parse_wish
from chatflow.errors import Refused, Unavailable
from chatflow.rooms.messages import parse_room

_log = Logger()

#: Of the HTTP API. They read the database with the connections that resuming clients need too.
_PAGES_AT_ONCE = 2
_ANALYTICS_AT_ONCE = 1
#: One that waits costs little more than its connection.
_WAITING = 1000
#: All who ask for a refresh share it.
_REFRESHES_AT_ONCE = 200


class _Error(Resource):
    """An answer to anything below it."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        headers: Mapping[str, str] | None = None,
        field: str | None = None,
    ) -> None:
        super().__init__()
        self._status = status
        self._body = {"status": "ERROR", "code": code, "errorMessage": message}
        if field is not None:
            self._body["field"] = field
        self._headers = headers

    def getChild(self, path: bytes, request: Request) -> Resource:
        return self

    def render(self, request: Any) -> bytes:
        return json_response(request, self._status, self._body, self._headers)


class ChatResource(Resource):
    """``/chat/{roomId}``: refuses, or hands the connection to Autobahn.

    :param allowed_origins: origins whose pages may connect, besides the page's own host; ``*`` for every one.
    """

    def __init__(self, factory: ChatFactory, allowed_origins: Sequence[str] = ()) -> None:
        super().__init__()
        self._factory = factory
        self._allowed_origins = {origin.lower().rstrip("/") for origin in allowed_origins}
        self._websocket = WebSocketResource(factory)

    def render(self, request: Any) -> bytes:
        return self._no_room().render(request)

    def getChildWithDefault(self, path: bytes, request: Any) -> IResource:
        """Judge the request before a protocol is made for it."""
        factory = self._factory
        if parse_room(path.decode("latin-1"), factory.rooms) is None or request.postpath:
            return self._no_room()
        if b"websocket" not in (request.getHeader(b"upgrade") or b"").lower():
            return _Error(
                426,
                "upgrade_required",
                "this is a WebSocket address: connect to it with ws://",
                {"upgrade": "websocket", "connection": "upgrade"},
            )
        if not self._origin_is_allowed(request):
            factory.counters.connections_refused += 1
            return _Error(403, "origin_not_allowed", "pages of this origin may not connect: see --allowed-origins")
        try:
            parse_wish(request.uri.decode("latin-1"))
        except Refused as refused:
            return _Error(400, refused.code, str(refused), field=refused.field)
        if factory.draining or factory.full:
            factory.counters.connections_refused += 1
            reason = "the server is stopping" if factory.draining else "the server has all the connections it takes"
            return _Error(503, "no_more_connections", reason, {"retry-after": "1"})
        return self._websocket

    def _no_room(self) -> _Error:
        return _Error(404, "no_such_room", f"rooms are /chat/1 to /chat/{self._factory.rooms}")

    def _origin_is_allowed(self, request: Any) -> bool:
        # RFC 6455 10.2: browsers always send Origin, other clients need not.
        origin = request.getHeader(b"origin")
        if origin is None or "*" in self._allowed_origins:
            return True
        text = origin.decode("latin-1").lower()
        if text in self._allowed_origins:
            return True
        host = (request.getHeader(b"host") or b"").decode("latin-1").lower()
        try:
            return bool(host) and urlsplit(text).netloc == host
        except ValueError:  # such as http://[
            return False


class Status:
    """What the HTTP routes tell of this instance; see :mod:`chatflow.metrics`."""

    def __init__(
        self,
        *,
        health: Callable[[], dict[str, object]],
        ready: Callable[[], bool],
        metrics: Callable[[], dict[str, object]],
        database_metrics: Callable[[], dict[str, object]],
        prometheus: Callable[[], tuple[bytes, str]],
        queue: Callable[[str], Awaitable[dict[str, object]]],
        queues: Callable[[], Awaitable[dict[str, object]]],
    ) -> None:
        self.health = health
        self.ready = ready
        self.metrics = metrics
        self.database_metrics = database_metrics
        self.prometheus = prometheus
        self.queue = queue
        self.queues = queues


def routes(
    status: Status,
    *,
    history: Sequence[Operation] = (),
    analytics: Sequence[Operation] = (),
    refreshing: Sequence[Operation] = (),
    dashboard: Dashboard | None = None,
) -> Klein:
    """Everything but ``/chat/``. ``/api/openapi.json`` describes the operations.

    :param history: operations that read a page each.
    :param analytics: operations that may take seconds.
    :param refreshing: operations that may take minutes, without the connections that the others need.
    :param dashboard: what ``/dashboard`` shows, if there is to be one.
    """
    app = Klein()
    add_pages(app)
    if dashboard is not None:
        add_dashboard(app, dashboard)
    add_operations(app, history, Gate(running=_PAGES_AT_ONCE, waiting=_WAITING))
    add_operations(app, analytics, Gate(running=_ANALYTICS_AT_ONCE, waiting=_WAITING))
    add_operations(app, refreshing, Gate(running=_REFRESHES_AT_ONCE, waiting=0))
    document = OpenApi(metadata.version("chatflow"), [*history, *analytics, *refreshing]).document()

    @app.route("/api/openapi.json", methods=["GET", "HEAD"])
    def openapi(request: Any) -> bytes:
        return json_response(request, 200, document)

    @app.route("/health", methods=["GET", "HEAD"])
    def health(request: Any) -> bytes:
        body = status.health()
        return json_response(request, 200 if body["status"] == "UP" else 503, body)

    @app.route("/health/live", methods=["GET", "HEAD"])
    def live(request: Any) -> bytes:
        return json_response(request, 200, {"status": "UP"})

    @app.route("/health/ready", methods=["GET", "HEAD"])
    def ready(request: Any) -> bytes:
        is_ready = status.ready()
        return json_response(request, 200 if is_ready else 503, {"status": "UP" if is_ready else "DOWN"})

    @app.route("/metrics", methods=["GET", "HEAD"])
    def metrics(request: Any) -> bytes:
        accept = (request.getHeader(b"accept") or b"").lower()
        if b"text/plain" in accept or b"openmetrics" in accept:
            text, content_type = status.prometheus()
            request.setHeader(b"content-type", content_type.encode())
            return text
        return json_response(request, 200, status.metrics())

    @app.route("/db-metrics", methods=["GET", "HEAD"])
    def database_metrics(request: Any) -> bytes:
        return json_response(request, 200, status.database_metrics())

    @app.route("/queue/all", methods=["GET", "HEAD"])
    async def queues(request: Any) -> bytes:
        return json_response(request, 200, await status.queues())

    @app.route("/queue/<room>", methods=["GET", "HEAD"])
    async def queue(request: Any, room: str) -> bytes:
        return json_response(request, 200, await status.queue(room))

    @app.handle_errors(Unavailable)
    def unavailable(request: Any, failure: Failure) -> bytes:
        return _Error(503, "unavailable", str(failure.value)).render(request)

    @app.handle_errors(HTTPException)
    def no_route(request: Any, failure: Failure) -> bytes:
        error = failure.value
        if isinstance(error, MethodNotAllowed):
            headers = {"allow": ", ".join(sorted(error.valid_methods or ()))}
            return _Error(405, "method_not_allowed", "this is for GET and HEAD", headers).render(request)
        return _NOT_FOUND.render(request)

    @app.handle_errors(Exception)
    def fault(request: Any, failure: Failure) -> bytes:
        _log.failure("a request failed", failure)
        return _Error(500, "internal_error", INTERNAL_ERROR).render(request)

    return app


_NOT_FOUND = _Error(404, "not_found", "there is nothing here: see /")


class Root(Resource):
    """``/chat`` and, for all else, Klein's routes."""

    def __init__(self, chat: ChatResource, app: Klein) -> None:
        super().__init__()
        self.putChild(b"chat", chat)
        self._app = app.resource()

    def getChild(self, path: bytes, request: Any) -> Resource:
        # Klein reads the whole path: give back the part that was taken off it.
        request.postpath.insert(0, request.prepath.pop())
        # Klein fails, with a traceback in the log, on a path that is not UTF-8 and on a host name that cannot be one.
        try:
            b"/".join(request.postpath).decode()
        except UnicodeDecodeError:
            return _NOT_FOUND
        request.requestHeaders.setRawHeaders(b"host", [b"localhost"])  # no route asks for it
        return self._app
