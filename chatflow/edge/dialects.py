"""The dialects of the protocol: how a client is spoken to. One is chosen for each connection at its handshake.

All speak in the frames of :data:`PLAIN`, which are all that a client gets that names no subprotocol; another one adds
its own. A new dialect is a class here, an entry in :data:`_DIALECTS`, and a chapter of ``docs/protocol.rst``.

Frames are bytes for the socket; None stands for a frame that the dialect does not have.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from zope.interface import Attribute, Interface, implementer

from chatflow.contracts.identity import Identity
from chatflow.contracts.members import Accepted, IMember, Reset, Resumed
from chatflow.contracts.messages import Message
from chatflow.edge import v2
from chatflow.edge.connect_parameters import ConnectParameters
from chatflow.edge.frames import json_frames, text_frame
from chatflow.edge.services import EdgeServices
from chatflow.errors import ErrorCode, Refused
from chatflow.rooms.messages import acknowledgement, encode_error

#: Makes the first of all frames from the room's head when the client came, and the first seq that the room holds.
Welcome = Callable[[int, int], bytes]

# What a client is told in an error when the history that it asked for is not there.
_RESET: dict[str, tuple[ErrorCode, str]] = {
    "beyond_head": (
        "since_beyond_head",
        "since is beyond the room's last message: what comes now are the new ones, from seq {first} on",
    ),
    "expired": (
        "since_expired",
        "messages behind since are no longer held: what comes now begins with seq {first}",
    ),
}


class IDialect(Interface):
    """Has no state of a connection, so that one object serves all. Nothing of it blocks or raises."""

    subprotocol = Attribute("Its name in Sec-WebSocket-Protocol, or None.")

    def welcome(services: EdgeServices, room: int, identity: Identity) -> Welcome | None:
        """How a client is welcomed: everything else follows that frame."""

    def entered(services: EdgeServices, room: int, parameters: ConnectParameters, member: IMember) -> None:
        """The client is welcome, or needs no welcome: begin what it asked for in its query besides history."""

    def sent(services: EdgeServices, message: Message, sender: IMember) -> None:
        """A message of the client was accepted."""

    def acknowledged(services: EdgeServices, accepted: Sequence[Accepted], sender: IMember) -> None:
        """The acknowledgements of these messages were written."""

    def acknowledgements(accepted: Sequence[Accepted]) -> bytes:
        """The frames that acknowledge messages that are durable, joined."""

    def error(refused: Refused, now_us: int) -> bytes:
        """A message was refused. :param now_us: microseconds since the epoch."""

    def resuming(result: Resumed | Reset, now_us: int) -> bytes | None:
        """What becomes of the request for history."""

    def heartbeat(head: int) -> bytes | None:
        """What was delivered in the room, up to where the client has everything."""

    def set_back(first: int) -> bytes | None:
        """The room has other messages from ``first`` on. A client that cannot be told has to come back for them."""

    def goodbye(retry_after_ms: int) -> bytes | None:
        """The connection is about to be closed with 1012; come back after that long."""

    def expiring(left_ms: int) -> bytes | None:
        """The client's token expires then."""

    def refreshed(left_ms: int) -> bytes | None:
        """A new token is taken, and lasts so long. None where no client can send one."""


