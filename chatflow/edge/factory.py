"""Makes the protocols, and tells Autobahn what it is to leave to them."""

from __future__ import annotations

from autobahn.twisted.websocket import WebSocketServerFactory

from chatflow.edge import compression
from chatflow.edge.handshake import Handshake
from chatflow.edge.services import EdgeServices
from chatflow.edge.websocket import CLOSE_HANDSHAKE_SECONDS, ChatProtocol

_OPEN_HANDSHAKE_SECONDS = 10


class ChatFactory(WebSocketServerFactory):
    """Autobahn's options for all connections; each protocol refers to it."""

    def __init__(self, services: EdgeServices) -> None:
        super().__init__(server="ChatFlow", reactor=services.clock)
        self._services = services
        self.setProtocolOptions(
            webStatus=False,
            versions=[13],
            maxConnections=0,  # chatflow.edge.http counts the open ones
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

    def build_connection(self, handshake: Handshake) -> ChatProtocol:
        """A protocol for a client that may have this."""
        protocol = ChatProtocol(self._services, handshake)
        protocol.factory = self
        return protocol
