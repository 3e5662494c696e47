"""What one process counts in a phase, in one value that is sent as it is and merged with those of others. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, get_args

import msgspec


class RoomTally(msgspec.Struct):
    """What one process saw of a room in a phase.

    :ivar first, last: seqs of the phase's messages; 0 when none was seen.
    :ivar unseen: seqs between that this process did not receive on any connection.
    :ivar digest: of all fields of all from first to last; equal in all processes of the run.
    :ivar ids: 16 bytes for each acknowledged messageId, if the database is to be checked.
    """

    connections: int = 0
    acked: int = 0
    first: int = 0
    last: int = 0
    unseen: list[int] = []
    digest: int = 0
    ids: bytes = b""


def _counter() -> Any:
    return msgspec.field(default_factory=Counter)


class PhaseTally(msgspec.Struct):
    """What one process, or after :func:`merge` all of them, counted in a phase. Times are CLOCK_MONOTONIC in µs.

    Whoever observes something in a process counts it here, when it happens. Only what is known at the end of the phase
    is added then, by :meth:`chatflow.load.phase.RunningPhase.finish`: what is failed and unsent of connections that are
    not lost, never_broadcast, expected, received, processor times and rooms.

    :ivar failed: messages that had neither ack nor error when their connection was lost or the phase ended.
    :ivar unsent: messages that were planned but never written, because a connection was lost or time was up.
    :ivar delivered: broadcasts that were received, whoever sent them and however often.
    :ivar returns: how often connections that were cut came back. :ivar resent: messages that were sent again.
    :ivar returns_refused: tries to come back that failed, for whichever reason; ``away_ticks``: how long each took.
    :ivar losses: of connections that come back, those that the client did not cut: how often, by close code or
        :data:`chatflow.load.proof.NO_CLOSE_FRAME`.
    :ivar unexpected_acks: acks of something that was not in flight: never sent, or acknowledged before.
    :ivar changed_ids: messages whose broadcast carried another messageId than their ack.
    :ivar expected, received: over connections, the messages of their room since they joined.
    :ivar repeated: deliveries of a message that had been broadcast before, under another seq.
    :ivar altered: broadcasts whose fields are not those that were sent.
    :ivar misrouted: broadcasts of this run's messages in a room or phase where they do not belong.
    :ivar conflicting: frames with the seq of another message, as other connections received it.
    :ivar foreign: messages of other senders; they count for order and completeness, not for latency.
    :ivar end_us: when something was last received.
    :ivar waited_seconds: how long the processes waited for a processor, 0 where the system does not tell.
    :ivar types: acknowledged messages by type.
    :ivar ack_ticks, ack_buckets: see :class:`chatflow.load.latency.TicksOverTime`.
    :ivar causes: why this phase cannot pass, beyond what the figures say.
    """

    name: str = ""
    connections: int = 0
    messages: int = 0
    sent: int = 0
    acked: int = 0
    refused: int = 0
    failed: int = 0
    unsent: int = 0
    delivered: int = 0
    connections_lost: int = 0
    returns: int = 0
    resent: int = 0
    returns_refused: int = 0
    unexpected_frames: int = 0
    unexpected_acks: int = 0
    changed_ids: int = 0
    never_broadcast: int = 0
    expected: int = 0
    received: int = 0
    duplicated: int = 0
    out_of_order: int = 0
    repeated: int = 0
    altered: int = 0
    misrouted: int = 0
    conflicting: int = 0
    foreign: int = 0
    room_seq_holes: int = 0
    start_us: int = 0
    end_us: int = 0
    cpu_seconds: list[float] = []
    waited_seconds: list[float] = []
    rooms: dict[int, RoomTally] = {}
    refusals: Counter[str] = _counter()
    losses: Counter[str] = _counter()
    types: Counter[str] = _counter()
    acked_in_second: Counter[int] = _counter()
    delivered_in_second: Counter[int] = _counter()
    ack_buckets: Counter[int] = _counter()
    ack_ticks: Counter[int] = _counter()
    delivery_ticks: Counter[int] = _counter()
    away_ticks: Counter[int] = _counter()
    causes: list[str] = []

    @property
    def owed(self) -> int:
        """How many messages of living connections have had no answer, sent or not."""
        return self.messages - self.acked - self.refused - self.failed - self.unsent

    @property
    def missing(self) -> int:
        """How many deliveries did not come."""
        return self.expected - self.received

    @property
    def seconds(self) -> float:
        """From the first send to the last ack or delivery."""
        return max(self.end_us - self.start_us, 1) / 1e6


def decode_counter(kind: Any, value: Any) -> Any:
    """The ``dec_hook`` of a msgspec decoder that meets tallies: a Counter's keys are strings in JSON."""
    return Counter(msgspec.convert(value, dict[get_args(kind)[0], int], str_keys=True))  # type: ignore[misc]


_SEPARATELY = {"name", "start_us", "end_us", "rooms", "room_seq_holes"}


def merge(tallies: Sequence[PhaseTally]) -> PhaseTally:
    """The tallies of all processes of one phase, or of all phases, as one; the parts stay as they are."""
    whole = PhaseTally(name=tallies[0].name)
    for tally in tallies:
        for name in PhaseTally.__struct_fields__:
            if name in _SEPARATELY:
                continue
            ours, theirs = getattr(whole, name), getattr(tally, name)
            if isinstance(ours, Counter):
                ours.update(theirs)
            else:
                setattr(whole, name, ours + theirs)
    whole.start_us = min(tally.start_us for tally in tallies)
    whole.end_us = max(tally.end_us for tally in tallies)
    return whole


def merge_processes(tallies: Sequence[PhaseTally]) -> PhaseTally:
    """One phase as all processes saw it: a seq is a hole if no connection of any process received it."""
    whole = merge(tallies)
    for room in sorted({room for tally in tallies for room in tally.rooms}):
        views = [tally.rooms[room] for tally in tallies if room in tally.rooms]
        seen = [view for view in views if view.last]
        merged = RoomTally(
            connections=sum(view.connections for view in views),
            acked=sum(view.acked for view in views),
            ids=b"".join(view.ids for view in views),
        )
        whole.rooms[room] = merged
        if not seen:
            continue
        merged.first, merged.last = min(view.first for view in seen), max(view.last for view in seen)
        merged.unseen = sorted(set.intersection(*(_unseen(view, merged.first, merged.last) for view in seen)))
        whole.room_seq_holes += len(merged.unseen)
        complete = [
            v for v in seen if not v.unseen and (v.first, v.last) == (merged.first, merged.last)
        ]  # the others have missed something, which is counted elsewhere
        if len({view.digest for view in complete}) > 1:
            whole.conflicting += 1
            whole.causes.append(f"room {room}: the processes of this client received different messages")
    return whole


def _unseen(view: RoomTally, first: int, last: int) -> set[int]:
    return {*view.unseen, *range(first, view.first), *range(view.last + 1, last + 1)}


def acknowledged(phases: Iterable[PhaseTally]) -> dict[int, RoomTally]:
    """What was acknowledged in all phases together, by room; rooms without any message are left out."""
    whole: dict[int, RoomTally] = {}
    for phase in phases:
        for room, tally in phase.rooms.items():
            if tally.last:
                known = whole.setdefault(room, RoomTally(first=tally.first))
                known.first = min(known.first, tally.first)
                known.last = max(known.last, tally.last)
                known.ids += tally.ids
    return whole
