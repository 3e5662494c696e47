"""The proof: what one connection received, what one connection was acknowledged, and what follows. Pure.

What is proven of every room and connection of a phase:

- the connection received each ``seq`` from the phase's first message on exactly once, in order, without a hole;
- each acknowledged message was broadcast, under the ``messageId`` of its ack, once, in its room, unchanged;
- under one ``seq`` all connections, whichever process holds them, received the same message.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

# A jump of this many seqs is no lost message but nonsense, and is not kept count of one by one.
MAX_SEQ_JUMP = 100_000

# How a connection may end that the client did not cut: without a word, as when an instance is killed; or by one of the
# codes of an end in order (RFC 6455, 7.4.1 and IANA's registry: going away, service restart).
NO_CLOSE_FRAME = "no close frame"
_HARMLESS_ENDS = (NO_CLOSE_FRAME, "1001", "1012")


class SeqJump(Exception):
    """A ``seq`` is so far from the others of its room that holes cannot be listed."""


class Arrivals:
    """The seqs that one connection received. The scanner moves ``next`` itself while all goes well.

    :ivar first: the lowest so far, 0 before any.
    :ivar next: one above the highest so far, 0 before any.
    :ivar missing: those between that have not come.
    """

    __slots__ = ("duplicated", "first", "missing", "next", "out_of_order")

    def __init__(self) -> None:
        self.first = self.next = 0
        self.missing: set[int] = set()
        self.duplicated = 0
        self.out_of_order = 0

    def note(self, seq: int) -> None:
        """A broadcast came that is the first, or not the one after the last.

        :raises SeqJump: it is absurdly far away.
        """
        if not self.next:
            self.first, self.next = seq, seq + 1
        elif abs(seq - self.next) > MAX_SEQ_JUMP and not self.first <= seq < self.next:
            raise SeqJump(f"seq {seq} came where {self.next} was due")
        elif seq >= self.next:
            self.missing.update(range(self.next, seq))
            self.next = seq + 1
        elif seq in self.missing:
            self.missing.discard(seq)
            self.out_of_order += 1
        elif seq < self.first:
            self.missing.update(range(seq + 1, self.first))
            self.first = seq
            self.out_of_order += 1
        else:
            self.duplicated += 1

    def judge(self, first: int, last: int) -> tuple[int, int]:
        """:param first, last: seqs of the phase's first and last message in the room.

        :return: how many messages this connection had to receive since it joined, and how many of them it did.
        """
        if not self.next:
            return last - first + 1, 0
        expected = max(last, self.next - 1) - min(first, self.first) + 1
        return expected, self.next - self.first - len(self.missing)


class Ledger:
    """The messages that one connection sent, and what became of them.

    :ivar in_flight: number → intended send time (µs) of the messages without an answer.
    :ivar halves: number → messageId of those that were either acknowledged or broadcast, but not yet both.
    :ivar refused: error frames; they do not say which message they refuse.
    :ivar unexpected_acks: acks of something that was not in flight: never sent, or acknowledged before.
    :ivar changed_ids: messages whose broadcast carried another messageId than their ack.
    """

    __slots__ = ("acked", "changed_ids", "halves", "in_flight", "refused", "sent", "unexpected_acks")

    def __init__(self) -> None:
        self.in_flight: dict[int, int] = {}
        self.halves: dict[int, str] = {}
        self.sent = self.acked = self.refused = self.unexpected_acks = self.changed_ids = 0

    def pair(self, number: int, message_id: str) -> None:
        """A message was acknowledged, or was broadcast; the second of the two must name the same id."""
        other = self.halves.pop(number, None)
        if other is None:
            self.halves[number] = message_id
        elif other != message_id:
            self.changed_ids += 1

    @property
    def waiting(self) -> int:
        """How many were sent and have had neither ack nor error."""
        return len(self.in_flight) - self.refused

    def never_broadcast(self) -> int:
        """How many were acknowledged and have not been seen in the room."""
        return sum(number not in self.in_flight for number in self.halves)


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


class PhaseTally(msgspec.Struct):
    """What one process, or after :func:`merge` all of them, counted in a phase. Times are CLOCK_MONOTONIC in µs.

    :ivar unsent: messages that were planned but never written, because a connection was lost or time was up.
    :ivar returns: how often connections that were cut came back. :ivar resent: messages that were sent again.
    :ivar returns_refused: tries to come back that failed, for whichever reason; ``away_ticks``: how long each took.
    :ivar losses: of connections that come back, those that the client did not cut: how often, by close code or
        :data:`NO_CLOSE_FRAME`.
    :ivar expected, received: over connections, the messages of their room since they joined.
    :ivar repeated: deliveries of a message that had been broadcast before, under another seq.
    :ivar altered: broadcasts whose fields are not those that were sent.
    :ivar stray: broadcasts of this run's messages in a room or phase where they do not belong.
    :ivar conflicting: frames with the seq of another message, as other connections received it.
    :ivar foreign: messages of other senders; they count for order and completeness, not for latency.
    :ivar waited_seconds: how long the processes waited for a processor, 0 where the system does not tell.
    :ivar ack_buckets: see :class:`chatflow.load.latency.TicksOverTime`.
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
    stray: int = 0
    conflicting: int = 0
    foreign: int = 0
    room_seq_holes: int = 0
    start_us: int = 0
    end_us: int = 0
    cpu_seconds: list[float] = []
    waited_seconds: list[float] = []
    rooms: dict[int, RoomTally] = {}
    refusals: dict[str, int] = {}
    losses: dict[str, int] = {}
    types: dict[str, int] = {}
    acked_in_second: dict[int, int] = {}
    delivered_in_second: dict[int, int] = {}
    ack_buckets: dict[int, int] = {}
    ack_ticks: dict[int, int] = {}
    delivery_ticks: dict[int, int] = {}
    away_ticks: dict[int, int] = {}
    causes: list[str] = []

    @property
    def missing(self) -> int:
        return self.expected - self.received

    @property
    def seconds(self) -> float:
        """From the first send to the last ack or delivery."""
        return max(self.end_us - self.start_us, 1) / 1e6


