"""Pages of history, read once for all who need the same one, by few at a time.

A page is an aligned range of a room's seqs, so that members who resume from different places share them. They are kept,
up to a number of bytes; the newest one still grows, and is read again by who needs what it does not have yet.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import TypeVar

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from chatflow.contracts.history import IPageHistory, Page
from chatflow.errors import Unavailable

T = TypeVar("T")

_PAGE_MESSAGES = 1000
_CACHE_BYTES = 32 * 1024 * 1024
_RETRY_SECONDS = 0.5
_FIRST_SEQ_SECONDS = 10.0
#: Nobody waits longer for a first seq, which is nothing but a hint.
_FIRST_SEQ_PATIENCE_SECONDS = 2.0

_Key = tuple[int, int]


class Pages:
    """Runs on the reactor thread. While the database is away, who asked waits.

    :param concurrent_reads: pages that are read at the same time; further ones wait in the order of asking.
    :param page_messages: how many seqs a page has.
    :param cache_bytes: of pages that are kept, the last used ones.
    """

    _log = Logger()

    def __init__(
        self,
        *,
        clock: IReactorTime,
        history: IPageHistory,
        concurrent_reads: int,
        page_messages: int = _PAGE_MESSAGES,
        cache_bytes: int = _CACHE_BYTES,
    ) -> None:
        self._clock = clock
        self._history = history
        self._concurrent_reads = concurrent_reads
        self._page_messages = page_messages
        self._cache_bytes = cache_bytes
        self._kept: OrderedDict[_Key, Page] = OrderedDict()
        self._kept_bytes = 0
        self._waiting: dict[_Key, list[Deferred[Page]]] = {}
        self._queue: deque[_Key] = deque()
        self._reading = 0
        #: Who waits for a room's head, with the room.
        self._heads_waiting: dict[Deferred[int], int] = {}
        self._reading_heads = False
        self._first: dict[int, tuple[float, int]] = {}
        self._first_waiting: dict[int, list[Deferred[int]]] = {}
        self._patience: dict[int, IDelayedCall] = {}
        self._reading_first: set[int] = set()
        self.read = 0
        self.shared = 0

    def get(self, room: int, seq: int) -> Deferred[Page]:
        """The page of a room that a seq is on; one that was under way may be too old to have it yet.

        May be cancelled. Fails only by a defect, such as a statement that PostgreSQL refuses.
        """
        key = self._key(room, seq)
        page = self._kept.get(key)
        if page is not None and page.head >= seq:
            self._kept.move_to_end(key)
            self.shared += 1
            return succeed(page)
        waiting = self._waiting.get(key)
        if waiting is None:
            waiting = self._waiting[key] = []
            self._queue.append(key)
        else:
            self.shared += 1
        answer: Deferred[Page] = Deferred(waiting.remove)
        waiting.append(answer)
        self._begin()
        return answer

    def expect(self, room: int, seq: int, head: int) -> None:
        """The page that a seq is on will be asked for soon: read it if it is complete, and no other read waits."""
        key = self._key(room, seq)
        if (key[1] + 1) * self._page_messages <= head and not (
            self._queue or key in self._kept or key in self._waiting
        ):
            self.get(room, seq).addErrback(lambda _: None)

    def head(self, room: int) -> Deferred[int]:
        """The room's last seq, as it is in the database now or later. Like :meth:`get`, but for what it reads."""
        waiting = self._heads_waiting
        answer: Deferred[int] = Deferred(waiting.__delitem__)
        waiting[answer] = room
        if not self._reading_heads:
            self._reading_heads = True
            Deferred.fromCoroutine(self._read_heads())
        return answer

    def first_seq(self, room: int) -> Deferred[int]:
        """The first seq that the room holds, as it was some seconds ago at most; 1 in a room without messages.

        While the database does not answer, what was known last, or 1. Fires within seconds, and does not fail.
        """
        read_at, first = self._first.get(room, (0.0, 1))
        if room in self._first and self._clock.seconds() - read_at < _FIRST_SEQ_SECONDS:
            return succeed(first)
        answer: Deferred[int] = Deferred()
        waiting = self._first_waiting.setdefault(room, [])
        waiting.append(answer)
        if len(waiting) == 1:
            self._patience[room] = self._clock.callLater(_FIRST_SEQ_PATIENCE_SECONDS, self._tell_first, room)
        if room not in self._reading_first:  # one whose askers have lost patience serves the next ones
            self._reading_first.add(room)
            Deferred.fromCoroutine(self._read_first(room))
        return answer

    async def _read_first(self, room: int) -> None:
        try:
            first = await self._history.first_seq(room)
            self._first[room] = self._clock.seconds(), first
        except Unavailable:
            pass
        except Exception:
            self._log.failure("the first seq of room {room} was not read", room=room)
        self._reading_first.discard(room)
        self._tell_first(room)

    def _tell_first(self, room: int) -> None:
        """What is known now, to those who wait."""
        patience = self._patience.pop(room, None)
        if patience is not None and patience.active():
            patience.cancel()
        _, first = self._first.get(room, (0.0, 1))
        _answer(self._first_waiting.pop(room, []), first)

    def forget(self, room: int) -> None:
        """What is kept of a room is no longer so."""
        for key in [key for key in self._kept if key[0] == room]:
            self._kept_bytes -= _cost_bytes(self._kept.pop(key))
        self._first.pop(room, None)

    def _key(self, room: int, seq: int) -> _Key:
        return room, (seq - 1) // self._page_messages

    def _begin(self) -> None:
        while self._queue and self._reading < self._concurrent_reads:
            key = self._queue.popleft()
            if self._waiting[key]:
                self._reading += 1
                Deferred.fromCoroutine(self._read(key))
            else:
                del self._waiting[key]

    async def _read(self, key: _Key) -> None:
        room, number = key
        begin = number * self._page_messages
        result: Page | Failure
        try:
            result = await self._patiently(
                lambda: self._history.page(room, begin + 1, begin + self._page_messages),
                lambda: bool(self._waiting[key]),
            )
        except Exception:
            result = Failure()
        else:
            self.read += 1
            self._keep(key, result)
        self._reading -= 1
        waiting = self._waiting.pop(key)
        self._begin()
        _answer(waiting, result)

    async def _read_heads(self) -> None:
        while self._heads_waiting:
            # Who comes while they are read needs to know what is newer.
            waiting, self._heads_waiting = self._heads_waiting, {}
            try:
                heads = await self._patiently(self._history.heads, partial(bool, waiting))
            except Exception:
                _answer(waiting, Failure())
            else:
                for one, room in tuple(waiting.items()):
                    one.callback(heads.get(room, 0))
        self._reading_heads = False

    async def _patiently(self, read: Callable[[], Awaitable[T]], wanted: Callable[[], bool]) -> T:
        """The result of ``read``, tried until the database answers or nobody wants it any more."""
        while True:
            try:
                return await read()
            except Unavailable:
                if not wanted():
                    raise
                await deferLater(self._clock, _RETRY_SECONDS)

    def _keep(self, key: _Key, page: Page) -> None:
        older = self._kept.pop(key, None)
        if older is not None:
            self._kept_bytes -= _cost_bytes(older)
        self._kept[key] = page
        self._kept_bytes += _cost_bytes(page)
        while self._kept_bytes > self._cache_bytes and self._kept:
            _, dropped = self._kept.popitem(last=False)
            self._kept_bytes -= _cost_bytes(dropped)


def _cost_bytes(page: Page) -> int:
    return 1000 + len(page.data) + 16 * len(page.seqs)


def _answer(waiting: Iterable[Deferred[T]], result: T | Failure) -> None:
    for one in tuple(waiting):
        one.callback(result)
