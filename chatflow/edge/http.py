"""HTTP on the chat's port: who may connect to a room, health, metrics and the page.

Routes are Klein's; ``/chat/`` is handed to Autobahn once the request is one that a room can take.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from http import HTTPStatus
from importlib import metadata
from typing import Any
from urllib.parse import urlsplit

import msgspec
from autobahn.twisted.resource import WebSocketResource
from klein import Klein
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel, Request
from twisted.web.resource import IResource, Resource
from twisted.web.server import Request as SiteRequest
from twisted.web.server import Site
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from chatflow.edge.connections import ChatFactory
from chatflow.edge.operations import Gate, OpenApi, Operation, add_operations
from chatflow.edge.static import add_pages
from chatflow.edge.wishes import parse_wish
from chatflow.errors import Refused, Unavailable
from chatflow.rooms.messages import parse_room

#: No request needs a body; twisted.web would otherwise keep any length on disk.
_MAX_BODY_BYTES = 64 * 1024
_REQUEST_SECONDS = 30

#: Of the HTTP API. They read the database with the connections that resuming clients need too.
_PAGES_AT_ONCE = 2
_ANALYTICS_AT_ONCE = 1
_API_WAITING = 200


def json_response(request: Any, status: int, body: object) -> bytes:
    """Set status and headers for ``body``, and return it as JSON."""
    request.setResponseCode(status, HTTPStatus(status).phrase.encode())
    request.setHeader(b"content-type", b"application/json")
    request.setHeader(b"cache-control", b"no-store")
    return msgspec.json.encode(body) + b"\n"


class _Error(Resource):
    """An answer to anything below it."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        headers: Sequence[tuple[bytes, bytes]] = (),
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
        for name, value in self._headers:
            request.setHeader(name, value)
        return json_response(request, self._status, self._body)


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
                [(b"upgrade", b"websocket"), (b"connection", b"upgrade")],
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
            return _Error(503, "no_more_connections", reason, [(b"retry-after", b"1")])
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


def routes(status: Status, history: Sequence[Operation] = (), analytics: Sequence[Operation] = ()) -> Klein:
    """Everything but ``/chat/``. ``/api/openapi.json`` describes the operations.

    :param history: operations that read a page each.
    :param analytics: operations that may take seconds.
    """
    app = Klein()
    add_pages(app)
    add_operations(app, history, Gate(running=_PAGES_AT_ONCE, waiting=_API_WAITING))
    add_operations(app, analytics, Gate(running=_ANALYTICS_AT_ONCE, waiting=_API_WAITING))
    document = OpenApi(metadata.version("chatflow"), [*history, *analytics]).document()

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
            headers = [(b"allow", ", ".join(sorted(error.valid_methods or ())).encode())]
            return _Error(405, "method_not_allowed", "this is for GET and HEAD", headers).render(request)
        return _NOT_FOUND.render(request)

    return app


_NOT_FOUND = _Error(404, "not_found", "there is nothing here: see /")


class _Root(Resource):
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


class _BoundedRequest(SiteRequest):
    """Refuses bodies before they are read."""

    channel: Any

    def gotLength(self, length: int | None) -> None:
        if length is not None and length <= _MAX_BODY_BYTES:
            super().gotLength(length)
            return
        super().gotLength(0)
        if length is not None or self.requestHeaders.hasHeader(b"transfer-encoding"):
            self.channel.transport.write(b"HTTP/1.1 413 Content Too Large\r\nconnection: close\r\n\r\n")
            self.channel.loseConnection()


class _BoundedChannel(HTTPChannel):
    """Ends with the first request that comes while the answers to earlier ones wait for the client.

    Twisted answers pipelined requests whether or not anybody reads, and keeps all the answers.
    """

    _answers_wait = False

    def pauseProducing(self) -> None:
        self._answers_wait = True
        super().pauseProducing()

    def resumeProducing(self) -> None:
        self._answers_wait = False
        super().resumeProducing()

    def checkPersistence(self, request: Any, version: bytes) -> bool:
        return bool(super().checkPersistence(request, version)) and not self._answers_wait


class ChatSite(Site):
    """The site of one port. Writes no access log: requests are counted, and bodies and addresses are private."""

    protocol = _BoundedChannel  # type: ignore[assignment]
    requestFactory = _BoundedRequest

    def __init__(self, chat: ChatResource, app: Klein, reactor: Any) -> None:
        super().__init__(_Root(chat, app), timeout=_REQUEST_SECONDS, reactor=reactor)
        self.displayTracebacks = False

    def log(self, request: Any) -> None:
        """Nothing; see the class."""
