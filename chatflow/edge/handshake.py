"""The opening handshake (RFC 6455, 4.2.1), judged once: from here on a connection has a :class:`Handshake`.

Autobahn judges one too, by rules of its own: it refuses offers of extensions that a server must leave aside, and
origins that a proxy in front makes look foreign. So it is shown one that only says what was found here
(:meth:`Handshake.plain_headers`).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Collection, Sequence

from attrs import evolve, field, frozen
from twisted.web.http_headers import Headers

from chatflow.authority import Authority, parse_origin
from chatflow.contracts.identity import ANYONE, Identity
from chatflow.contracts.membership import Who
from chatflow.edge import compression
from chatflow.edge.connect_parameters import ConnectParameters, parse_connect_parameters
from chatflow.edge.credentials import SUBPROTOCOL_PREFIX
from chatflow.edge.dialects import IDialect, choose_dialect
from chatflow.edge.refusals import RequestRefused
from chatflow.errors import Refused

VERSION = "13"
_KEY_BYTES = 16  # before base64


@frozen
class Handshake:
    """What a client asked for and may have.

    :ivar parameters: those of the query.
    :ivar key: the value of the header Sec-WebSocket-Key.
    :ivar dialect: how it is spoken to.
    :ivar identity: who it is, and what it may do in the room.
    :ivar compresses: whether it has permessage-deflate.
    :ivar client_ip: where the client is; None if that has no IP address.
    :ivar subprotocol: what the answer says in Sec-WebSocket-Protocol.
    """

    room: int
    parameters: ConnectParameters
    key: str
    dialect: IDialect
    identity: Identity = ANYONE
    client_ip: str | None = None
    compresses: bool = False
    subprotocol: str | None = field(repr=False)

    @subprotocol.default
    def _of_dialect(self) -> str | None:
        name: str | None = self.dialect.subprotocol
        return name

    @property
    def user_id(self) -> int | None:
        """Whose connection it is: by its token, or as it says; None for nobody's."""
        who = self.parameters.who
        return self.identity.user_id or (None if who is None else who.user_id)

    def plain_headers(self) -> Headers:
        """The headers of the shortest request that asks for the same."""
        headers = {
            "Host": "localhost",  # nobody asks any more
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Version": VERSION,
            "Sec-WebSocket-Key": self.key,
        }
        if self.subprotocol:
            headers["Sec-WebSocket-Protocol"] = self.subprotocol
        if self.compresses:
            headers["Sec-WebSocket-Extensions"] = compression.EXTENSION
        return Headers({name: [value] for name, value in headers.items()})


def judge(
    *,
    room: int,
    method: bytes,
    version: bytes,
    query: bytes,
    headers: Headers,
    body_bytes: int,
    host: Authority,
    allowed_origins: Collection[str],
    identify: Callable[[Sequence[str]], Identity] = lambda subprotocols: ANYONE,
    client_ip: str | None = None,
    may_compress: bool = False,
) -> Handshake:
    """What a request for ``/chat/{room}`` may have.

    :param version: of HTTP, such as ``HTTP/1.1``.
    :param query: the target behind its question mark.
    :param body_bytes: how much came behind the headers; nothing belongs there.
    :param host: what the request is addressed to.
    :param allowed_origins: in their one form (:mod:`chatflow.authority`), besides those of ``host``; ``*`` for all.
    :param identify: who it is, given the subprotocols that it offers; raises :class:`RequestRefused`.
    :param client_ip: as :mod:`chatflow.edge.proxies` has resolved it.
    :param may_compress: whether permessage-deflate may be had.
    :raises RequestRefused: with what is wrong.
    """
    if method not in (b"GET", b"HEAD"):
        raise RequestRefused(
            405, "method_not_allowed", "a WebSocket is opened with GET", {"allow": "GET, HEAD, OPTIONS"}
        )
    # HTTP/1.0 has no upgrade: RFC 9110, 7.8.
    wants = method == b"GET" and version == b"HTTP/1.1" and "websocket" in _tokens(headers, "upgrade")
    if not wants:
        raise RequestRefused(
            426,
            "upgrade_required",
            "this is a WebSocket address: connect to it with ws://",
            {"upgrade": "websocket", "connection": "upgrade"},
        )
    if "upgrade" not in _tokens(headers, "connection"):
        raise _broken("the header Connection must name Upgrade; a proxy in front has to pass it on")
    _judge_version(headers)
    if body_bytes:
        raise _broken("a handshake has no body")
    judge_origin(headers, host, allowed_origins)
    key = _only(headers, "sec-websocket-key")
    try:
        if len(base64.b64decode(key, validate=True)) != _KEY_BYTES:
            raise ValueError
    except (ValueError, binascii.Error):
        raise _broken(f"Sec-WebSocket-Key must be {_KEY_BYTES} bytes in base64") from None
    try:
        parameters = parse_connect_parameters("?" + query.decode("latin-1"))
    except Refused as refused:
        raise RequestRefused(400, refused.code, str(refused), field=refused.field) from None
    offered = _list(headers, "sec-websocket-protocol")
    identity = identify(offered)
    parameters = _bound(parameters, identity, room)
    dialect = choose_dialect(offered)
    # Browsers end a connection whose server takes none of what they offer: if all that is offered is the token, that.
    token = next((name for name in offered if name.startswith(SUBPROTOCOL_PREFIX)), None)
    compresses = may_compress and compression.is_acceptable(_list(headers, "sec-websocket-extensions"))
    subprotocol = dialect.subprotocol or token
    return Handshake(room, parameters, key, dialect, identity, client_ip, compresses, subprotocol)


