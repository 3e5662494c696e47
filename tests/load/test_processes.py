"""A run over several worker processes."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import attrs
from pytest_twisted import ensureDeferred
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater

from benchmarks.null_server import NullConnection, NullServer
from chatflow.load.remote import RemoteWorker
from chatflow.load.run import LoadRun, Outcome
from chatflow.load.wall_clock import system_clock
from chatflow.load.worker_process import Done, Lines, encode
from tests.load.running import SETTINGS, Listening, faults, reactor


class Run:
    """A run over two processes against a server in this one. ``await`` its outcome."""

    def __init__(self, url: str, **changed: Any) -> None:
        settings = attrs.evolve(SETTINGS, urls=(url,), processes=2, **changed)
        clock = system_clock()
        self.workers = [RemoteWorker(settings, index, clock) for index in range(2)]
        for worker in self.workers:
            worker.spawn(reactor, hash_seed=4711)
        self.run = LoadRun(settings, self.workers, clock, None)

    async def outcome(self) -> Outcome:
        try:
            return await self.run.run()
        finally:
            await gatherResults([worker.close() for worker in self.workers])


async def _outcome(server: Callable[[Any], NullServer], **changed: Any) -> Outcome:
    async with Listening(server(reactor)) as url:
        return await Run(url, **changed).outcome()


@ensureDeferred
async def test_processes_share_the_work_and_their_results_are_one() -> None:
    outcome = await _outcome(NullServer)
    assert (outcome.verdict, outcome.causes, faults(outcome)) == ("pass", [], {})
    main = outcome.phases[-1]
    assert (main.connections, main.acked, main.expected, main.received) == (6, 120, 360, 360)
    assert len(main.cpu_seconds) == 2
    assert {room: tally.connections for room, tally in main.rooms.items()} == {1: 3, 2: 3}


class Liar(NullServer):
    """Broadcasts other ids to those that only listen."""

    def __init__(self, reactor: Any) -> None:
        super().__init__(reactor)
        self.senders: set[NullConnection] = set()

    def take(self, sender: NullConnection, messages: list[bytes]) -> None:
        self.senders.add(sender)
        super().take(sender, messages)

    def deliver(self, room: str, frames: list[bytes]) -> None:
        honest = b"".join(frames)
        lie = honest.replace(self._id_start[:8], b"00000000")
        for member in self.members[room]:
            member.transport.write(honest if member in self.senders else lie)


@ensureDeferred
async def test_processes_that_receive_different_messages_of_a_room_find_out() -> None:
    # Two connections in one room, one in each process, of which the first one sends.
    outcome = await _outcome(Liar, connections=2, rooms=1, senders=1, warmup_messages=0)
    assert outcome.verdict == "fail"
    assert faults(outcome) == {"conflicting": 1}
    assert "the processes of this client received different messages" in outcome.causes[0]


@ensureDeferred
async def test_a_connection_that_cannot_be_opened_in_a_process_ends_the_run_of_all() -> None:
    async with Listening(NullServer(reactor)) as url:
        pass
    outcome = await Run(url).outcome()
    assert outcome.phases == []
    assert "cannot connect to" in outcome.causes[0]


class NeverAnswers(NullServer):
    def take(self, sender: NullConnection, messages: list[bytes]) -> None:
        self.received += len(messages)


async def _in_mid_run(end: Callable[[Run], None]) -> Outcome:
    server = NeverAnswers(reactor)
    async with Listening(server) as url:
        running = Run(url, warmup_messages=0, timeout_seconds=60.0)
        outcome = Deferred.fromCoroutine(running.outcome())
        while server.received < 30:
            await deferLater(reactor, 0.002)
        end(running)
        return await outcome


@ensureDeferred
async def test_an_interrupted_run_gathers_what_the_processes_know() -> None:
    outcome = await _in_mid_run(lambda running: running.run.interrupt())
    assert outcome.causes[0] == "interrupted"
    (main,) = outcome.phases
    assert (main.sent, main.failed, main.unsent) == (30, 30, 90)


@ensureDeferred
async def test_a_process_that_dies_ends_the_run_as_a_failure() -> None:
    def kill(running: Run) -> None:
        os.kill(running.workers[1].transport.pid, signal.SIGKILL)

    outcome = await _in_mid_run(kill)
    assert outcome.verdict == "fail"
    assert outcome.causes[0].startswith("worker process 1 ended:")
    (main,) = outcome.phases
    assert main.connections == 3, "what the other process knows is told"


@ensureDeferred
async def test_a_process_ends_when_its_parent_lets_go_of_it() -> None:
    worker = RemoteWorker(SETTINGS, 0, system_clock())
    worker.spawn(reactor, hash_seed=1)
    await worker.close()
    assert worker.ended


class _Pipe:
    """The process transport of a worker that never ran; keeps nothing."""

    def write(self, data: bytes) -> None:
        pass


def test_an_answer_to_an_order_that_was_given_up_is_not_taken_for_another() -> None:
    worker = RemoteWorker(SETTINGS, 0, system_clock())
    worker.makeConnection(_Pipe())
    worker.work(0)
    stopped: list[object] = []
    worker.stop().addCallback(stopped.append)
    worker.outReceived(encode(Done(1, bounds={1: (2, 3)})) + b"\n")
    assert stopped == []
    worker.outReceived(encode(Done(2)) + b"\n")
    assert stopped == [None]


def test_lines_may_come_in_any_pieces() -> None:
    for size in range(1, 12):
        lines = Lines()
        data = b"one\n\ntwo three\nrest"
        found = [line for at in range(0, len(data), size) for line in lines.feed(data[at : at + size])]
        assert found == [b"one", b"", b"two three"]
