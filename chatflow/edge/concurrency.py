"""How many requests of some kind are worked on at once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from chatflow.edge.refusals import RequestRefused, unavailable
from chatflow.errors import Unavailable

_log = Logger()


@define
class ConcurrencyLimit:
    """How many requests of some kind are worked on at once, and how many may wait for that; more are refused.

    What a request asks of the database goes on there when its client leaves, and holds its place here until it ends.
    """

    running: int
    waiting: int
    _under_way: int = field(default=0, init=False)
    _queue: OrderedDict[Deferred[Any], Callable[[], Awaitable[Any]]] = field(factory=OrderedDict, init=False)

    def run(self, work: Callable[[], Awaitable[Any]]) -> Deferred[Any]:
        """Fires with the result of ``work``, fails with what it raises.

        Cancel it when nobody waits for that any more: work that has not begun never will, other work is let go on.

        :raises RequestRefused: too many wait already.
        """
        if self._under_way >= self.running and len(self._queue) >= self.waiting:
            raise unavailable("too many requests at once: try again in a moment")
        result: Deferred[Any] = Deferred(self._drop)
        self._queue[result] = work
        if self._under_way < self.running:
            self._under_way += 1
            Deferred.fromCoroutine(self._work_off())
        return result

    def _drop(self, cancelled: Deferred[Any]) -> None:
        self._queue.pop(cancelled, None)

    async def _work_off(self) -> None:
        try:
            while self._queue:
                result, work = self._queue.popitem(last=False)
                outcome: Any
                try:
                    outcome = await work()
                except Exception:
                    outcome = Failure()
                if not result.called:
                    result.callback(outcome)
                elif isinstance(outcome, Failure) and not outcome.check(RequestRefused, Unavailable):
                    _log.failure("a request failed whose client is gone", outcome)
        finally:
            self._under_way -= 1
