"""What the virtual clients of one process observe in one phase goes here: counted, timed, and kept for the results."""

from __future__ import annotations

from collections.abc import Sequence

from chatflow.load.latency import TicksOverTime
from chatflow.load.output import KeptAcks
from chatflow.load.roomlog import TICK_US
from chatflow.load.scenario import Kind
from chatflow.load.tally import PhaseTally
from chatflow.load.wall_clock import Clock
from chatflow.load.wire import ServerFrame

# Connections that were lost and are told one by one; the others are only counted.
_MAX_LOSSES_TOLD = 5

AckRow = tuple[int, int, int]
"""Of a message that was acknowledged: intended send time (µs), kind, latency (ticks)."""


class Recorder:
    """:param name: the phase's.
    :param kinds: see :func:`chatflow.load.scenario.kinds`.
    :param kept: takes what is needed of each acknowledgement after the phase.

    :ivar tally: all counts; read after :meth:`close`.
    """

    def __init__(self, name: str, clock: Clock, kinds: Sequence[Kind], kept: KeptAcks) -> None:
        self.clock = clock
        self.kept = kept
        self.tally = PhaseTally(name=name)
        self.types = [kind.type for kind in kinds]
        self._acks = TicksOverTime(self.tally.ack_ticks, self.tally.ack_buckets)

    def begin(self, start_us: int) -> None:
        """The first message is sent now (CLOCK_MONOTONIC, µs)."""
        self.tally.start_us = self.tally.end_us = start_us

    @property
    def has_begun(self) -> bool:
        """Whether messages may be sent: all are in their rooms."""
        return bool(self.tally.start_us)

    def received(self, now_us: int, delivered: int) -> None:
        """A chunk of bytes came, with so many broadcasts."""
        tally = self.tally
        if self.has_begun:
            tally.delivered_in_second[(now_us - tally.start_us) // 1_000_000] += delivered
        tally.end_us = now_us

    def acknowledged(self, now_us: int, room: int, acks: Sequence[ServerFrame], rows: Sequence[AckRow]) -> None:
        """Acknowledgements came.

        :param acks: all of them.
        :param rows: those of messages that were in flight.
        """
        tally, types = self.tally, self.types
        second = (now_us - tally.start_us) // 1_000_000
        tally.acked += len(rows)
        tally.acked_in_second[second] += len(rows)
        tally.types.update([types[row[1]] for row in rows])
        self._acks.update(second, [row[2] for row in rows])
        self.kept.add(room, [ack.messageId for ack in acks], rows)

    def returned(self, away_seconds: float) -> None:
        """A connection that had ended was made anew."""
        self.tally.returns += 1
        self.tally.away_ticks[int(away_seconds * 1e6) // TICK_US] += 1

    def lost(self, client: str, cause: str) -> None:
        """A virtual client is without a connection for good. :param client: says which one."""
        self.tally.connections_lost += 1
        if len(self.tally.causes) < _MAX_LOSSES_TOLD:
            self.tally.causes.append(f"connection {client}: {cause}")

    def no_progress(self, seconds: float, what: str) -> None:
        """Nothing changed for so long, and *what* is still to come."""
        self.tally.causes.append(f"no progress for {seconds:g} s; {what}")

    def close(self) -> None:
        """Close the books of a phase: what comes later counts for none."""
        self._acks.close()
