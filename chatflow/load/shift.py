"""A phase under way in one process: its connections, and what can be said about them all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs

from chatflow.load.client import Counts, LoadConnection
from chatflow.load.clock import processor_seconds
from chatflow.load.interfaces import Bounds
from chatflow.load.output import KeptAcks
from chatflow.load.roomlog import RoomLog
from chatflow.load.scenario import Kind, Phase
from chatflow.load.verify import PhaseTally


@attrs.define
class Shift:
    """The connections and what they counted; made when the phase is opened, read when it ends."""

    phase: Phase
    counts: Counts
    kept: KeptAcks
    logs: Mapping[int, RoomLog]
    connections: list[LoadConnection]
    _used: tuple[float, float] = (0.0, 0.0)

    def begin(self, start_us: int) -> None:
        self.counts.start_us = self.counts.progress_us = start_us
        self._used = processor_seconds()

    def waiting(self) -> int:
        """How many messages are sent but not answered, on living connections."""
        return sum(connection.ledger.waiting for connection in self.connections if not connection.lost)

    def never_broadcast(self) -> int:
        return sum(connection.ledger.never_broadcast() for connection in self.connections)

    def is_servers_turn(self) -> bool:
        """Whether anything that was sent waits for its answer or its broadcast."""
        return bool(self.waiting() or self.never_broadcast())

    def unanswered(self) -> int:
        """What :meth:`ICrew.work` waits for: answers, then broadcasts."""
        return self.counts.owed or sum(c.ledger.never_broadcast() for c in self.connections if not c.lost)

    def behind(self, bounds: Bounds) -> int:
        """How many deliveries are to come, if there are no holes."""
        return sum(
            max(0, last + 1 - max(connection.arrivals.next, first))
            for connection in self.connections
            if not connection.lost
            for first, last in [bounds.get(connection.seat.room, (0, -1))]
        )

    def bounds(self) -> Bounds:
        return {room: (log.first, log.last) for room, log in self.logs.items() if log.last}

    def unanswered_rows(self) -> list[tuple[int, int]]:
        return [
            (sent_us, connection.seat.room)
            for connection in self.connections
            for sent_us in connection.ledger.in_flight.values()
        ]

    def abort(self) -> None:
        for connection in self.connections:
            connection.abort()

    def tally(self, bounds: Bounds, kinds: Sequence[Kind]) -> PhaseTally:
        """What was counted and what follows from it."""
        counts = self.counts
        cpu, waited = (now - then for now, then in zip(processor_seconds(), self._used, strict=True))
        tally = PhaseTally(
            name=self.phase.name,
            connections=len(self.connections),
            messages=sum(connection.seat.messages for connection in self.connections),
            acked=counts.acked,
            connections_lost=counts.lost,
            returns=counts.returns,
            resent=counts.resent,
            returns_refused=counts.returns_refused,
            unexpected_frames=counts.unexpected_frames,
            start_us=counts.start_us,
            end_us=counts.progress_us,
            cpu_seconds=[cpu],
            waited_seconds=[waited],
            refusals=dict(counts.refusals),
            losses=dict(counts.losses),
            acked_in_second=dict(counts.acked_in_second),
            delivered_in_second=dict(counts.delivered_in_second),
            ack_buckets=counts.acks.buckets(),
            ack_ticks=counts.acks.ticks,
            delivery_ticks=dict(counts.delivery_ticks),
            away_ticks=dict(counts.away_ticks),
            causes=counts.causes,
        )
        for connection in self.connections:
            ledger, arrivals, room = connection.ledger, connection.arrivals, connection.seat.room
            tally.sent += ledger.sent
            tally.refused += ledger.refused
            tally.failed += ledger.waiting
            tally.unsent += connection.unsent
            tally.unexpected_acks += ledger.unexpected_acks
            tally.changed_ids += ledger.changed_ids
            tally.never_broadcast += ledger.never_broadcast()
            tally.duplicated += arrivals.duplicated
            tally.out_of_order += arrivals.out_of_order
            if room in bounds:
                expected, received = arrivals.judge(*bounds[room])
                tally.expected += expected
                tally.received += received
        for room, log in self.logs.items():
            tally.repeated += log.repeated * len(log.arrivals)
            tally.altered += log.altered
            tally.stray += log.stray
            tally.conflicting += log.conflicting
            tally.foreign += log.foreign
            ids = bytes(self.kept.ids[room]) if room in self.kept.ids else b""
            tally.rooms[room] = log.tally(*bounds.get(room, (0, 0)), ids)
        for kind, count in counts.kinds.items():
            name = kinds[kind].type
            tally.types[name] = tally.types.get(name, 0) + count
        return tally
