"""HTTP on the chat's port: who may connect to a room, health, metrics and the page.

Routes are Klein's; ``/chat/`` is handed to Autobahn once the request is one that a room can take.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from importlib import metadata
from typing import Any, NamedTuple, cast

from autobahn.twisted.resource import WebSocketResource
from klein import Klein
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http import Request
from twisted.web.resource import IResource, Resource
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from chatflow.authority import Authority, parse_authority
from chatflow.edge.admission import Admission
from chatflow.edge.compat.routes import InstanceSource, add_health, add_instance_routes
from chatflow.edge.concurrency import ConcurrencyLimit
from chatflow.edge.connect_parameters import parse_connect_parameters
from chatflow.edge.cors import Cors
from chatflow.edge.dashboard import Dashboard, add_dashboard
from chatflow.edge.factory import ChatFactory
from chatflow.edge.gate import Gate, check_entry
from chatflow.edge.handshake import Handshake, judge, judge_origin
from chatflow.edge.operations import (
    INTERNAL_ERROR,
    OpenApi,
    Operation,
    add_operations,
    json_response,
)
from chatflow.edge.publishing import MAX_AT_ONCE
from chatflow.edge.refusals import RequestRefused, unavailable
from chatflow.edge.services import EdgeServices
from chatflow.edge.websocket import ChatProtocol
from chatflow.errors import Refused, Unavailable
from chatflow.rooms.messages import iso_timestamp, parse_room
from chatflow.rooms.moderator import Moderator

_log = Logger()

#: Of the HTTP API. They read the database with the connections that resuming clients need too.
_PAGES_AT_ONCE = 2
_ANALYTICS_AT_ONCE = 1
#: One that waits costs little more than its connection.
_WAITING = 1000
#: All who ask for a refresh share it.
_REFRESHES_AT_ONCE = 200


class _Error(Resource):
    """A refusal as the answer to anything below it."""

    def __init__(self, refused: RequestRefused) -> None:
        super().__init__()
        self._status = refused.status
        self._body: dict[str, Any] = {"status": "ERROR", "code": refused.code, "errorMessage": str(refused)}
        if refused.field is not None:
            self._body["field"] = refused.field
        if refused.retry_after_ms is not None:
            self._body["retryAfterMs"] = refused.retry_after_ms
        self._headers = refused.headers

    def getChild(self, path: bytes, request: Request) -> Resource:
        return self

    def render(self, request: Any) -> bytes:
        if self._status == 429:  # who asks too often has to come again, which is cheaper to refuse
            end_with_answer(request)
        now_us = int(request.channel.site.services.now() * 1e6)
        return json_response(request, self._status, self._body | {"timestamp": iso_timestamp(now_us)}, self._headers)


def end_with_answer(request: Any) -> None:
    """Take nothing more on the connection of this request."""
    request.channel.persistent = False
    request.setHeader(b"connection", b"close")


class ChatResource(Resource):
    """``/chat/{roomId}``: refuses, or hands the connection to Autobahn.

    :param gate: knows who connects.
    :param allowed_origins: origins whose pages may connect, besides the page's own host; ``*`` for every one.
    """

    def __init__(self, services: EdgeServices, gate: Gate, allowed_origins: Collection[str] = ()) -> None:
        super().__init__()
        self._services = services
        self._gate = gate
        self._admission = Admission(services)
        self._factory = ChatFactory(services)
        self._allowed_origins = frozenset(allowed_origins)

    def render(self, request: Any) -> bytes:
        return self._no_room().render(request)

    def getChildWithDefault(self, path: bytes, request: Any) -> IResource:
        """Judge the request before a protocol is made for it."""
        services = self._services
        room = parse_room(path.decode("latin-1"), services.rooms)
        if room is None or request.postpath:
            return self._no_room()
        query = request.uri.partition(b"?")[2]
        try:
            check_entry(services.moderator, room, self._named_user(request), request.client_ip)
            handshake = judge(
                room=room,
                method=request.method,
                version=request.clientproto,
                query=query,
                headers=request.requestHeaders,
                body_bytes=len(request.content.getvalue()),
                host=addressed_host(request),
                allowed_origins=self._allowed_origins,
                identify=lambda offered: self._gate.identify(request.requestHeaders, query, offered),
                client_ip=request.client_ip,
                may_compress=services.limits.compress,
            )
            check_entry(services.moderator, room, handshake.user_id, request.client_ip)
            self._admission.resume(request.client_ip, room, handshake.parameters)
        except RequestRefused as refused:
            if refused.status in (401, 403, 429):
                services.counters.connections_refused += 1
            return _Error(refused)
        connections = services.connections
        if connections.draining or connections.full:
            services.counters.connections_refused += 1
            reason = "the server is stopping" if connections.draining else "the server has all the connections it takes"
            return _Error(RequestRefused(503, "no_more_connections", reason, {"retry-after": "1"}))
        return _Upgrade(self._factory, handshake)

    def _named_user(self, request: Any) -> int | None:
        """Whom a request says to be, where that is all that is known. Also one that only asks: a page is not told why
        its handshake fails, but may look here."""
        if self._services.moderator.rules is None or self._gate.asks_users:
            return None
        try:
            who = parse_connect_parameters(request.uri.decode("latin-1")).who
        except Refused:
            return None
        return None if who is None else who.user_id

    def _no_room(self) -> _Error:
        return _Error(RequestRefused(404, "no_such_room", f"rooms are /chat/1 to /chat/{self._services.rooms}"))


class _Upgrade(Resource):
    """Gives the connection of a request to a protocol that was made for its handshake."""

    isLeaf = True

    def __init__(self, factory: ChatFactory, handshake: Handshake) -> None:
        super().__init__()
        self._protocol = factory.build_connection(handshake)
        self._handshake = handshake

    def render(self, request: Any) -> Any:
        # What Autobahn's resource writes down from the request, and its protocol reads again.
        request.uri = b"/"
        request.requestHeaders = self._handshake.plain_headers()
        request.channel.upgraded = self._protocol
        return WebSocketResource(self).render(request)

    def buildProtocol(self, addr: object) -> ChatProtocol:
        """For Autobahn's resource, to which this is the factory."""
        return self._protocol


