"""The batch: which envelopes go into the next transaction and when, and what to do when PostgreSQL refuses it.

A flush begins when the previous one is done, with what has come meanwhile, or a little later
(:mod:`chatflow.persistence.rhythm`): a batch never waits for messages which cannot come, and grows under load by
itself, up to the batch size.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import cast

import msgspec
from attrs import frozen
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from zope.interface import implementer

from chatflow.contracts.deadletters import IDeadLetters
from chatflow.contracts.envelopes import Envelope
from chatflow.contracts.writer import (
    AreHeld,
    DeadLettered,
    Duplicate,
    IBatchWriter,
    LeaseLost,
    Outcome,
    Stored,
    always,
)
from chatflow.errors import NotStored, Unavailable
from chatflow.persistence.commit import CommitResult, commit_alone_in_thread
from chatflow.persistence.database import Database, is_refusal
from chatflow.persistence.failures import one_line
from chatflow.persistence.rhythm import Rhythm


class _Write:
    """One call of :meth:`BatchWriter.write`, instead of a Deferred for each envelope and a list of them.

    :ivar done: fires once there is an outcome for each of the envelopes, or fails with the first error among them.
    """

    __slots__ = ("_missing", "_outcomes", "done")

    def __init__(self, count: int) -> None:
        self.done: Deferred[Sequence[Outcome]] = Deferred()
        self._outcomes: list[Outcome | Exception | None] = [None] * count
        self._missing = count

    def settle(self, position: int, outcome: Outcome | Exception) -> None:
        """What became of the envelope in this place."""
        outcomes = self._outcomes
        outcomes[position] = outcome
        self._missing -= 1
        if not self._missing:
            error = next((one for one in outcomes if isinstance(one, Exception)), None)
            if error is None:
                self.done.callback(cast("Sequence[Outcome]", outcomes))
            else:
                self.done.errback(error)


@frozen(eq=False)
class _Waiting:
    envelope: Envelope
    is_held: AreHeld
    write: _Write
    position: int

    def settle(self, outcome: Outcome | Exception) -> None:
        self.write.settle(self.position, outcome)


@implementer(IBatchWriter)
class BatchWriter:
    """Envelopes of all rooms, one transaction at a time. Runs on the reactor thread; commits run in the database's.

    What waits here is bounded by those who hand it over: each awaits its envelopes before it brings more.

    :param rhythm: is told of the flushes.
    :param wait_seconds: how long to gather before the next one, unless envelopes have been gathered for it already.
    :param dead_letters: takes what PostgreSQL refuses.
    :param batch_messages: a flush takes envelopes up to this many messages (and at least one envelope).
    :param refuse_conflicts: whether senders wait for the commit, and so can be told; see
        :func:`.commit.commit_in_thread`.
    :param observe: called with the messages and the seconds of each flush.
    """

    _log = Logger()

    def __init__(
        self,
        *,
        clock: IReactorTime,
        database: Database,
        rhythm: Rhythm,
        wait_seconds: Callable[[], float] = lambda: 0.0,
        dead_letters: IDeadLetters,
        batch_messages: int,
        refuse_conflicts: bool = False,
        observe: Callable[[int, float], object] = lambda messages, seconds: None,
    ) -> None:
        self._clock = clock
        self._database = database
        self._dead_letters = dead_letters
        self._batch_messages = batch_messages
        self._refuse_conflicts = refuse_conflicts
        self._rhythm = rhythm
        self._wait_seconds = wait_seconds
        self._observe = observe
        self._waiting: deque[_Waiting] = deque()
        self._flushing: Deferred[None] | None = None
        self._stopped = False
        self._began: float | None = None
        self.stored = 0
        self.batches = 0
        self.set_aside = 0

    def when_available(self) -> Deferred[None]:
        """See :class:`IBatchWriter`."""
        return self._database.when_available()

    def write(self, envelopes: Sequence[Envelope], are_held: AreHeld = always) -> Deferred[Sequence[Outcome]]:
        """See :class:`IBatchWriter`."""
        if self._stopped:
            return fail(Unavailable("the batch writer has stopped"))
        if not envelopes:
            return succeed([])
        write = _Write(len(envelopes))
        self._waiting += [_Waiting(envelope, are_held, write, at) for at, envelope in enumerate(envelopes)]
        self._schedule()
        return write.done

    def pending_messages(self) -> int:
        """Messages that wait for a flush."""
        return sum(len(one.envelope.messages) for one in self._waiting)

    def busy_seconds(self) -> float:
        """How long the flush under way has taken; 0 if there is none."""
        return 0.0 if self._began is None else self._clock.seconds() - self._began

    def stop(self) -> None:
        """Fail what waits, and all that comes. Call it when nobody needs a flush any more."""
        self._stopped = True
        waiting, self._waiting = self._waiting, deque()
        for one in waiting:
            one.settle(Unavailable("the batch writer has stopped"))

    def _schedule(self) -> None:
        if self._waiting and self._flushing is None:
            self._flushing = Deferred.fromCoroutine(self._flush_all())
            self._flushing.addErrback(lambda failure: self._log.failure("the batch writer ended", failure))

    async def _flush_all(self) -> None:
        try:
            while self._waiting:
                await self._linger()
                self._began = self._clock.seconds()
                self._rhythm.began()
                batch = self._next_batch()
                await self._flush(batch)
                self._rhythm.ended(sum(len(one.envelope.messages) for one in batch))
                self._began = None
        finally:
            self._flushing = self._began = None

    async def _linger(self) -> None:
        # Zero seconds is one turn of the reactor: the envelopes of other rooms that are about to come join this flush.
        elapsed: Deferred[None] = Deferred()
        self._clock.callLater(self._wait_seconds(), elapsed.callback, None)
        await elapsed

    def _next_batch(self) -> list[_Waiting]:
        batch: list[_Waiting] = []
        messages = 0
        while self._waiting:
            messages += len(self._waiting[0].envelope.messages)
            if batch and messages > self._batch_messages:
                break
            batch.append(self._waiting.popleft())
        return batch

    async def _flush(self, batch: list[_Waiting]) -> None:
        if not batch:
            return
        began = self._clock.seconds()
        try:
            results = await self._database.run(
                "commit messages",
                commit_alone_in_thread,
                [one.envelope for one in batch],
                [one.is_held for one in batch],
                self._refuse_conflicts,
            )
        except Exception as error:
            await self._flush_failed(batch, error)
            return
        # Counted before anybody is told, timed without what they do then.
        seconds = self._clock.seconds() - began
        outcomes = [_outcome(one.envelope, result) for one, result in zip(batch, results, strict=True)]
        messages = sum(len(outcome.envelope.messages) for outcome in outcomes if isinstance(outcome, Stored))
        self.stored += messages
        self.batches += 1
        for one, outcome in zip(batch, outcomes, strict=True):
            one.settle(outcome)
        self._observe(messages, seconds)

    async def _flush_failed(self, batch: list[_Waiting], error: Exception) -> None:
        """Split a refused batch until the envelope at fault is alone, and set that aside."""
        if not is_refusal(error):
            self._fail(batch, error)
        elif len(batch) > 1:
            middle = len(batch) // 2
            self._waiting.extendleft(reversed(batch[middle:]))
            await self._flush(batch[:middle])
        else:
            (one,) = batch
            reason = one_line(error)
            self._log.error(
                "envelope {envelope_id} of room {room} is refused and set aside: {sqlstate}",
                envelope_id=one.envelope.envelope_id,
                room=one.envelope.room,
                sqlstate=getattr(error, "pgcode", None) or type(error).__name__,
            )
            # Not awaited: while the dead letters are out of reach, this room waits, but no other.
            Deferred.fromCoroutine(self._set_aside(one, reason))

    def _fail(self, batch: list[_Waiting], error: Exception) -> None:
        """Fail these and all that waits behind them, or it would be stored before them when they are tried again."""
        rooms = {one.envelope.room for one in batch}
        behind = [one for one in self._waiting if one.envelope.room in rooms]
        self._waiting = deque(one for one in self._waiting if one.envelope.room not in rooms)
        for one in (*batch, *behind):
            one.settle(error)

    async def _set_aside(self, one: _Waiting, reason: str) -> None:
        try:
            await self._dead_letters.keep(one.envelope, reason)
        except Exception as failed:
            one.settle(failed)
        else:
            self.set_aside += 1
            one.settle(DeadLettered(NotStored(reason)))


def _outcome(envelope: Envelope, result: CommitResult) -> Outcome:
    if not result.held:
        return LeaseLost()
    if result.first_seq is None:
        return Duplicate(envelope.room, result.head, result.conflicts)
    if len(result.messages) < len(envelope.messages):
        envelope = msgspec.structs.replace(envelope, messages=tuple(result.messages))
    return Stored(envelope, result.first_seq, result.conflicts)
