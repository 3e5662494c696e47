"""What every connection of this instance works with, as one value: made in the wiring, given to whoever needs it."""

from __future__ import annotations

from attrs import Factory, define, fields, frozen
from twisted.internet.interfaces import IReactorTime

from chatflow.contracts.identity import ITokenVerifier
from chatflow.edge.connections import Connections
from chatflow.edge.proxies import TrustedProxies
from chatflow.edge.stored import StoredTracker
from chatflow.lifecycle.clocks import WallTime
from chatflow.rooms.hub import Hub
from chatflow.rooms.ingress import Ingress
from chatflow.rooms.presence import Presence
from chatflow.rooms.resume import Resumer


@frozen
class EdgeLimits:
    """What connections may cost; see the options of the same names in ``docs/configuration.rst``."""

    max_frame_bytes: int
    max_connections: int
    max_pending_per_connection: int
    max_client_buffer_bytes: int
    send_timeout_seconds: float

    @classmethod
    def of(cls, options: object) -> EdgeLimits:
        """:param options: what has them as attributes."""
        return cls(**{field.name: getattr(options, field.name) for field in fields(cls)})


@define
class EdgeCounters:
    """Since the start, over all connections."""

    messages_received: int = 0
    messages_refused: int = 0
    acks_sent: int = 0
    connections_refused: int = 0
    slow_clients_closed: int = 0
    silent_clients_dropped: int = 0
    reads_paused: int = 0
    tokens_expired: int = 0


@frozen(kw_only=True)
class EdgeServices:
    """The parts of this instance that its connections meet.

    :ivar now: for the stamps of errors.
    :ivar rooms: rooms are numbered from 1 to this.
    :ivar connections: those that are open.
    :ivar verifier: of tokens; None if nobody is asked for one.
    :ivar proxies: whose word is taken for who a client is.
    :ivar ping_interval_seconds: how often a silent client is pinged; 0 for never.
    """

    clock: IReactorTime
    now: WallTime
    server_id: str
    rooms: int
    ingress: Ingress
    hub: Hub
    resumer: Resumer
    presence: Presence
    stored: StoredTracker
    connections: Connections
    limits: EdgeLimits
    ping_interval_seconds: float
    verifier: ITokenVerifier | None = None
    proxies: TrustedProxies = Factory(TrustedProxies)
    counters: EdgeCounters = Factory(EdgeCounters)