def addressed_host(request: Any) -> Authority:
    """The host that a request is for.

    :raises RequestRefused: it names none, several, or what cannot be one (RFC 9112, 3.2); HTTP/1.0 need not name any.
    """
    named = request.requestHeaders.getRawHeaders(b"host", [])
    if request.is_malformed or len(named) > 1 or (not named and request.clientproto == b"HTTP/1.1"):
        raise RequestRefused(400, "bad_request", "a request names its host once, in the header Host")
    try:
        host = parse_authority(named[0] if named else b"")
        return host if request.target_host is None else parse_authority(request.target_host)
    except ValueError:
        raise RequestRefused(400, "bad_request", "the header Host, or the address, names no host") from None


def routes(
    instance: InstanceSource,
    *,
    ready: Callable[[], bool],
    gate: Gate,
    history: Sequence[Operation] = (),
    analytics: Sequence[Operation] = (),
    refreshing: Sequence[Operation] = (),
    publishing: Sequence[Operation] = (),
    moderating: Sequence[Operation] = (),
    moderator: Moderator | None = None,
) -> Klein:
    """Everything but ``/chat/`` and what is for operators as a whole. ``/api/openapi.json`` describes the operations.

    :param ready: whether a load balancer is to send clients here.
    :param gate: knows who asks.
    :param history: operations that read a page each.
    :param analytics: operations that may take seconds.
    :param refreshing: operations that may take minutes, without the connections that the others need.
    :param publishing: operations that wait until a message is durable.
    :param moderating: operations that write a row each, for operators.
    :param moderator: keeps those out who are banned; None for nobody.
    """
    app = Klein()
    add_health(app, instance)
    add_operations(app, history, ConcurrencyLimit(running=_PAGES_AT_ONCE, waiting=_WAITING), gate, moderator)
    add_operations(app, analytics, ConcurrencyLimit(running=_ANALYTICS_AT_ONCE, waiting=_WAITING), gate)
    add_operations(app, refreshing, ConcurrencyLimit(running=_REFRESHES_AT_ONCE, waiting=0), gate)
    add_operations(app, publishing, ConcurrencyLimit(running=MAX_AT_ONCE, waiting=0), gate)
    add_operations(app, moderating, ConcurrencyLimit(running=1, waiting=_WAITING), gate)
    operations = [*history, *analytics, *refreshing, *publishing, *moderating]
    document = OpenApi(metadata.version("chatflow"), operations, gate).document()

    @app.route("/api/openapi.json", methods=["GET", "HEAD"])
    def openapi(request: Any) -> bytes:
        return json_response(request, 200, document)

    @app.route("/api/token", methods=["GET", "HEAD", "POST"])
    def no_tokens(request: Any) -> bytes:
        return _NO_TOKENS.render(request)

    @app.route("/health/live", methods=["GET", "HEAD"])
    def live(request: Any) -> bytes:
        return json_response(request, 200, {"status": "UP"})

    @app.route("/health/ready", methods=["GET", "HEAD"])
    def answer_ready(request: Any) -> bytes:
        is_ready = ready()
        return json_response(request, 200 if is_ready else 503, {"status": "UP" if is_ready else "DOWN"})

    return with_error_answers(app)


