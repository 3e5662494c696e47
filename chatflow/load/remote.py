"""Load workers in processes of their own, as their parent sees them."""

from __future__ import annotations

import os
import sys
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IProcessTransport
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from chatflow.errors import ChatFlowError
from chatflow.load.interfaces import Bounds, ILoadWorker, Progress
from chatflow.load.scenario import Settings
from chatflow.load.tally import PhaseTally
from chatflow.load.wall_clock import Clock
from chatflow.load.worker_process import (
    Done,
    Failed,
    Going,
    Lines,
    Open,
    Settle,
    Start,
    Stop,
    Work,
    decode_answer,
    encode,
)


class WorkerFailed(ChatFlowError):
    """A worker process failed or ended. The text is one line."""


@implementer(ILoadWorker)
class RemoteWorker(ProcessProtocol):
    """The load worker of another process. Its Deferreds also fail with :class:`WorkerFailed`.

    :ivar ended: how the process ended, or nothing while it lives.
    """

    transport: IProcessTransport

    def __init__(self, settings: Settings, index: int, clock: Clock) -> None:
        self.progress = Progress()
        self._start = Start(settings, index, clock.wall_offset_us)
        self._lines = Lines()
        self._order_id = 0
        self._answer: Deferred[Done] | None = None
        self._gone: Deferred[None] = Deferred()
        self.ended = ""

    def spawn(self, reactor: Any, hash_seed: int) -> None:
        """Start the process.

        :param hash_seed: the same for all workers of a run, so that the digests of what they received can be compared.
        """
        environment = dict(
            os.environ, PYTHONHASHSEED=str(hash_seed), PYTHONPATH=os.pathsep.join(p for p in sys.path if p)
        )
        reactor.spawnProcess(
            self,
            sys.executable,
            [sys.executable, "-m", "chatflow.load.worker_process"],
            env=environment,
            childFDs={0: "w", 1: "r", 2: 2},
        )

    def connectionMade(self) -> None:
        self.transport.write(encode(self._start) + b"\n")

    def outReceived(self, data: bytes) -> None:
        for line in self._lines.feed(data):
            answer = decode_answer(line)
            if isinstance(answer, Going):
                self.progress = answer.progress
            elif answer.id == self._order_id and self._answer is not None:
                waiting, self._answer = self._answer, None
                if isinstance(answer, Failed):
                    waiting.errback(Failure(WorkerFailed(answer.why)))
                else:
                    waiting.callback(answer)

    def processEnded(self, reason: Failure) -> None:
        self.ended = f"worker process {self._start.index} ended: {reason.getErrorMessage()}"
        if self._answer is not None:
            waiting, self._answer = self._answer, None
            waiting.errback(Failure(WorkerFailed(self.ended)))
        self._gone.callback(None)

    def open(self, phase: int) -> Deferred[None]:
        return self._order(Open(self._next_id(), phase)).addCallback(lambda _: None)

    def work(self, start_us: int) -> Deferred[Bounds]:
        return self._order(Work(self._next_id(), start_us)).addCallback(lambda done: done.bounds)

    def settle(self, bounds: Bounds) -> Deferred[PhaseTally]:
        return self._order(Settle(self._next_id(), bounds)).addCallback(_tally)

    def stop(self) -> Deferred[PhaseTally | None]:
        if self.ended:
            return succeed(None)
        stopped = self._order(Stop(self._next_id())).addCallback(lambda done: done.tally)
        return stopped.addErrback(lambda failure: failure.trap(WorkerFailed) and None)

    def close(self) -> Deferred[None]:
        if not self.ended:
            self.transport.closeStdin()
        return self._gone

    def _next_id(self) -> int:
        self._order_id += 1
        return self._order_id

    def _order(self, order: Open | Work | Settle | Stop) -> Deferred[Done]:
        if self.ended:
            return fail(WorkerFailed(self.ended))
        self._answer = Deferred()
        self.transport.write(encode(order) + b"\n")
        return self._answer


def _tally(done: Done) -> PhaseTally:
    if done.tally is None:
        raise WorkerFailed("a worker process settled a phase without a tally")
    return done.tally