@implementer(IDialect)
class Plain:
    """What every client understands: an answer to each of its messages, and broadcasts."""

    subprotocol: str | None = None

    def welcome(self, services: EdgeServices, room: int, identity: Identity) -> Welcome | None:
        """None."""
        return None

    def entered(self, services: EdgeServices, room: int, parameters: ConnectParameters, member: IMember) -> None:
        """A plain client is not told of presence."""

    def sent(self, services: EdgeServices, message: Message, sender: IMember) -> None:
        """Its place is told by the broadcast."""

    def acknowledged(self, services: EdgeServices, accepted: Sequence[Accepted], sender: IMember) -> None:
        """A plain client is told nothing beyond the acknowledgement."""

    def acknowledgements(self, accepted: Sequence[Accepted]) -> bytes:
        """A frame for each message."""
        return json_frames([acknowledgement(one.message, one.original) for one in accepted])

    def error(self, refused: Refused, now_us: int) -> bytes:
        """One frame."""
        return text_frame(encode_error(refused, now_us))

    def resuming(self, result: Resumed | Reset, now_us: int) -> bytes | None:
        """An error if there is not what was asked for."""
        if isinstance(result, Resumed):
            return None
        code, text = _RESET[result.reason]
        return self.error(Refused(code, text.format(first=result.first), "since"), now_us)

    def heartbeat(self, head: int) -> bytes | None:
        """None."""
        return None

    def set_back(self, first: int) -> bytes | None:
        """None."""
        return None

    def goodbye(self, retry_after_ms: int) -> bytes | None:
        """None: the close frame says all."""
        return None

    def expiring(self, left_ms: int) -> bytes | None:
        """None: the close frame says it then."""
        return None

    def refreshed(self, left_ms: int) -> bytes | None:
        """None."""
        return None


class V2(Plain):
    """``chatflow.v2``: welcome, heartbeats, presence, the places of one's own messages; see :mod:`chatflow.edge.v2`."""

    subprotocol = v2.SUBPROTOCOL

    def welcome(self, services: EdgeServices, room: int, identity: Identity) -> Welcome | None:
        """With the limits, so that a client needs to know none of them beforehand."""
        limits = v2.Limits(services.limits.max_frame_bytes, services.limits.max_pending_per_connection)

        def encode(head: int, first: int) -> bytes:
            expires_at = identity.expires_at
            return v2.encode(
                v2.Welcome(
                    str(room),
                    head,
                    first,
                    services.server_id,
                    services.ping_interval_seconds,
                    v2.HEARTBEAT_SECONDS,
                    limits,
                    None if identity.user_id is None else str(identity.user_id),
                    identity.username,
                    None if expires_at is None else max(0, int((expires_at - services.now()) * 1000)),
                )
            )

        return encode

    def entered(self, services: EdgeServices, room: int, parameters: ConnectParameters, member: IMember) -> None:
        """Presence from the next beat on, if it was asked for."""
        if parameters.presence:
            services.presence.watch(room, member)

    def sent(self, services: EdgeServices, message: Message, sender: IMember) -> None:
        """From now on its place is waited for."""
        services.stored.sent(message, sender, v2.encode_place)

    def acknowledged(self, services: EdgeServices, accepted: Sequence[Accepted], sender: IMember) -> None:
        """From now on their places may be told."""
        for one in accepted:
            services.stored.acknowledged(one.message, sender)

    def resuming(self, result: Resumed | Reset, now_us: int) -> bytes | None:
        """``resumed`` or ``reset``."""
        return v2.encode(v2.resume_frame(result))

    def heartbeat(self, head: int) -> bytes | None:
        """``heartbeat``."""
        return v2.encode(v2.Heartbeat(head))

    def set_back(self, first: int) -> bytes | None:
        """``reset``."""
        return v2.encode(v2.resume_frame(Reset("restored", first)))

    def goodbye(self, retry_after_ms: int) -> bytes | None:
        """``goodbye``."""
        return v2.encode(v2.Goodbye(retry_after_ms))

    def expiring(self, left_ms: int) -> bytes | None:
        """``expiring``."""
        return v2.encode(v2.Expiring(left_ms))

    def refreshed(self, left_ms: int) -> bytes | None:
        """``refreshed``."""
        return v2.encode(v2.Refreshed(left_ms))


PLAIN = Plain()

# The most preferred one first.
_DIALECTS: Sequence[IDialect] = (V2(),)


def choose_dialect(offered: Collection[str]) -> IDialect:
    """Of the subprotocols that a client offers the best one that is spoken here, else :data:`PLAIN`."""
    return next((dialect for dialect in _DIALECTS if dialect.subprotocol in offered), PLAIN)
