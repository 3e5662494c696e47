"""A room as all connections of this process see it: each message is judged once, and kept for a while as bytes.

All members of a room receive the same broadcast frames in the same order. So the first connection that a message
reaches decodes and judges it; its bytes go to the end of the room's log; and what other connections receive is
compared with the log, thousands of frames at a time, by memcmp. This is a proof, not a shortcut: a connection that
was handed equal bytes has received exactly those messages in exactly that order.

Nothing depends on the bytes being equal, though. Where they differ, the frame is decoded, and judged by its seq and
by a fingerprint of all its fields, which is remembered for every seq of the phase.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence

from chatflow.load.proof import MAX_SEQ_JUMP, Arrivals, Ledger, SeqJump
from chatflow.load.scenario import Kind, VirtualClient
from chatflow.load.tally import PhaseTally, RoomTally
from chatflow.load.wire import ServerFrame

TICK_US = 100  # resolution of latencies: 0.1 ms

# Usually an ack follows where a run of broadcasts ends: a hint where to look, nothing more.
ACK_START = b'{"status"'
ACK_HEADER_BYTES = 4

_TRIM_BYTES = 1 << 20
_MAX_BYTES = 8 << 20


class RoomLog:
    """:param room: its id.
    :param run: the run's name, as in the messages.
    :param clients: the phase's virtual clients in this room, in all processes.
    :param first_client: the lowest number of the phase's clients in any room.
    :param kinds: see :func:`chatflow.load.scenario.kinds`.
    :param tally: where it is counted what a broadcast is, if it is not what was sent.

    :ivar arrivals: of this process's clients in the room.
    :ivar ledgers: of those that send, by the client's number.
    :ivar acked: acknowledged messages of this process's clients in the room.
    :ivar next: one above the highest seq that any connection received; 0 before any.
    :ivar first, last: lowest and highest seq of the run's own messages, 0 before any.
    """

    def __init__(
        self,
        room: int,
        run: str,
        clients: Iterable[VirtualClient],
        first_client: int,
        kinds: Sequence[Kind],
        tally: PhaseTally,
    ) -> None:
        self.arrivals: list[Arrivals] = []
        self.ledgers: dict[str, Ledger] = {}
        self.next = self.first = self.last = 0
        self.acked = 0
        self._tally = tally
        self._room = str(room)
        self._mark = f" ~{run}"
        self._first_client = first_client
        self._kinds = kinds
        self._broadcast = {str(client.number): bytearray(client.messages) for client in clients}
        # of each seq from _first_print on: hash of the message, 0 while no connection has received it
        self._first_print = 0
        self._prints = array("q")
        # The window: frames of the seqs from _window_seq on, one after the other. A seq whose frame is not known,
        # or not worth comparing, has no bytes in it and is among the gaps.
        self._window_seq = 0
        self._bytes = bytearray()
        self._base = 0  # offset of _bytes[0] in the room's stream
        self._offsets = [0]  # where each frame starts; then where the last one ends
        self._ticks: list[int] = []
        self._gaps: list[int] = []
        self._trim_at = _TRIM_BYTES

    def match(self, seq: int, data: bytes, at: int) -> tuple[int, int]:
        """How many frames of the log, from *seq* on, stand in *data* at *at*, and where they end."""
        offsets = self._offsets
        index = seq - self._window_seq
        if not 0 <= index < len(self._ticks):
            return 0, at
        start = offsets[index]
        shift = at - start
        until = bisect_right(offsets, len(data) - shift, index) - 1
        if self._gaps:
            gap = bisect_left(self._gaps, seq)
            if gap < len(self._gaps):
                until = min(until, self._gaps[gap] - self._window_seq)
        if until <= index:
            return 0, at
        same, where = self._bytes.startswith, start - self._base
        end = offsets[until] + shift
        if same(data[at:end], where):
            return until - index, end
        other = data.find(ACK_START, at, end) - ACK_HEADER_BYTES
        if other > at:
            before = bisect_right(offsets, other - shift, index) - 1
            if offsets[before] + shift == other and same(data[at:other], where):
                return before - index, other
        equal = index
        while until - equal > 1:
            middle = (equal + until) // 2
            if same(data[at : offsets[middle] + shift], where):
                equal = middle
            else:
                until = middle
        return equal - index, offsets[equal] + shift

    def ticks(self, seq: int, count: int) -> list[int]:
        """Intended send times of *count* logged messages from *seq* on, in units of ``TICK_US``."""
        index = seq - self._window_seq
        return self._ticks[index : index + count]

    def observe(self, frame: ServerFrame, raw: bytes) -> int:
        """A connection decoded a broadcast, whose frame is *raw*.

        :return: its intended send time in µs, or 0 if it is not of this run.
        :raises SeqJump: see :class:`chatflow.load.proof.Arrivals`.
        """
        seq = frame.seq
        words = frame.message.rsplit(".", 5)
        own = len(words) == 6 and words[0].endswith(self._mark)
        try:
            sent_us = int(words[5]) if own else 0
        except ValueError:
            sent_us = 0
        # hash() of strings is keyed per run: worker processes are started with the same PYTHONHASHSEED
        # All that a broadcast has: whether live or from history, by whichever instance, every receiver gets the same.
        content = (seq, frame.messageId, frame.roomId, frame.userId, frame.username, frame.message)
        print_ = hash((*content, frame.timestamp, frame.messageType, frame.serverId)) or 1
        if not self._prints:
            self.next = self._first_print = self._window_seq = seq
        index = seq - self._first_print
        if 0 <= index < len(self._prints) and self._prints[index]:
            self._tally.conflicting += self._prints[index] != print_
            return sent_us
        if seq == self.next:
            self._prints.append(print_)
            if sent_us:
                self._bytes += raw
                self._offsets.append(self._offsets[-1] + len(raw))
                self._ticks.append(sent_us // TICK_US)
                self.next = seq + 1
                if len(self._bytes) > self._trim_at:
                    self._trim()
            else:
                self._append_gap()
        else:
            self._observe_elsewhere(seq, print_)
        if own:
            self._judge(frame, words, sent_us)
        else:
            self._tally.foreign += 1
            self._tally.misrouted += frame.roomId != self._room
        return sent_us

    def _observe_elsewhere(self, seq: int, print_: int) -> None:
        if abs(seq - self.next) > MAX_SEQ_JUMP and not self._first_print <= seq < self.next:
            raise SeqJump(f"seq {seq} came where {self.next} was due")
        if seq < self._first_print:
            self._prints = array("q", bytes(8 * (self._first_print - seq))) + self._prints
            self._first_print = seq
        while self.next <= seq:
            self._prints.append(0)
            self._append_gap()
        self._prints[seq - self._first_print] = print_

    def _append_gap(self) -> None:
        self._gaps.append(self.next)
        self._offsets.append(self._offsets[-1])
        self._ticks.append(0)
        self.next += 1

    def _judge(self, frame: ServerFrame, words: list[str], sent_us: int) -> None:
        """One of our messages is seen for the first time: is it what was sent, and is it acknowledged as such?"""
        text, connection, number_word, user, kind_word, _ = words
        marks = self._broadcast.get(connection)
        if marks is None:
            if self._is_of_the_phase_before(connection, frame):
                self._tally.foreign += 1
            else:
                self._tally.misrouted += 1
            return
        try:
            number, kind = int(number_word), self._kinds[int(kind_word)]
            repeated = marks[number]
        except (ValueError, IndexError):
            self._tally.altered += 1
            return
        if (
            not sent_us
            or text != kind.phrase + self._mark
            or frame.messageType != kind.type
            or frame.userId != user
            or frame.username != "user" + user
            or frame.roomId != self._room
        ):
            self._tally.altered += 1
        seq = frame.seq
        if seq > self.last:
            self.last = seq
        if seq < self.first or not self.first:
            self.first = seq
        if repeated:
            self._tally.repeated += len(self.arrivals)  # all of the room receive it
            return
        marks[number] = 1
        ledger = self.ledgers.get(connection)
        if ledger is not None:
            ledger.pair(number, frame.messageId)

    def _is_of_the_phase_before(self, connection: str, frame: ServerFrame) -> bool:
        """An instance that lags behind the others delivers the phase before to who connects early.

        But nothing of it may come behind this phase's own messages.
        """
        earlier = connection.isdigit() and int(connection) < self._first_client
        return earlier and frame.roomId == self._room and not 0 < self.first < frame.seq

    def _trim(self) -> None:
        """Forget the bytes that all connections have passed. One that hangs back far will have its frames decoded."""
        passed = min((arrivals.next for arrivals in self.arrivals), default=self.next)
        count = min(max(passed - self._window_seq, 0), len(self._ticks))
        if len(self._bytes) > _MAX_BYTES:
            count = max(count, len(self._ticks) // 2)
        cut = self._offsets[count] - self._base
        del self._bytes[:cut], self._offsets[:count], self._ticks[:count]
        self._base += cut
        self._window_seq += count
        del self._gaps[: bisect_left(self._gaps, self._window_seq)]
        self._trim_at = max(_TRIM_BYTES, 2 * len(self._bytes))

    def summary(self, first: int, last: int, ids: bytes) -> RoomTally:
        """:param first, last: the phase's first and last seq in this room, as all processes together know them.
        :param ids: see :class:`chatflow.load.tally.RoomTally`.
        """
        if not last or not self._prints:
            return RoomTally(connections=len(self.arrivals), ids=ids)
        start = self._first_print
        low, high = max(first, start), min(last, start + len(self._prints) - 1)
        prints = self._prints[low - start : high - start + 1]
        return RoomTally(
            connections=len(self.arrivals),
            acked=self.acked,
            first=low if prints else 0,
            last=high if prints else 0,
            unseen=[low + index for index, print_ in enumerate(prints) if not print_],
            digest=sum(prints) & 0xFFFFFFFFFFFFFFF,
            ids=ids,
        )
