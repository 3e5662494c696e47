"""A database and members for tests of the hub and of resuming, as their interfaces ask for them.

What members are given is each message's seq and a blank.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import TypeVar

from twisted.internet.defer import Deferred, fail, succeed
from zope.interface import implementer

from chatflow.contracts.history import IHistory, IPageHistory, Page
from chatflow.contracts.members import IMember, IResumingMember, Reset, Resumed
from chatflow.contracts.messages import StoredMessage
from tests.support.chat import make_stored

T = TypeVar("T")


def encode(messages: Sequence[StoredMessage]) -> bytes:
    """What members are given of some messages."""
    return b"".join(b"%d " % message.seq for message in messages)


@implementer(IHistory, IPageHistory)
class Store:
    """The database: what is in it, and whether it answers."""

    def __init__(self) -> None:
        self.rooms: dict[int, list[StoredMessage]] = {}
        self.dropped: set[int] = set()
        self.reads: list[tuple[int, int]] = []
        self.pages: list[tuple[int, int]] = []
        self.error: Exception | None = None
        self.holding = False
        self.held: list[Callable[[], None]] = []

    def commit(self, last_seq: int, room: int = 1) -> None:
        """Store up to ``last_seq`` messages of the room."""
        stored = self.rooms.setdefault(room, [])
        stored += [make_stored(seq, room) for seq in range(len(stored) + 1, last_seq + 1)]

    def drop(self, first: int, last: int) -> None:
        """Retention takes these messages of room 1, as far as they are stored."""
        self.dropped |= set(range(first, min(last, self._head(1)) + 1))

    def messages(self, first: int, last: int, room: int = 1) -> list[StoredMessage]:
        """Some that were stored, to be delivered."""
        return self.rooms[room][first - 1 : last]

    def after(self, room: int, seq: int, limit: int) -> Deferred[Sequence[StoredMessage]]:
        self.reads.append((room, seq))
        # As of the moment when it is read: what is committed later is not in it.
        return self._answer([one for one in self._kept(room) if one.seq > seq][:limit])

    def heads(self) -> Deferred[Mapping[int, int]]:
        return self._answer({room: self._head(room) for room in self.rooms})

    def page(self, room: int, first: int, last: int) -> Deferred[Page]:
        self.pages.append((room, first))
        kept = self._kept(room)
        found = [one for one in kept if first <= one.seq <= last]
        parts = [encode([one]) for one in found]
        behind = [one.seq for one in kept if one.seq > last]
        return self._answer(
            Page(
                last,
                array("q", [one.seq for one in found]),
                array("q", accumulate(map(len, parts))),
                b"".join(parts),
                self._head(room),
                behind[0] if behind and not found else None,
            )
        )

    def first_seq(self, room: int) -> Deferred[int]:
        return self._answer(next((one.seq for one in self._kept(room)), self._head(room) + 1))

    def let_go(self) -> None:
        """Answer the oldest read that is held."""
        self.held.pop(0)()

    def _kept(self, room: int) -> list[StoredMessage]:
        dropped = self.dropped if room == 1 else set()
        return [one for one in self.rooms.get(room, []) if one.seq not in dropped]

    def _head(self, room: int) -> int:
        return len(self.rooms.get(room, []))

    def _answer(self, result: T) -> Deferred[T]:
        if self.error is not None:
            return fail(self.error)
        if not self.holding:
            return succeed(result)
        answer: Deferred[T] = Deferred()
        self.held.append(lambda: answer.callback(result))
        return answer


@implementer(IMember)
class Member:
    """Writes down what it is given: a list of places per call."""

    def __init__(self, on_deliver: Callable[[], object] = lambda: None) -> None:
        self.blocks: list[list[int]] = []
        self._on_deliver = on_deliver

    def deliver(self, block: bytes) -> None:
        self.blocks.append([int(seq) for seq in block.split()])
        self._on_deliver()

    @property
    def seqs(self) -> list[int]:
        """All that it was given."""
        return [seq for block in self.blocks for seq in block]


@implementer(IResumingMember)
class ResumingMember(Member):
    """Also writes down what becomes of its wish, between the seqs; reads on only when it is told, if it is slow."""

    def __init__(self, *, slow: bool = False) -> None:
        super().__init__()
        self.slow = slow
        self.log: list[int | Resumed | Reset] = []
        self._undrained: Deferred[None] | None = None

    def deliver(self, block: bytes) -> None:
        assert self._undrained is None, "given more than it takes"
        super().deliver(block)
        self.log += self.blocks[-1]

    def resuming(self, result: Resumed | Reset) -> None:
        self.log.append(result)

    def drained(self) -> Deferred[None]:
        if not self.slow:
            return succeed(None)
        self._undrained = Deferred()
        return self._undrained

    def drain(self) -> None:
        """It has read everything."""
        drained, self._undrained = self._undrained, None
        if drained is not None and not drained.called:
            drained.callback(None)

    @property
    def results(self) -> list[Resumed | Reset]:
        """What it was told."""
        return [one for one in self.log if not isinstance(one, int)]
