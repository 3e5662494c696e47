"""The proof: what one virtual client received, what it was acknowledged, and what follows. Pure.

What is proven of every room and connection of a phase:

- the connection received each ``seq`` from the phase's first message on exactly once, in order, without a hole;
- each acknowledged message was broadcast, under the ``messageId`` of its ack, once, in its room, unchanged;
- under one ``seq`` all connections, whichever process holds them, received the same message.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from chatflow.load.tally import PhaseTally

# A jump of this many seqs is no lost message but nonsense, and is not kept count of one by one.
MAX_SEQ_JUMP = 100_000

# How a connection may end that the client did not cut: without a word, as when an instance is killed; or by one of the
# codes of an end in order (RFC 6455, 7.4.1 and IANA's registry: going away, service restart).
NO_CLOSE_FRAME = "no close frame"
_HARMLESS_ENDS = (NO_CLOSE_FRAME, "1001", "1012")


class SeqJump(Exception):
    """A ``seq`` is so far from the others of its room that holes cannot be listed."""


class Arrivals:
    """The seqs that one virtual client received. The scanner moves ``next`` itself while all goes well.

    :param tally: where doubled and late ones are counted.

    :ivar first: the lowest so far, 0 before any.
    :ivar next: one above the highest so far, 0 before any.
    :ivar missing: those between that have not come.
    """

    __slots__ = ("_tally", "first", "missing", "next")

    def __init__(self, tally: PhaseTally) -> None:
        self.first = self.next = 0
        self.missing: set[int] = set()
        self._tally = tally

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
            self._tally.out_of_order += 1
        elif seq < self.first:
            self.missing.update(range(seq + 1, self.first))
            self.first = seq
            self._tally.out_of_order += 1
        else:
            self._tally.duplicated += 1

    def judge(self, first: int, last: int) -> tuple[int, int]:
        """:param first, last: seqs of the phase's first and last message in the room.

        :return: how many messages this client had to receive since it joined, and how many of them it did.
        """
        if not self.next:
            return last - first + 1, 0
        expected = max(last, self.next - 1) - min(first, self.first) + 1
        return expected, self.next - self.first - len(self.missing)


class Ledger:
    """The messages that one virtual client sent, and what became of them.

    :param tally: where ids that changed are counted.

    :ivar in_flight: number → intended send time (µs) of the messages without an answer.
    :ivar halves: number → messageId of those that were either acknowledged or broadcast, but not yet both.
    :ivar next_number: of the next message to send; so many were sent.
    :ivar freed: places in the window that error frames freed: they do not say which message they refuse.
    """

    __slots__ = ("_tally", "freed", "halves", "in_flight", "next_number")

    def __init__(self, tally: PhaseTally) -> None:
        self.in_flight: dict[int, int] = {}
        self.halves: dict[int, str] = {}
        self.next_number = self.freed = 0
        self._tally = tally

    def pair(self, number: int, message_id: str) -> None:
        """A message was acknowledged, or was broadcast; the second of the two must name the same id."""
        other = self.halves.pop(number, None)
        if other is None:
            self.halves[number] = message_id
        elif other != message_id:
            self._tally.changed_ids += 1

    @property
    def waiting(self) -> int:
        """How many were sent and have had neither ack nor error."""
        return len(self.in_flight) - self.freed

    def never_broadcast(self) -> int:
        """How many were acknowledged and have not been seen in the room."""
        return sum(number not in self.in_flight for number in self.halves)


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
    "misrouted": "broadcasts in a room or phase where they do not belong",
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
