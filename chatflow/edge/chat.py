"""``/chat/{roomId}``: who may connect to a room, and becomes a WebSocket."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from autobahn.twisted.resource import WebSocketResource
from twisted.web.resource import IResource, Resource

from chatflow.authority import Authority, parse_authority
from chatflow.edge.admission import Admission
from chatflow.edge.answers import ErrorAnswer
from chatflow.edge.connect_parameters import parse_connect_parameters
from chatflow.edge.factory import ChatFactory
from chatflow.edge.gate import Gate, check_entry
from chatflow.edge.handshake import Handshake, judge
from chatflow.edge.refusals import RequestRefused
from chatflow.edge.services import EdgeServices
from chatflow.edge.websocket import ChatProtocol
from chatflow.errors import Refused
from chatflow.rooms.messages import parse_room


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
            return ErrorAnswer(refused)
        connections = services.connections
        if connections.draining or connections.full:
            services.counters.connections_refused += 1
            reason = "the server is stopping" if connections.draining else "the server has all the connections it takes"
            return ErrorAnswer(RequestRefused(503, "no_more_connections", reason, {"retry-after": "1"}))
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

    def _no_room(self) -> ErrorAnswer:
        return ErrorAnswer(RequestRefused(404, "no_such_room", f"rooms are /chat/1 to /chat/{self._services.rooms}"))


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