_SEPARATELY = {"name", "start_us", "end_us", "rooms", "room_seq_holes"}


def merge(tallies: Sequence[PhaseTally]) -> PhaseTally:
    """The tallies of all processes of one phase, or of all phases, as one."""
    whole = PhaseTally(name=tallies[0].name)
    for tally in tallies:
        for name in PhaseTally.__struct_fields__:
            if name in _SEPARATELY:
                continue
            ours, theirs = getattr(whole, name), getattr(tally, name)
            if isinstance(ours, dict):
                for key, count in theirs.items():
                    ours[key] = ours.get(key, 0) + count
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


class Stored(msgspec.Struct):
    """What the database check found. :ivar holes: seqs that no row has, between rows of the run."""

    checked: int = 0
    missing: int = 0
    duplicated: int = 0
    holes: int = 0


_MUST_BE_ZERO: Mapping[str, str] = {
    "failed": "messages without an answer",
    "refused": "messages refused",
    "unsent": "messages not sent",
    "connections_lost": "connections lost",
    "unexpected_frames": "frames that are neither ack, error nor broadcast",
    "unexpected_acks": "acks of nothing that was in flight",
    "never_broadcast": "acknowledged messages that were never broadcast",
    "changed_ids": "messages broadcast with another messageId than their ack's",
    "missing": "deliveries missing",
    "duplicated": "deliveries that came twice",
    "repeated": "deliveries that repeated a message under another seq",
    "out_of_order": "deliveries out of order",
    "altered": "broadcasts that are not what was sent",
    "stray": "broadcasts in a room or phase where they do not belong",
    "conflicting": "broadcasts that differ from what others received under the same seq",
    "room_seq_holes": "seqs that no connection received",
}
_STORED_MUST_BE_ZERO: Mapping[str, str] = {
    "missing": "acknowledged messages that are not in it",
    "duplicated": "acknowledged messages that are in it more than once",
    "holes": "seqs that are not in it",
}


def causes_to_fail(phases: Iterable[PhaseTally], stored: Stored | None) -> list[str]:
    """One line for each figure that must be 0 and is not; the verdict is *pass* if there is none."""
    causes = []
    for phase in phases:
        causes += [f"{phase.name}: {cause}" for cause in [*phase.causes, *_not_zero(phase, _MUST_BE_ZERO)]]
        causes += [f"{phase.name}: refused as {code}: {count}" for code, count in sorted(phase.refusals.items())]
        causes += [
            f"{phase.name}: connections that the server closed with {code}: {count}"
            for code, count in sorted(phase.losses.items())
            if code not in _HARMLESS_ENDS
        ]
    if stored is not None:
        causes += [f"database: {cause}" for cause in _not_zero(stored, _STORED_MUST_BE_ZERO)]
    return causes


def _not_zero(counted: object, names: Mapping[str, str]) -> list[str]:
    return [f"{text}: {count}" for name, text in names.items() if (count := getattr(counted, name))]