def operator_routes(instance: InstanceSource, dashboard: Dashboard) -> Klein:
    """What is for operators alone; whoever uses them asks :meth:`Gate.check_operator` first."""
    app = Klein()
    add_instance_routes(app, instance)
    add_dashboard(app, dashboard)
    return with_error_answers(app)


def with_error_answers(app: Klein) -> Klein:
    """The same, with an answer to everything that can go wrong, which says nothing of AWS or the database."""

    @app.handle_errors(Unavailable)
    def answer_unavailable(request: Any, failure: Failure) -> bytes:
        # The reason may be AWS' or PostgreSQL's own words, with account numbers and names of hosts.
        _log.warn("{path} is not available: {reason}", path=request.path.decode("latin-1"), reason=str(failure.value))
        return _Error(unavailable("what was asked for is not available now: try again in a moment")).render(request)

    @app.handle_errors(HTTPException)
    def no_route(request: Any, failure: Failure) -> bytes:
        error = failure.value
        if isinstance(error, MethodNotAllowed):
            return _not_allowed(error.valid_methods or ()).render(request)
        return _NOT_FOUND.render(request)

    @app.handle_errors(Exception)
    def fault(request: Any, failure: Failure) -> bytes:
        _log.failure("a request failed", failure)
        return _Error(RequestRefused(500, "internal_error", INTERNAL_ERROR)).render(request)

    return app


_NOT_FOUND = _Error(RequestRefused(404, "not_found", "there is nothing here: see /"))
_NO_TOKENS = _Error(
    RequestRefused(
        404,
        "not_found",
        "this server makes no tokens: whoever logs your users in does. `chatflow-admin token` makes one for trying",
    )
)


# What RFC 9110 (9.1), RFC 5789 and, for QUERY, the registry of HTTP methods know: a method that no resource here takes,
# as opposed to one that nobody knows.
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "QUERY"})

_SAFE_METHODS = frozenset({b"GET", b"HEAD", b"OPTIONS"})


def _allow(methods: Iterable[str]) -> str:
    return ", ".join(sorted({*methods, "OPTIONS"}))


def _not_allowed(methods: Iterable[str]) -> _Error:
    allow = _allow(methods)
    return _Error(RequestRefused(405, "method_not_allowed", f"this is for {allow}", {"allow": allow}))


class _Options(Resource):
    """Answers OPTIONS: what may be asked for here, and by pages of which origins."""

    isLeaf = True

    def __init__(self, methods: Iterable[str], cors: Cors, may_read: bool) -> None:
        super().__init__()
        self._allow = _allow(methods)
        self._cors = cors if may_read else None

    def render(self, request: Any) -> bytes:
        request.setResponseCode(204)
        request.setHeader(b"allow", self._allow.encode())
        if self._cors is not None:
            self._cors.add_preflight(request.requestHeaders, request.responseHeaders, self._allow)
        return b""


