"""What waits for all clients of an instance together, and when what was written to them is sent."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from typing import Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from chatflow.edge.limits import LimitsInForce
from chatflow.lifecycle import in_a_turn

#: So many clients are sent something in one turn of the reactor, and no more once so much time has gone by; then others
#: are heard. To send takes 0.01 ms or 0.1, by the system.
SENDS_PER_TURN = 64
SEND_SECONDS = 0.002


class Waiting(Protocol):
    """The writing side of one connection, as far as it matters here.

    :ivar backlog_bytes: what it keeps until the transport wants it.
    :ivar give_up: closes the connection, since its client reads too slowly.
    """

    backlog_bytes: int
    give_up: Callable[[], object]

    def send(self) -> None:
        """Send what was written in this turn of the reactor."""

    def stalled_seconds(self) -> float:
        """For how long the client has taken nothing although something waits."""


class Backlog:
    """What waits for all clients together: each block once, however many wait for it. Runs on the reactor thread.

    Beyond ``--max-buffered-bytes`` the clients for which the most waits are given up.

    :param limited: is told of them.
    :ivar waiting_bytes: how much that is.
    """

    _log = Logger()

    def __init__(self, clock: IReactorTime, in_force: LimitsInForce, limited: Counter[str]) -> None:
        self._clock = clock
        self._in_force = in_force
        self._limited = limited
        self._copies: dict[int, int] = {}
        self._behind: dict[Waiting, None] = {}
        self._look: IDelayedCall | None = None
        self._hurried: list[Waiting] = []
        self._unsent: deque[Waiting] = deque()
        self.waiting_bytes = 0

    def send_soon(self, outgoing: Waiting) -> None:
        """Have it send, at the end of this turn of the reactor, what was written meanwhile; or of a later one, if it is
        one of very many."""
        if not self._unsent:
            self._clock.callLater(0, self.send)
        self._unsent.append(outgoing)

    def hurry(self, outgoing: Waiting) -> None:
        """Have it send before others, since its client waits for that. What it sends was written before."""
        self._hurried.append(outgoing)

    def send(self) -> None:
        """Have those send to whom something was written lately: an answer to all, a broadcast to some at a time."""
        hurried, self._hurried = self._hurried, []
        for outgoing in hurried:
            self._send(outgoing)
        unsent = self._unsent
        for _ in in_a_turn(self._clock.seconds, min(len(unsent), SENDS_PER_TURN), SEND_SECONDS):
            self._send(unsent.popleft())
        if unsent:
            self._clock.callLater(0, self.send)

    def _send(self, outgoing: Waiting) -> None:
        try:
            outgoing.send()
        except Exception:  # the others are to be sent theirs
            self._log.failure("what was written to a client was not sent")

    @property
    def clients(self) -> int:
        """How many of them something waits for."""
        return len(self._behind)

    def add(self, outgoing: Waiting, block: bytes) -> None:
        """Another client waits for this block."""
        # A block that is referred to keeps its identity.
        copies = self._copies.get(id(block), 0)
        self._copies[id(block)] = copies + 1
        if not copies:
            self.waiting_bytes += len(block)
            most = self._in_force.limits.max_buffered_bytes
            if most and self.waiting_bytes > most and self._look is None:
                # Not here: whoever is ended may be one of those who are just written to.
                self._look = self._clock.callLater(0, self._end_largest)
        self._behind[outgoing] = None

    def remove(self, block: bytes) -> None:
        """One client less waits for it."""
        copies = self._copies[id(block)] - 1
        if copies:
            self._copies[id(block)] = copies
        else:
            del self._copies[id(block)]
            self.waiting_bytes -= len(block)

    def leave(self, outgoing: Waiting) -> None:
        """Nothing waits for this client any more."""
        self._behind.pop(outgoing, None)

    def _end_largest(self) -> None:
        self._look = None
        by_size = sorted(self._behind, key=lambda each: (each.backlog_bytes, each.stalled_seconds()), reverse=True)
        for outgoing in by_size:
            most = self._in_force.limits.max_buffered_bytes
            if not most or self.waiting_bytes <= most:
                break
            self._limited["buffered_bytes"] += 1
            outgoing.give_up()
