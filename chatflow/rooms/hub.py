"""Members of each room on this instance, and what they have been given: next in line, seen, or a gap.

Every message comes with its room's ``seq``. The next one is delivered, one already seen is dropped, and one that is too
far ahead is held for a moment: when a room's head moves between instances, what the last one stored is often still on
its way. What has not come by then is read from the database. So a lost, doubled or late fan-out heals itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from attrs import Factory, define
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from chatflow.errors import Unavailable
from chatflow.rooms.interfaces import IHistory, IMember
from chatflow.rooms.messages import StoredMessage

_PAGE_MESSAGES = 1000
_RETRY_SECONDS = 1.0
#: Of one room, while a gap before them is open; what comes beyond that is read from the database.
_MAX_HELD_MESSAGES = 5000


@define
class _Room:
    members: dict[IMember, None] = Factory(dict)
    last_seq: int = 0
    #: The highest seq known to be stored; members are given the rest from the database.
    head: int = 0
    filling: bool = False
    #: Messages behind a gap, by the first one's seq.
    held: dict[int, Sequence[StoredMessage]] = Factory(dict)
    #: ``last_seq`` at the previous comparison with the database.
    compared_seq: int = -1


class Hub:
    """All rooms of this instance. Runs on the reactor thread.

    :param encode: makes of consecutive messages the bytes that each member is given; called once per delivery.
    :param patience_seconds: how long to wait for what is missing before it is read from the database.
    """

    _log = Logger()

    def __init__(
        self,
        *,
        clock: IReactorTime,
        history: IHistory,
        encode: Callable[[Sequence[StoredMessage]], bytes],
        patience_seconds: float = 0.0,
    ) -> None:
        self._clock = clock
        self._history = history
        self._encode = encode
        self._patience_seconds = patience_seconds
        self._rooms: dict[int, _Room] = {}
        self.delivered = 0
        self.failed = 0
        self.gaps_filled = 0
        self.duplicates_dropped = 0

    def start_at(self, room: int, seq: int) -> None:
        """Messages up to ``seq`` were stored before this instance began: they are history, not news."""
        state = self._room(room)
        state.last_seq = state.head = seq

    def join(self, room: int, member: IMember) -> None:
        """From now on ``member`` gets every message of the room."""
        self._room(room).members[member] = None

    def leave(self, room: int, member: IMember) -> None:
        """Nothing for ``member`` after the delivery under way, if any. Leaving twice is harmless."""
        self._room(room).members.pop(member, None)

    def members(self) -> dict[int, int]:
        """How many members each room with any has, by room."""
        return {room: len(state.members) for room, state in self._rooms.items() if state.members}

    def last_seq(self, room: int) -> int:
        """The room's last delivered seq."""
        return self._room(room).last_seq

    def deliver(self, messages: Sequence[StoredMessage]) -> None:
        """Give consecutive messages of one room, ascending, to its members, unless seen; what is missing first."""
        state = self._room(messages[0].room)
        first, last = messages[0].seq, messages[-1].seq
        if last <= state.last_seq:
            self.duplicates_dropped += len(messages)
            return
        state.head = max(state.head, last)
        if first > state.last_seq + 1:
            if sum(map(len, state.held.values())) + len(messages) <= _MAX_HELD_MESSAGES:
                state.held[first] = messages
            if not state.filling:
                self._fill(messages[0].room, state)
            return
        self._advance(state, messages)
        while state.held and min(state.held) <= state.last_seq + 1:
            self._advance(state, state.held.pop(min(state.held)))

    def announce(self, room: int, seq: int) -> None:
        """The room's messages up to ``seq`` are stored; read what its members lack."""
        state = self._room(room)
        if seq > state.last_seq:
            state.head = max(state.head, seq)
            if not state.filling:
                self._fill(room, state)

    async def compare_with_database(self) -> None:
        """Find messages whose fan-out was lost: a room that stood still since the last call and is behind its head."""
        for room, head in (await self._history.heads()).items():
            state = self._room(room)
            if state.compared_seq == state.last_seq:
                self.announce(room, head)
            state.compared_seq = state.last_seq

    def _room(self, room: int) -> _Room:
        state = self._rooms.get(room)
        if state is None:
            state = self._rooms[room] = _Room()
        return state

    def _advance(self, state: _Room, messages: Sequence[StoredMessage]) -> None:
        """Broadcast what of these messages is not seen yet; they begin at the next one or before it."""
        seen = state.last_seq + 1 - messages[0].seq
        self.duplicates_dropped += min(seen, len(messages))
        if seen < len(messages):
            self._broadcast(state, messages[seen:] if seen else messages)

    def _broadcast(self, state: _Room, messages: Sequence[StoredMessage]) -> None:
        state.last_seq = messages[-1].seq
        members = state.members
        if not members:
            return
        block = self._encode(messages)
        for member in tuple(members):
            try:
                member.deliver(block)
            except Exception:
                self.failed += len(messages)
                self._log.failure("a member of room {room} failed", room=messages[0].room)
        self.delivered += len(messages) * len(members)

    def _fill(self, room: int, state: _Room) -> None:
        state.filling = True
        Deferred.fromCoroutine(self._read_gap(room, state)).addErrback(
            lambda failure: self._log.failure("the gap in room {room} stays", failure, room=room)
        )

    async def _read_gap(self, room: int, state: _Room) -> None:
        try:
            if self._patience_seconds:
                await deferLater(self._clock, self._patience_seconds)
            while state.last_seq < state.head:
                head = state.head
                try:
                    page = await self._history.after(room, state.last_seq, _PAGE_MESSAGES)
                except Unavailable:
                    await deferLater(self._clock, _RETRY_SECONDS)
                    continue
                if page:
                    self.gaps_filled += 1
                    # It begins at the next message, or before it if others came meanwhile; or behind a hole, where
                    # retention has dropped messages.
                    state.last_seq = max(state.last_seq, page[0].seq - 1)
                    self.deliver(page)
                elif state.last_seq < head:
                    # What was committed is visible, so these messages are older than retention.
                    self._log.warn("room {room}: messages up to {seq} are gone", room=room, seq=head)
                    state.last_seq = head
        finally:
            state.filling = False
            state.held = {first: kept for first, kept in state.held.items() if kept[-1].seq > state.last_seq}
