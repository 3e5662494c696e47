"""Makes the protocols, and tells Autobahn what it is to leave to them."""

from __future__ import annotations

from autobahn.twisted.websocket import WebSocketServerFactory

from chatflow.edge import compression
from chatflow.edge.channel import CLOSE_HANDSHAKE_SECONDS
from chatflow.edge.handshake import Handshake
from chatflow.edge.services import EdgeServices
from chatflow.edge.websocket import ChatProtocol

_OPEN_HANDSHAKE_SECONDS = 10


class ChatFactory(WebSocketServerFactory):
    """Autobahn's options for all connections; each protocol refers to it."""

    def __init__(self, services: EdgeServices) -> None:
        super().__init__(server="ChatFlow", reactor=services.clock)
        self._services = services
        self.setProtocolOptions(
            webStatus=False,
            versions=[13],
            maxConnections=0,  # chatflow.edge.chat counts the open ones
            maxFramePayloadSize=0,  # ChatProtocol reads over what is too large, and answers it
            maxMessagePayloadSize=0,
            requireMaskedClientFrames=True,
            utf8validateIncoming=True,
            failByDrop=False,
            echoCloseCodeReason=False,
            openHandshakeTimeout=_OPEN_HANDSHAKE_SECONDS,
            closeHandshakeTimeout=CLOSE_HANDSHAKE_SECONDS,
            tcpNoDelay=True,
            autoPingInterval=0,  # ChatProtocol.ping_or_drop
            perMessageCompressionAccept=lambda offers: compression.accept(offers, services.limits.max_frame_bytes),
            allowedOrigins=["*"],  # it is shown none: see chatflow.edge.handshake
            allowNullOrigin=True,
            trustXForwardedFor=0,
        )
        self._protocol = _with_options(self)

    def build_connection(self, handshake: Handshake) -> ChatProtocol:
        """A protocol for a client that may have this."""
        protocol = self._protocol(self._services, handshake)
        protocol.factory = self
        return protocol


def _with_options(factory: WebSocketServerFactory) -> type[ChatProtocol]:
    """Protocols that have the factory's options by their class.

    Autobahn would copy them to each protocol, which makes a fifth of what an idle connection takes of the memory, and
    format them for a line of its log, which takes longer than all else that it does for a new connection.
    """
    options = {name: getattr(factory, name) for name in ChatProtocol.CONFIG_ATTRS}
    kept = {name: staticmethod(value) if callable(value) else value for name, value in options.items()}
    return type(ChatProtocol.__name__, (ChatProtocol,), {**kept, "CONFIG_ATTRS": (), "__module__": __name__})