class _App(NamedTuple):
    resource: Any
    routes: Any

    @classmethod
    def of(cls, app: Klein) -> _App:
        return cls(app.resource(), app.url_map.bind("localhost"))


class Root(Resource):
    """``/chat`` and, for all else, Klein's routes; what is so of every request.

    :param chat: None where nobody chats.
    :param operators: what is for operators alone, if it is here.
    :param gate: knows who they are.
    :param allowed_origins: whose pages may read the answers.
    """

    def __init__(
        self,
        chat: ChatResource | None,
        app: Klein,
        operators: Klein | None,
        gate: Gate,
        services: EdgeServices,
        allowed_origins: Collection[str] = (),
    ) -> None:
        super().__init__()
        self._chat = chat
        self._services = services
        self._apps = [_App.of(each) for each in (app, operators) if each is not None]
        self._gate = gate
        self._allowed_origins = frozenset(allowed_origins)
        self._admission = Admission(services) if chat is not None else None
        self._cors = Cors(allowed_origins)

    def _admit(self, path: bytes, request: Any) -> None:
        if self._admission is None:  # operators are not strangers
            return
        if path == b"chat":
            try:
                self._admission.connect(request.client_ip)
            except RequestRefused:
                self._services.counters.connections_refused += 1
                raise
        elif not self._admission.request(request.client_ip, b"/" + b"/".join((path, *request.postpath)), request.args):
            end_with_answer(request)

    def _judge_host(self, host: Authority, path: bytes) -> None:
        """A name of somebody else's that leads here (DNS rebinding) would make his pages be of this host."""
        names = self._services.limits.public_host
        if names and path != b"health" and host.host not in names:
            self._services.accounts.limited["public_host"] += 1
            raise RequestRefused(421, "host_not_served", "this server has another name: see --public-host")

    def getChildWithDefault(self, path: bytes, request: Any) -> IResource:
        """Judge what every request has in common, and find who answers it."""
        may_read = self._cors.add_headers(request.requestHeaders, request.responseHeaders)
        try:
            peer, proxies = request.channel.transport.getPeer(), self._services.proxies
            self._services.unbelieved.look(peer, request.requestHeaders, proxies)
            request.client_ip = proxies.client_of(peer, request.requestHeaders)
            self._admit(path, request)  # before anything that may refuse it, and need not be free for that
            host = addressed_host(request)
            self._judge_host(host, path)
            if request.method not in _SAFE_METHODS:
                # A page of anybody's can make a browser send a POST, with what it remembers of our user.
                judge_origin(request.requestHeaders, host, self._allowed_origins)
        except RequestRefused as refused:
            return _Error(refused)
        method = request.method.decode("latin-1")
        if method not in _METHODS:
            return _Error(
                RequestRefused(
                    501, "not_implemented", "there is no such method here", {"allow": _allow(("GET", "HEAD"))}
                )
            )
        if path == b"chat" and self._chat is not None:
            if method == "OPTIONS":
                return _Options(("GET", "HEAD"), self._cors, may_read)
            return self._chat
        # Klein reads the whole path: give back the part that was taken off it.
        request.postpath.insert(0, request.prepath.pop())
        # Klein fails, with a traceback in the log, on a path that is not UTF-8 and on a host name that cannot be one.
        try:
            whole = "/" + b"/".join(request.postpath).decode()
        except UnicodeDecodeError:
            return _NOT_FOUND
        request.requestHeaders.setRawHeaders(b"host", [b"localhost"])  # no route asks for it
        app, *operators = self._apps
        for each in operators:
            if each.routes.allowed_methods(whole):
                app = each
        if method == "OPTIONS":
            methods = app.routes.allowed_methods(whole)
            return _Options(methods, self._cors, may_read) if methods else _NOT_FOUND
        if app in operators:
            try:
                self._gate.check_operator(request)
            except RequestRefused as refused:
                return _Error(refused)
        return cast(IResource, app.resource)
