"""How much waits in the room queues: asked of AWS now and then, however often it is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from attrs import frozen
from twisted.internet.defer import DeferredLock
from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from chatflow.broker.embedded_queue import EmbeddedRoomQueue
from chatflow.broker.interfaces import Calls
from chatflow.broker.lookup import queue_attributes
from chatflow.broker.names import Names
from chatflow.contracts.room_queue import Depth, IDepths
from chatflow.errors import Unavailable

_ATTRIBUTES = {
    "ApproximateNumberOfMessages": "waiting",
    "ApproximateNumberOfMessagesNotVisible": "in_flight",
    "ApproximateNumberOfMessagesDelayed": "delayed",
}


async def ask_depth(calls: Calls, url: str) -> Depth:
    """What SQS says of a queue.

    :raises chatflow.broker.aws.AwsError: the call failed.
    """
    attributes = await queue_attributes(calls, url, *_ATTRIBUTES)
    return Depth(url, **{name: int(attributes.get(key, 0)) for key, name in _ATTRIBUTES.items()})


@implementer(IDepths)
class EmbeddedDepths:
    """The depth of the queue in this process: envelopes that are not settled."""

    def __init__(self, queue: EmbeddedRoomQueue) -> None:
        self._queue = queue

    async def of(self, room: int) -> Depth:
        """See :class:`IDepths`."""
        return Depth(waiting=self._queue.backlog(room))


@frozen
class _Answer:
    asked_at: float
    depth: Depth | None
    reason: str = ""


@implementer(IDepths)
class SqsDepths:
    """Of queues on SQS. Runs on the reactor thread.

    However many ask, there is one call at a time, and none for a queue that was asked for less than ``keep_seconds``
    ago, even if that failed.

    :param urls: gives each shard's queue.
    """

    def __init__(
        self,
        *,
        clock: IReactorTime,
        calls: Calls,
        names: Names,
        urls: Callable[[], Mapping[int, str]],
        keep_seconds: float = 10.0,
    ) -> None:
        self._clock = clock
        self._calls = calls
        self._names = names
        self._urls = urls
        self._keep_seconds = keep_seconds
        self._answers: dict[int, _Answer] = {}
        self._lock = DeferredLock()

    async def of(self, room: int) -> Depth:
        """See :class:`IDepths`."""
        shard = self._names.shard(room)
        answer = self._answers.get(shard)
        if answer is None or self._is_old(answer):
            await self._lock.acquire()
            try:
                answer = await self._ask(shard)
            finally:
                self._lock.release()
        if answer.depth is None:
            raise Unavailable(answer.reason)
        return answer.depth

    async def _ask(self, shard: int) -> _Answer:
        known = self._answers.get(shard)
        if known is not None and not self._is_old(known):
            return known  # another had asked while this one waited
        try:
            answer = _Answer(self._clock.seconds(), await ask_depth(self._calls, self._urls()[shard]))
        except Unavailable as error:
            answer = _Answer(self._clock.seconds(), None, str(error))
        self._answers[shard] = answer
        return answer

    def _is_old(self, answer: _Answer) -> bool:
        return self._clock.seconds() - answer.asked_at >= self._keep_seconds
