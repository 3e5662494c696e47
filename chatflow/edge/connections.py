"""All connections of this instance: their limits, counters, heartbeat and end."""

from __future__ import annotations

from collections.abc import Callable
from random import randint

from attrs import define, frozen
from autobahn.twisted.websocket import WebSocketServerFactory
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall, deferLater
from twisted.logger import Logger

from chatflow.edge import v2
from chatflow.edge.handshake import Handshake
from chatflow.edge.stored import StoredTracker
from chatflow.edge.websocket import CLOSE_HANDSHAKE_SECONDS, CLOSE_RESTART, ChatProtocol
from chatflow.lifecycle.clocks import WallTime
from chatflow.rooms.hub import Hub
from chatflow.rooms.ingress import Ingress
from chatflow.rooms.presence import Presence
from chatflow.rooms.resume import Resumer

_OPEN_HANDSHAKE_SECONDS = 10

# A drain closes connections in this many slices, so that clients do not come back all at once.
_DRAIN_SLICES = 20
_DRAIN_PAUSE_SECONDS = 0.05

_ROUND_SLICES = 20


@frozen
class EdgeLimits:
    """What connections may cost; see the options of the same names in ``docs/configuration.rst``."""

    max_frame_bytes: int
    max_connections: int
    max_pending_per_connection: int
    max_client_buffer_bytes: int
    send_timeout_seconds: float


@define
class EdgeCounters:
    """Since the start, over all connections."""

    messages_received: int = 0
    messages_refused: int = 0
    acks_sent: int = 0
    connections_opened: int = 0
    connections_refused: int = 0
    slow_clients_closed: int = 0
    silent_clients_dropped: int = 0
    reads_paused: int = 0


class ChatFactory(WebSocketServerFactory):
    """Makes the protocols and knows those that are open.

    :param now: for the stamps of errors.
    :param rooms: rooms are numbered from 1 to this.
    """

    _log = Logger()

    def __init__(
        self,
        *,
        clock: IReactorTime,
        now: WallTime,
        rooms: int,
        server_id: str,
        ingress: Ingress,
        hub: Hub,
        resumer: Resumer,
        presence: Presence,
        stored: StoredTracker,
        limits: EdgeLimits,
        ping_interval_seconds: float,
    ) -> None:
        super().__init__(server="ChatFlow", reactor=clock)
        self.clock = clock
        self.now = now
        self.rooms = rooms
        self.ingress = ingress
        self.hub = hub
        self.resumer = resumer
        self.presence = presence
        self.stored = stored
        self._server_id = server_id
        self._ping_interval_seconds = ping_interval_seconds
        self.limits = limits
        self.counters = EdgeCounters()
        self.draining = False
        #: Open connections, oldest first.
        self.protocols: dict[ChatProtocol, None] = {}
        self._empty: list[Deferred[None]] = []
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
            autoPingInterval=0,  # ping_or_drop
            perMessageCompressionAccept=lambda offers: None,
            allowedOrigins=["*"],  # it is shown none: see chatflow.edge.handshake
            allowNullOrigin=True,
            trustXForwardedFor=0,
        )

    def build_connection(self, handshake: Handshake) -> ChatProtocol:
        """A protocol for a client that may have this."""
        protocol = ChatProtocol(handshake)
        protocol.factory = self
        return protocol

    @property
    def full(self) -> bool:
        """Whether there is no place for another connection."""
        return len(self.protocols) >= self.limits.max_connections

    def welcome(self, room: int, head: int, first: int) -> bytes:
        """The first frame for a client that speaks ``chatflow.v2``.

        :param head: the room's last seq when the client came.
        :param first: the first seq that the room holds.
        """
        limits = v2.Limits(self.limits.max_frame_bytes, self.limits.max_pending_per_connection)
        return v2.encode(
            v2.Welcome(
                str(room), head, first, self._server_id, self._ping_interval_seconds, v2.HEARTBEAT_SECONDS, limits
            )
        )

    def opened(self, protocol: ChatProtocol) -> None:
        """A handshake is done."""
        self.protocols[protocol] = None
        self.counters.connections_opened += 1

    def closed(self, protocol: ChatProtocol) -> None:
        """A connection ended, whether or not it was ever open."""
        self.protocols.pop(protocol, None)
        if not self.protocols:
            waiting, self._empty = self._empty, []
            for deferred in waiting:
                deferred.callback(None)

    def set_back(self, room: int, first: int) -> None:
        """A room has other messages from ``first`` on: tell everyone who is in it."""
        for protocol in tuple(self.protocols):
            protocol.set_back(room, first)

    def stop_reading(self) -> None:
        """Take no more connections, and leave what clients still send in their sockets."""
        self.draining = True
        for protocol in tuple(self.protocols):
            protocol.stop_reading()

    async def send_away(self, reason: str) -> None:
        """Ask everyone who is here now to come back, elsewhere if there is a choice: close with 1012, in slices."""
        waiting = list(self.protocols)
        size = max(1, -(-len(waiting) // _DRAIN_SLICES))
        for begin in range(0, len(waiting), size):
            for protocol in waiting[begin : begin + size]:
                protocol.say_goodbye(randint(v2.MIN_RETRY_AFTER_MS, v2.MAX_RETRY_AFTER_MS))
                protocol.leave(CLOSE_RESTART, reason)
            await deferLater(self.clock, _DRAIN_PAUSE_SECONDS)

    async def close_all(self) -> None:
        """Close every connection; done when all are gone. Silent ones are dropped by Autobahn."""
        await self.send_away("the server restarts: reconnect and resume")
        if self.protocols:
            empty: Deferred[None] = Deferred()
            self._empty.append(empty)
            await empty

    def drop_all(self) -> None:
        """End every connection at once."""
        for protocol in tuple(self.protocols):
            protocol.drop()


class Rounds:
    """Visits every connection at an interval.

    One timer serves all: at each beat it visits those whose turn it is, so that 5,000 connections cost neither 5,000
    timers nor a burst.

    :param interval_seconds: how often each connection has its turn; 0 turns it off.
    """

    _log = Logger()

    def __init__(
        self,
        *,
        clock: IReactorTime,
        factory: ChatFactory,
        interval_seconds: float,
        visit: Callable[[ChatProtocol], object],
    ) -> None:
        self._factory = factory
        self._interval_seconds = interval_seconds
        self._visit = visit
        self._turns: list[list[ChatProtocol]] = []
        self._loop = LoopingCall(self._beat)
        self._loop.clock = clock

    def start(self) -> None:
        """Begin to beat."""
        if self._interval_seconds:
            self._loop.start(self._interval_seconds / _ROUND_SLICES, now=False)

    def stop(self) -> None:
        """Stop beating."""
        if self._loop.running:
            self._loop.stop()

    def _beat(self) -> None:
        if not self._turns:
            protocols = list(self._factory.protocols)
            self._turns = [protocols[turn::_ROUND_SLICES] for turn in range(_ROUND_SLICES)]
        for protocol in self._turns.pop():
            try:
                if protocol.state == protocol.STATE_OPEN:
                    self._visit(protocol)
            except Exception:
                self._log.failure("a visit failed")


def ping_or_drop(protocol: ChatProtocol) -> None:
    """Ping a connection of which nothing was heard since the last visit; drop it if it was pinged then already.

    Only bytes received count as life.
    """
    if protocol.reading_paused:
        return
    if protocol.heard:
        protocol.heard = protocol.pinged = False
    elif protocol.pinged:
        protocol.factory.counters.silent_clients_dropped += 1
        protocol.drop("silent: it answered no ping")
    else:
        protocol.pinged = True
        protocol.sendPing()
