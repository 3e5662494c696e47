"""One call under way for all who need its result at the same time."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

T = TypeVar("T")


class SharedCall(Generic[T]):
    """A question that is never under way twice. Runs on the reactor thread.

    Whoever asks is given a Deferred of its own, that fires or fails as the call does. Cancelling it takes back the
    asking, not the call, which may be others' as well; a failure that nobody waits for any more is dropped.
    """

    def __init__(self) -> None:
        self._under_way = False
        self._waiting: OrderedDict[Deferred[T], None] = OrderedDict()
        self._later: OrderedDict[Deferred[T], None] = OrderedDict()
        self._later_call: Callable[[], Awaitable[T]] | None = None

    @property
    def under_way(self) -> bool:
        """Whether a call has begun and has not ended."""
        return self._under_way

    @property
    def wanted(self) -> bool:
        """Whether anybody waits for the call under way: a call that tries again and again may ask, and give up."""
        return bool(self._waiting)

    def join(self, call: Callable[[], Awaitable[T]]) -> Deferred[T]:
        """The result of the call under way, however long ago that began.

        :param call: begun now if none is under way.
        """
        answer: Deferred[T] = Deferred(self._waiting.__delitem__)
        self._waiting[answer] = None
        if not self._under_way:
            self._begin(call)
        return answer

    def next(self, call: Callable[[], Awaitable[T]]) -> Deferred[T]:
        """The result of a call that begins now, or as soon as the one under way has ended: nothing in it is older.

        :param call: used unless somebody else waits for that one already.
        """
        if not self._under_way:
            return self.join(call)
        answer: Deferred[T] = Deferred(self._later.__delitem__)
        self._later[answer] = None
        self._later_call = self._later_call or call
        return answer

    def _begin(self, call: Callable[[], Awaitable[T]]) -> None:
        self._under_way = True
        Deferred.fromCoroutine(self._run(call))

    async def _run(self, call: Callable[[], Awaitable[T]]) -> None:
        result: T | Failure
        try:
            result = await call()
        except Exception:
            result = Failure()
        answered, self._waiting = self._waiting, self._later
        self._later = OrderedDict()
        following, self._later_call = self._later_call, None
        self._under_way = False
        # One who is answered may cancel another, or ask again.
        while answered:
            one, _ = answered.popitem(last=False)
            one.callback(result)
        if self._waiting and following is not None and not self._under_way:
            self._begin(following)
