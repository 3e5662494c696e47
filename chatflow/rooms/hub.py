"""Members of each room on this instance, and what they have been given: next in line, seen, or a gap.

Every message comes with its room's ``seq``. The next one is delivered, one already seen is dropped, and one that is too
far ahead is held for a moment: when a room's head moves between instances, what the last one stored is often still on
its way. What has not come by then is read from the database. So a lost, doubled or late fan-out heals itself.

A database that was restored, or a standby that took over behind, has rooms set back: their seqs are given anew. The hub
sees it by other messages under seqs that it has, or by a head behind what it has delivered, and begins anew from there.

Each room's newest messages are kept in its *replay buffer*, so that :mod:`chatflow.rooms.resume` can lead a member from
history to the live messages without holding up anything: history up to the buffer, the buffer, and then it joins.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Sequence

from attrs import Factory, define
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from chatflow.contracts.history import IHistory
from chatflow.contracts.members import IMember
from chatflow.contracts.messages import StoredMessage
from chatflow.errors import Unavailable

_PAGE_MESSAGES = 1000
_RETRY_SECONDS = 1.0
#: Of one room, while a gap before them is open; what comes beyond that is read from the database.
_MAX_HELD_MESSAGES = 5000
_MAX_REPLAY_MESSAGES = 500
_MAX_REPLAYS_MESSAGES = 10_000


@define
class _Block:
    """Consecutive messages as they were delivered. ``data``: as members are given them, once anybody was."""

    messages: Sequence[StoredMessage]
    data: bytes | None = None


@define
class _Room:
    members: dict[IMember, None] = Factory(dict)
    #: Members that have more than was delivered here, by the last seq that they have.
    ahead: dict[IMember, int] = Factory(dict)
    last_seq: int = 0
    #: The id of the message at ``last_seq``, if it was delivered here.
    last_id: str | None = None
    #: The highest seq known to be stored; members are given the rest from the database.
    head: int = 0
    filling: bool = False
    #: Messages behind a gap, by the first one's seq.
    held: dict[int, Sequence[StoredMessage]] = Factory(dict)
    #: ``last_seq`` at the previous comparison with the database.
    compared_seq: int = -1
    #: The newest messages, up to ``last_seq`` without a hole.
    replay: deque[_Block] = Factory(deque)
    replay_messages: int = 0
    #: The smallest seq since the last comparison that was dropped as seen, though nothing here says by which message.
    doubtful_seq: int | None = None
    #: ``last_seq`` and ``last_id`` when that one was dropped.
    doubted: tuple[int, str] | None = None

    def doubt(self, seq: int) -> None:
        """A message with this seq is dropped as seen, though nothing here says by which one."""
        if self.doubtful_seq is None and self.last_id is not None:
            self.doubted = self.last_seq, self.last_id
        self.doubtful_seq = min(seq, self.doubtful_seq or seq)

    def trust(self) -> None:
        """What was dropped as seen was seen."""
        self.doubtful_seq = self.doubted = None

    def seen_id(self, seq: int) -> str | None:
        """The id of the message that was delivered under a seq, if it is still known."""
        if seq == self.last_seq:
            return self.last_id
        for block in reversed(self.replay):
            first = block.messages[0].seq
            if first <= seq:
                found = block.messages[seq - first : seq - first + 1]
                return found[0].message.message_id if found else None
        return None


class Hub:
    """All rooms of this instance. Runs on the reactor thread.

    :param encode: makes of consecutive messages the bytes that each member is given; called once per delivery.
    :param gap_timeout_seconds: how long to wait now for what is missing before it is read from the database.
    :param max_replay_messages: in one room's replay buffer; about 1 KB each, 7 KB at most.
    :param max_replays_messages: in all buffers together; beyond it that room goes without that was silent for longest.
    """

    _log = Logger()

    def __init__(
        self,
        *,
        clock: IReactorTime,
        history: IHistory,
        encode: Callable[[Sequence[StoredMessage]], bytes],
        gap_timeout_seconds: Callable[[], float] = lambda: 0.0,
        max_replay_messages: int = _MAX_REPLAY_MESSAGES,
        max_replays_messages: int = _MAX_REPLAYS_MESSAGES,
    ) -> None:
        self._clock = clock
        self._history = history
        self._encode = encode
        self._gap_timeout_seconds = gap_timeout_seconds
        self._max_replay_messages = max_replay_messages
        self._max_replays_messages = max_replays_messages
        self._rooms: dict[int, _Room] = {}
        #: Rooms that have a replay buffer; the one whose last message is the oldest comes first.
        self._replays: OrderedDict[int, _Room] = OrderedDict()
        self._replays_messages = 0
        self.delivered = 0
        self.failed = 0
        self.gaps_filled = 0
        self._compared_gaps = 0
        self.duplicates_dropped = 0
        self.rooms_set_back = 0
        #: Called with a room and the first seq that is given anew in it, before anything of it is delivered.
        self.on_set_back: Callable[[int, int], object] | None = None
        #: Called with what was delivered in a room, behind its members.
        self.on_delivered: Callable[[Sequence[StoredMessage]], None] | None = None

    def start_at(self, room: int, seq: int) -> None:
        """Messages up to ``seq`` were stored before this instance began: they are history, not news."""
        state = self._room(room)
        state.last_seq, state.head, state.last_id = seq, seq, None

    def join(self, room: int, member: IMember, after: int = 0) -> None:
        """From now on ``member`` gets every message of the room that has a larger seq than ``after``.

        :param after: at least :meth:`last_seq`, or 0 for a member that wants what comes from now on.
        """
        state = self._room(room)
        if after > state.last_seq:
            state.members.pop(member, None)
            state.ahead[member] = after
        else:
            state.members[member] = None

    def leave(self, room: int, member: IMember) -> None:
        """Nothing for ``member`` after the delivery under way, if any. Leaving twice is harmless."""
        state = self._room(room)
        state.members.pop(member, None)
        state.ahead.pop(member, None)

    def members(self) -> dict[int, int]:
        """How many members each room with any has, by room."""
        counts = {room: len(state.members) + len(state.ahead) for room, state in self._rooms.items()}
        return {room: count for room, count in counts.items() if count}

    def last_seq(self, room: int) -> int:
        """The room's last delivered seq."""
        return self._room(room).last_seq

    def head(self, room: int) -> int:
        """The room's last seq, as far as this instance knows; what is beyond ``last_seq`` is on its way here."""
        state = self._room(room)
        return max(state.head, state.last_seq)

    def replay(self, room: int, after: int, max_bytes: int) -> tuple[bytes, int] | None:
        """What was delivered after a seq, for a member to be; None when that is no longer at hand.

        :param max_bytes: ends with the block that reaches it.
        :returns: encoded messages, without a hole, and the last one's seq; no bytes and ``after`` with nothing to give.
        """
        state = self._room(room)
        if after >= state.last_seq:
            return b"", after
        if not state.replay or after + 1 < state.replay[0].messages[0].seq:
            return None
        parts: list[bytes] = []
        size = 0
        for block in state.replay:
            last = block.messages[-1].seq
            if last <= after:
                continue
            missing = after + 1 - block.messages[0].seq
            if missing > 0:
                part = self._encode(block.messages[missing:])
            else:
                if block.data is None:
                    block.data = self._encode(block.messages)
                part = block.data
            parts.append(part)
            size += len(part)
            after = last
            if size >= max_bytes:
                break
        return b"".join(parts), after

    def deliver(self, messages: Sequence[StoredMessage]) -> None:
        """Give consecutive messages of one room, ascending, to its members, unless seen; what is missing first."""
        room = messages[0].room
        state = self._room(room)
        first, last = messages[0].seq, messages[-1].seq
        if first <= state.last_seq:
            self._verify(room, state, messages[: state.last_seq + 1 - first])
        if last <= state.last_seq:
            self.duplicates_dropped += len(messages)
            return
        state.head = max(state.head, last)
        if first > state.last_seq + 1:
            if sum(map(len, state.held.values())) + len(messages) <= _MAX_HELD_MESSAGES:
                state.held[first] = messages
            if not state.filling:
                self._fill(room, state)
            return
        self._advance(room, state, messages)
        while state.held and min(state.held) <= state.last_seq + 1:
            self._advance(room, state, state.held.pop(min(state.held)))

    def announce(self, room: int, seq: int) -> None:
        """The room's messages up to ``seq`` are stored; read what its members lack."""
        state = self._room(room)
        if seq > state.last_seq:
            state.head = max(state.head, seq)
            if not state.filling:
                self._fill(room, state)

    async def compare_with_database(self) -> bool:
        """Find rooms that were set back, and messages whose fan-out was lost.

        The latter in a room that stood still since the last call and is behind its head.

        :returns: whether there are such, or messages had to be read from the database since the last call.
        """
        # What had been delivered was stored then: a head that is smaller was set back.
        delivered = {room: state.last_seq for room, state in self._rooms.items()}
        heads = await self._history.heads()
        for room, seq in delivered.items():
            state, head = self._rooms[room], heads.get(room, 0)
            if head < seq <= state.last_seq:
                self._set_back(room, state, head + 1)
                self.announce(room, head)
            elif state.doubted is not None:
                await self._dispel(room, state, *state.doubted)
            state.trust()
        was_behind = self.gaps_filled != self._compared_gaps
        self._compared_gaps = self.gaps_filled
        for room, head in heads.items():
            state = self._room(room)
            if state.compared_seq == state.last_seq:
                was_behind = was_behind or head > state.last_seq
                self.announce(room, head)
            state.compared_seq = state.last_seq
        return was_behind

    async def _dispel(self, room: int, state: _Room, seq: int, message_id: str) -> None:
        """See whether a message that was delivered is stored still: if not, others have taken the place of it."""
        stored = await self._history.after(room, seq - 1, 1)
        if stored and stored[0].seq == seq and stored[0].message.message_id != message_id and seq <= state.last_seq:
            head = self.head(room)
            self._set_back(room, state, seq)
            self.announce(room, head)

    def _room(self, room: int) -> _Room:
        state = self._rooms.get(room)
        if state is None:
            state = self._rooms[room] = _Room()
        return state

    def _verify(self, room: int, state: _Room, messages: Sequence[StoredMessage]) -> None:
        """These seqs were delivered already; see whether with these messages."""
        seen = state.seen_id(messages[-1].seq)
        if seen is None:
            state.doubt(messages[0].seq)
        elif seen != messages[-1].message.message_id:
            others = (one.seq for one in messages if one.message.message_id != state.seen_id(one.seq))
            self._set_back(room, state, next(others))

    def _set_back(self, room: int, state: _Room, first: int) -> None:
        """From ``first`` on the room has other messages now, or none yet."""
        first = min(first, state.doubtful_seq or first)
        self._log.error(
            "room {room} was set back from message {last} to {first}: was the database restored?",
            room=room,
            last=state.last_seq,
            first=first - 1,
        )
        self.rooms_set_back += 1
        state.last_seq = state.head = first - 1
        state.last_id, state.compared_seq = None, -1
        state.trust()
        state.held.clear()
        self._drop_replay(room, state)
        state.members.update(state.ahead.fromkeys(state.ahead))
        state.ahead.clear()
        if self.on_set_back is not None:
            self.on_set_back(room, first)

    def _advance(self, room: int, state: _Room, messages: Sequence[StoredMessage]) -> None:
        """Broadcast what of these messages is not seen yet; they begin at the next one or before it."""
        seen = state.last_seq + 1 - messages[0].seq
        self.duplicates_dropped += min(seen, len(messages))
        if seen < len(messages):
            self._broadcast(room, state, messages[seen:] if seen else messages)

    def _broadcast(self, room: int, state: _Room, messages: Sequence[StoredMessage]) -> None:
        state.last_seq, state.last_id = messages[-1].seq, messages[-1].message.message_id
        block = _Block(messages)
        self._keep(room, state, block)
        members = state.members
        if members:
            data = block.data = self._encode(messages)
            for member in tuple(members):
                self._give(room, member, data, len(messages))
            self.delivered += len(messages) * len(members)
        if state.ahead:
            self._reach_those_ahead(room, state, messages)
        if self.on_delivered is not None:
            self.on_delivered(messages)

    def _give(self, room: int, member: IMember, data: bytes, count: int) -> None:
        try:
            member.deliver(data)
        except Exception:
            self.failed += count
            self._log.failure("a member of room {room} failed", room=room)

    def _reach_those_ahead(self, room: int, state: _Room, messages: Sequence[StoredMessage]) -> None:
        for member, seq in tuple(state.ahead.items()):
            if seq > state.last_seq or member not in state.ahead:
                continue
            del state.ahead[member]
            state.members[member] = None
            new = messages[seq + 1 - messages[0].seq :]
            if new:
                self._give(room, member, self._encode(new), len(new))
                self.delivered += len(new)

    def _keep(self, room: int, state: _Room, block: _Block) -> None:
        """Make the block the end of the room's replay buffer, and keep the limits."""
        replays, replay, count = self._replays, state.replay, len(block.messages)
        replay.append(block)
        state.replay_messages += count
        while state.replay_messages > self._max_replay_messages and len(replay) > 1:
            dropped = len(replay.popleft().messages)
            state.replay_messages -= dropped
            count -= dropped
        replays[room] = state
        replays.move_to_end(room)
        self._replays_messages += count
        while self._replays_messages > self._max_replays_messages and len(replays) > 1:
            _, oldest = replays.popitem(last=False)
            self._replays_messages -= oldest.replay_messages
            oldest.replay.clear()
            oldest.replay_messages = 0

    def _skip_to(self, room: int, state: _Room, seq: int) -> None:
        """There are no messages any more up to ``seq``, so the replay buffer begins anew."""
        if seq > state.last_seq:
            state.last_seq, state.last_id = seq, None
            self._drop_replay(room, state)
            for member, has in tuple(state.ahead.items()):
                if has <= seq:
                    del state.ahead[member]
                    state.members[member] = None

    def _drop_replay(self, room: int, state: _Room) -> None:
        self._replays_messages -= state.replay_messages
        self._replays.pop(room, None)
        state.replay.clear()
        state.replay_messages = 0

    def _fill(self, room: int, state: _Room) -> None:
        state.filling = True
        Deferred.fromCoroutine(self._read_gap(room, state)).addErrback(
            lambda failure: self._log.failure("the gap in room {room} stays", failure, room=room)
        )

    async def _read_gap(self, room: int, state: _Room) -> None:
        try:
            if gap_timeout_seconds := self._gap_timeout_seconds():
                await deferLater(self._clock, gap_timeout_seconds)
            while state.last_seq < state.head:
                head = state.head
                try:
                    page = await self._history.after(room, state.last_seq, _PAGE_MESSAGES)
                except Unavailable:
                    await deferLater(self._clock, _RETRY_SECONDS)
                    continue
                if page:
                    page = _without_hole(page)
                    self.gaps_filled += 1
                    # It begins at the next message, or before it if others came meanwhile; or behind a hole, where
                    # retention has dropped messages.
                    self._skip_to(room, state, page[0].seq - 1)
                    self.deliver(page)
                elif state.last_seq < head:
                    # What was committed is visible, so these messages are older than retention.
                    self._log.warn("room {room}: messages up to {seq} are gone", room=room, seq=head)
                    self._skip_to(room, state, head)
        finally:
            state.filling = False
            state.held = {first: kept for first, kept in state.held.items() if kept[-1].seq > state.last_seq}


def _without_hole(messages: Sequence[StoredMessage]) -> Sequence[StoredMessage]:
    """Those before the first hole."""
    first = messages[0].seq
    if messages[-1].seq - first == len(messages) - 1:
        return messages
    return [message for index, message in enumerate(messages) if message.seq == first + index]