def _judge_version(headers: Headers) -> None:
    given = [value.strip(b" \t").decode("latin-1") for value in headers.getRawHeaders(b"sec-websocket-version", [])]
    if given == [VERSION]:
        return
    # RFC 6455, 4.4: how a client of another version is told which one to speak.
    status = 426 if len(given) == 1 and given[0].isdecimal() else 400
    told = {"sec-websocket-version": VERSION}
    if status == 426:
        told |= {"upgrade": "websocket", "connection": "upgrade"}
    raise RequestRefused(status, "bad_handshake", f"Sec-WebSocket-Version must be {VERSION}", told)


def _bound(parameters: ConnectParameters, identity: Identity, room: int) -> ConnectParameters:
    """What is asked for, by whoever it is."""
    if not identity.may_read(room):
        raise RequestRefused(403, "forbidden", "the token does not allow this room")
    if identity.user_id is None:
        return parameters
    who = parameters.who
    if who is not None and who != Who(identity.user_id, identity.username or who.username):
        raise RequestRefused(403, "wrong_user", "userId and username must be those of the token, or left out")
    if who is None and identity.username is not None:
        who = Who(identity.user_id, identity.username)
    return evolve(parameters, who=who)


def judge_origin(headers: Headers, host: Authority, allowed: Collection[str]) -> None:
    """:raises RequestRefused: a browser sends it for a page of another host, which is not allowed to."""
    # RFC 6455, 10.2: browsers always send one, other clients need not.
    given = headers.getRawHeaders(b"origin", [])
    if not given or "*" in allowed:
        return
    try:
        (text,) = given
        origin = parse_origin(text)
    except ValueError:  # more than one, too
        raise _foreign() from None
    if (str(origin) if origin else "null") in allowed:
        return
    if origin is None or not origin.is_of(host):
        raise _foreign()


def _foreign() -> RequestRefused:
    return RequestRefused(403, "origin_not_allowed", "pages of this origin may not connect: see --allowed-origins")


def _broken(reason: str) -> RequestRefused:
    return RequestRefused(400, "bad_handshake", reason)


def _list(headers: Headers, name: str) -> Sequence[str]:
    """The elements of a list, which may be spread over several headers (RFC 9110, 5.6.1)."""
    joined = b",".join(headers.getRawHeaders(name.encode(), []))
    return [element for part in joined.decode("latin-1").split(",") if (element := part.strip(" \t"))]


def _tokens(headers: Headers, name: str) -> set[str]:
    return {token.lower() for token in _list(headers, name)}


def _only(headers: Headers, name: str) -> str:
    given = headers.getRawHeaders(name.encode(), [])
    if len(given) != 1:
        raise _broken(f"there must be one header {name.title().replace('Websocket', 'WebSocket')}")
    return given[0].decode("latin-1").strip(" \t")
