"""What every connection of this instance works with, as one value: made in the wiring, given to whoever needs it."""

from __future__ import annotations

from attrs import Factory, define, frozen
from twisted.internet.interfaces import IReactorTime

from chatflow.contracts.identity import ITokenVerifier
from chatflow.edge.accounts import Accounts
from chatflow.edge.backlog import Backlog
from chatflow.edge.compression import Compressor
from chatflow.edge.connections import Connections
from chatflow.edge.limits import EdgeLimits, LimitsInForce
from chatflow.edge.proxies import TrustedProxies, Unbelieved
from chatflow.edge.stored import StoredTracker
from chatflow.lifecycle.clocks import WallTime
from chatflow.rooms.hub import Hub
from chatflow.rooms.ingress import Ingress
from chatflow.rooms.moderator import Moderator
from chatflow.rooms.presence import Presence
from chatflow.rooms.resume import Resumer


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
    :ivar in_force: the limits that hold, which may change.
    :ivar backlog: what waits for all clients.
    :ivar accounts: what each address has and takes.
    :ivar unbelieved: who says who a client is, and is no trusted proxy.
    :ivar compressor: of what all members of a room are given.
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
    in_force: LimitsInForce
    ping_interval_seconds: float
    verifier: ITokenVerifier | None = None
    counters: EdgeCounters = Factory(EdgeCounters)
    accounts: Accounts = Factory(lambda self: Accounts(self.clock, self.in_force), takes_self=True)
    unbelieved: Unbelieved = Factory(lambda self: Unbelieved(self.clock), takes_self=True)
    compressor: Compressor = Factory(Compressor)
    backlog: Backlog = Factory(lambda self: Backlog(self.clock, self.in_force, self.accounts.limited), takes_self=True)

    @property
    def proxies(self) -> TrustedProxies:
        """Whose word is taken for who a client is."""
        return TrustedProxies.of(self.limits.trusted_proxy)

    @property
    def limits(self) -> EdgeLimits:
        """Those that hold now."""
        return self.in_force.limits

    @property
    def moderator(self) -> Moderator:
        """Says who may not be here."""
        return self.ingress.moderator
