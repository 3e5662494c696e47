"""Pages of history, read once for all who need the same one, by few at a time.

A page is an aligned range of a room's seqs, so that members who resume from different places share them. They are kept,
up to a number of bytes; the newest one still grows, and is read again by who needs what it does not have yet. What is
scarce is reading, so that alone is paced: a page that is kept is given to all who need it, as fast as they take it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, DeferredSemaphore, TimeoutError, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from chatflow.contracts.history import IPageHistory, Page
from chatflow.errors import Unavailable
from chatflow.lifecycle import SharedCall

T = TypeVar("T")

_PAGE_MESSAGES = 1000
_CACHE_BYTES = 32 * 1024 * 1024
_RETRY_SECONDS = 0.5
#: While others are at work, pages are read at each place in this share of the time; then the database and the
#: interpreter are left to them. To read one takes longer when they need the machine, and so they are left more of it.
_SHARE = 2 / 5
_FIRST_SEQ_SECONDS = 10.0
#: Nobody waits longer for a first seq, which is nothing but a hint.
_FIRST_SEQ_TIMEOUT_SECONDS = 2.0

_Key = tuple[int, int]


class Pages:
    """Runs on the reactor thread. While the database is away, who asked waits.

    :param concurrent_reads: pages that are read at the same time; further ones wait in the order of asking.
    :param others_work: a count that grows while others need the machine; else pages are read without a pause.
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
        others_work: Callable[[], int],
        page_messages: int = _PAGE_MESSAGES,
        cache_bytes: int = _CACHE_BYTES,
    ) -> None:
        self._clock = clock
        self._history = history
        self._page_messages = page_messages
        self._cache_bytes = cache_bytes
        self._others_work = others_work
        self._kept: OrderedDict[_Key, Page] = OrderedDict()
        self._kept_bytes = 0
        self._reads: dict[_Key, SharedCall[Page]] = {}
        self._places = DeferredSemaphore(concurrent_reads)
        self._heads: SharedCall[Mapping[int, int]] = SharedCall()
        self._first: dict[int, tuple[float, int]] = {}
        self._first_reads: dict[int, SharedCall[int]] = {}
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
        reads = self._reads.get(key)
        if reads is None:
            reads = self._reads[key] = SharedCall()
        else:
            self.shared += 1
        return reads.join(partial(self._read, key, reads))

    def expect(self, room: int, seq: int, head: int) -> None:
        """The page that a seq is on will be asked for soon: read it if it is complete, and no other read waits."""
        key = self._key(room, seq)
        if (key[1] + 1) * self._page_messages <= head and not (
            self._places.waiting or key in self._kept or key in self._reads
        ):
            self.get(room, seq).addErrback(lambda _: None)

    def head(self, room: int) -> Deferred[int]:
        """The room's last seq, as it is in the database now or later. Like :meth:`get`, but for what it reads."""
        # One read is for all rooms. Who comes while it is under way needs to know what is newer.
        read = partial(self._patiently, self._history.heads, self._heads)
        return self._heads.next(read).addCallback(lambda heads: heads.get(room, 0))

    def first_seq(self, room: int) -> Deferred[int]:
        """The first seq that the room holds, as it was some seconds ago at most; 1 in a room without messages.

        While the database does not answer, what was known last, or 1. Fires within seconds, and fails only if it is
        cancelled.
        """
        read_at, first = self._first.get(room, (0.0, 1))
        if room in self._first and self._clock.seconds() - read_at < _FIRST_SEQ_SECONDS:
            return succeed(first)
        reads = self._first_reads.setdefault(room, SharedCall())
        # A read that takes longer goes on, and serves those who ask next.
        answer = reads.join(partial(self._read_first, room)).addTimeout(_FIRST_SEQ_TIMEOUT_SECONDS, self._clock)
        return answer.addErrback(self._known_instead, room)

    async def _read_first(self, room: int) -> int:
        try:
            first = await self._history.first_seq(room)
            self._first[room] = self._clock.seconds(), first
        except Unavailable:
            pass
        except Exception:
            self._log.failure("the first seq of room {room} was not read", room=room)
        return self._known_first(room)

    def _known_instead(self, failure: Failure, room: int) -> int:
        failure.trap(TimeoutError)  # but not of who cancels, and asks no more
        return self._known_first(room)

    def _known_first(self, room: int) -> int:
        _, first = self._first.get(room, (0.0, 1))
        return first

    def forget(self, room: int) -> None:
        """What is kept of a room is no longer so."""
        for key in [key for key in self._kept if key[0] == room]:
            self._kept_bytes -= _cost_bytes(self._kept.pop(key))
        self._first.pop(room, None)

    def _key(self, room: int, seq: int) -> _Key:
        return room, (seq - 1) // self._page_messages

    async def _read(self, key: _Key, reads: SharedCall[Page]) -> Page:
        room, number = key
        begin = number * self._page_messages
        await self._places.acquire()
        rest_seconds = 0.0
        try:
            if not reads.wanted:
                raise Unavailable("nobody waits for the page any more")
            before = self._others_work()
            page, seconds = await self._patiently(lambda: self._timed_page(room, begin), reads)
            if self._others_work() != before:
                rest_seconds = seconds * (1 / _SHARE - 1)
            self.read += 1
            self._keep(key, page)
            return page
        finally:
            del self._reads[key]
            if rest_seconds:
                self._clock.callLater(rest_seconds, self._places.release)
            else:
                self._places.release()

    async def _timed_page(self, room: int, begin: int) -> tuple[Page, float]:
        began_at = self._clock.seconds()
        page = await self._history.page(room, begin + 1, begin + self._page_messages)
        return page, self._clock.seconds() - began_at

    async def _patiently(self, read: Callable[[], Awaitable[T]], reads: SharedCall[Any]) -> T:
        """The result of ``read``, tried until the database answers or nobody wants it any more."""
        while True:
            try:
                return await read()
            except Unavailable:
                if not reads.wanted:
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
