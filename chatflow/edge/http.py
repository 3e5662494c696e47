"""HTTP on a port: what is judged of every request, and who answers it."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any, NamedTuple, cast

from klein import Klein
from twisted.web.resource import IResource, Resource

from chatflow.authority import Authority
from chatflow.edge.admission import Admission
from chatflow.edge.answers import ErrorAnswer, end_with_answer
from chatflow.edge.apps import NOT_FOUND, allow
from chatflow.edge.chat import ChatResource, addressed_host
from chatflow.edge.cors import Cors
from chatflow.edge.gate import Gate
from chatflow.edge.handshake import judge_origin
from chatflow.edge.refusals import RequestRefused
from chatflow.edge.services import EdgeServices

# What RFC 9110 (9.1), RFC 5789 and, for QUERY, the registry of HTTP methods know: a method that no resource here takes,
# as opposed to one that nobody knows.
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "QUERY"})

_SAFE_METHODS = frozenset({b"GET", b"HEAD", b"OPTIONS"})


class _Options(Resource):
    """Answers OPTIONS: what may be asked for here, and by pages of which origins."""

    isLeaf = True

    def __init__(self, methods: Iterable[str], cors: Cors, may_read: bool) -> None:
        super().__init__()
        self._allow = allow(methods)
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
            return ErrorAnswer(refused)
        method = request.method.decode("latin-1")
        if method not in _METHODS:
            return ErrorAnswer(
                RequestRefused(
                    501, "not_implemented", "there is no such method here", {"allow": allow(("GET", "HEAD"))}
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
            return NOT_FOUND
        request.requestHeaders.setRawHeaders(b"host", [b"localhost"])  # no route asks for it
        app, *operators = self._apps
        for each in operators:
            if each.routes.allowed_methods(whole):
                app = each
        if method == "OPTIONS":
            methods = app.routes.allowed_methods(whole)
            return _Options(methods, self._cors, may_read) if methods else NOT_FOUND
        if app in operators:
            try:
                self._gate.check_operator(request)
            except RequestRefused as refused:
                return ErrorAnswer(refused)
        return cast(IResource, app.resource)
