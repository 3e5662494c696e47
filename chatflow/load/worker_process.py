"""One of several processes of a run: ``python -m chatflow.load.worker_process``, steered by lines of JSON on stdin.

The first line holds the settings; each line after it is an order, answered by one line on stdout when it is done.
Between answers come lines of progress. The worker ends when stdin does, so none is left behind by a parent that died.
"""

from __future__ import annotations

import signal
from typing import Any

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import ITransport
from twisted.internet.protocol import Protocol
from twisted.internet.stdio import StandardIO
from twisted.internet.task import LoopingCall
from twisted.python.failure import Failure

from chatflow.lifecycle.clocks import make_monotonic
from chatflow.load.interfaces import Bounds, Progress
from chatflow.load.scenario import Settings
from chatflow.load.tally import PhaseTally, decode_counter
from chatflow.load.wall_clock import Clock, system_clock
from chatflow.load.worker import LoadWorker

_PROGRESS_SECONDS = 0.5


class Start(msgspec.Struct, tag=True):
    """:ivar index: the worker's, from 0. :ivar wall_offset_us: see :class:`chatflow.load.wall_clock.Clock`."""

    settings: Settings
    index: int
    wall_offset_us: int


class Order(msgspec.Struct):
    """:ivar id: the answer names it."""

    id: int


class Open(Order, tag=True):
    phase: int


class Work(Order, tag=True):
    start_us: int


class Settle(Order, tag=True):
    bounds: Bounds


class Stop(Order, tag=True):
    """Instead of the order under way, which gets no answer any more."""


class Done(msgspec.Struct, tag=True):
    """The order is done. :ivar bounds: of Work. :ivar tally: of Settle, and of Stop if a phase was open."""

    id: int
    bounds: Bounds = {}
    tally: PhaseTally | None = None


class Failed(msgspec.Struct, tag=True):
    """The order failed. :ivar why: one line for the operator."""

    id: int
    why: str


class Going(msgspec.Struct, tag=True):
    """A sign of life with the counts so far, sent every half second."""

    progress: Progress


encode = msgspec.json.encode
decode_order = msgspec.json.Decoder(Start | Open | Work | Settle | Stop).decode
decode_answer = msgspec.json.Decoder(Done | Failed | Going, dec_hook=decode_counter).decode


class Lines:
    """Splits a stream into lines, which may be megabytes long."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def feed(self, data: bytes) -> list[bytes]:
        """:return: the lines that are complete now, without their ends."""
        *whole, rest = data.split(b"\n")
        lines = []
        for line in whole:
            lines.append(b"".join([*self._parts, line]))
            self._parts = []
        self._parts.append(rest)
        return lines


class WorkerProcess(Protocol):
    """Takes orders from the parent, and lets this process's load worker carry them out."""

    transport: ITransport

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._lines = Lines()
        self._worker: LoadWorker | None = None
        self._order_id = 0
        self._under_way: Deferred[Any] | None = None
        self._beat = LoopingCall(self._report)
        self._beat.clock = reactor

    def dataReceived(self, data: bytes) -> None:
        for line in self._lines.feed(data):
            order = decode_order(line)
            if isinstance(order, Start):
                clock = Clock(system_clock().monotonic_us, order.wall_offset_us)
                self._worker = LoadWorker(self._reactor, order.settings, order.index, clock)
                self._beat.start(_PROGRESS_SECONDS, now=False)
            elif self._worker is not None:
                self._obey(self._worker, order)

    def _obey(self, worker: LoadWorker, order: Open | Work | Settle | Stop) -> None:
        self._order_id = order.id
        match order:
            case Open(phase=phase):
                done = worker.open(phase).addCallback(lambda _: Done(order.id))
            case Work(start_us=start_us):
                done = worker.work(start_us).addCallback(lambda bounds: Done(order.id, bounds=bounds))
            case Settle(bounds=bounds):
                done = worker.settle(bounds).addCallback(lambda tally: Done(order.id, tally=tally))
            case Stop():
                if self._under_way is not None:
                    self._under_way.cancel()
                done = worker.stop().addCallback(lambda tally: Done(order.id, tally=tally))
        self._under_way = done.addErrback(_to_failed, order.id).addCallback(self._answer)

    def _answer(self, answer: Done | Failed) -> None:
        if answer.id == self._order_id:
            self.transport.write(encode(answer) + b"\n")

    def _report(self) -> None:
        if self._worker is not None:
            self.transport.write(encode(Going(self._worker.progress)) + b"\n")

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        if self._beat.running:
            self._beat.stop()
        if self._reactor.running:
            self._reactor.stop()


def _to_failed(failure: Failure, order_id: int) -> Failed:
    return Failed(order_id, failure.getErrorMessage())


def main() -> None:
    """Take commands from standard input and run load until it ends. The entry point of the process."""
    from twisted.internet import reactor

    make_monotonic(reactor)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which then says what to do
    StandardIO(WorkerProcess(reactor), reactor=reactor)
    reactor.run(installSignalHandlers=False)  # type: ignore[call-arg]


if __name__ == "__main__":
    main()
