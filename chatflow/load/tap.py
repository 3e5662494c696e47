"""``twistd -n chatflow-load``: a run, its progress, its results, and the exit status. No I/O before the start."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import attrs
from twisted.application.service import IService, Service
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.failure import Failure

from chatflow import tuning
from chatflow.lifecycle import RootService
from chatflow.lifecycle.callback_service import CallbackService
from chatflow.lifecycle.clocks import make_monotonic
from chatflow.load.interfaces import ILoadWorker
from chatflow.load.options import TABLE, LoadConfig
from chatflow.load.output import CannotWrite
from chatflow.load.progress import ProgressLine
from chatflow.load.proof import Stored
from chatflow.load.remote import RemoteWorker
from chatflow.load.report import as_summary, write_files
from chatflow.load.run import LoadRun, Outcome
from chatflow.load.tally import PhaseTally, acknowledged
from chatflow.load.wall_clock import Clock, system_clock
from chatflow.load.worker import LoadWorker
from chatflow.options import CommandLine, Setting

_log = Logger()
_STOP_SECONDS = 20.0


class Options(CommandLine):
    """The load client's options; the table is in :mod:`chatflow.load.options`."""

    table = TABLE

    @staticmethod
    def build(settings: Mapping[str, Setting]) -> LoadConfig:
        return LoadConfig.from_settings(settings)


def makeService(options: Options, reactor: Any = None) -> IService:
    """The load client, not started; it stops the process by itself when it is done.

    :param reactor: the real one by default.
    """
    if reactor is None:
        from twisted.internet import reactor

        make_monotonic(reactor)
    service = RootService(reactor, deadline_seconds=_STOP_SECONDS, program=TABLE.name)
    service.add("process", CallbackService(start=tuning.tune_process))
    service.add("load", LoadService(reactor, options.config, system_clock(), service.end))
    return service


class LoadService(Service):
    """Runs once. :param end: called with the exit status: 0 if the verdict is *pass*, else 1."""

    def __init__(self, reactor: Any, config: LoadConfig, clock: Clock, end: Callable[[int], None]) -> None:
        self._reactor = reactor
        self._config = config
        self._clock = clock
        self._end = end
        self._run: LoadRun | None = None
        self._finished: Deferred[None] | None = None

    def startService(self) -> None:
        settings = self._config.settings
        if settings.output is not None:
            try:
                Path(settings.output).mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise CannotWrite(settings.output, error) from error
        super().startService()
        self._finished = Deferred()
        self._reactor.callWhenRunning(self._begin)

    def stopService(self) -> Deferred[None] | None:
        """Fires when the run, interrupted if it is not over, has told its results."""
        super().stopService()
        if self._run is not None:
            self._run.interrupt()
        return self._finished

    def _begin(self) -> None:
        Deferred.fromCoroutine(self._do()).addErrback(self._broken).addCallback(self._finish)

    async def _do(self) -> int:
        settings, url = self._config.settings, self._config.check_database
        workers = self._workers()
        check = None if url is None else partial(self._check_database, url)
        self._run = LoadRun(settings, workers, self._clock, check)
        progress = ProgressLine(self._reactor, self._run, sys.__stderr__) if sys.__stderr__ else None
        if progress is not None:
            progress.start()
        try:
            outcome = await self._run.run()
        finally:
            if progress is not None:
                progress.stop()
            await DeferredList([worker.close() for worker in workers])
        return self._tell(outcome)

    def _workers(self) -> Sequence[ILoadWorker]:
        settings = self._config.settings
        if settings.processes == 1:
            return [LoadWorker(self._reactor, settings, 0, self._clock)]
        workers = [RemoteWorker(settings, index, self._clock) for index in range(settings.processes)]
        hash_seed = secrets.randbelow(2**32 - 1) + 1
        for worker in workers:
            worker.spawn(self._reactor, hash_seed)
        return workers

    def _check_database(self, url: str, phases: Sequence[PhaseTally]) -> Deferred[Stored]:
        from chatflow.persistence.audit import Acknowledged, audit_in_thread  # the one that needs psycopg2

        rooms = [Acknowledged(room, tally.first, tally.last, tally.ids) for room, tally in acknowledged(phases).items()]
        audited = deferToThreadPool(self._reactor, self._reactor.getThreadPool(), audit_in_thread, url, rooms)
        return audited.addCallback(lambda audit: Stored(**attrs.asdict(audit)))

    def _tell(self, outcome: Outcome) -> int:
        if outcome.phases:
            _print(as_summary(outcome), sys.__stdout__)
        else:
            _print(f"{TABLE.name}: {'; '.join(outcome.causes)}\n", sys.__stderr__)
        output = self._config.settings.output
        if output is not None:
            try:
                write_files(outcome, output)
            except CannotWrite as error:
                _print(f"{TABLE.name}: {error}\n", sys.__stderr__)
                return 1
        return 0 if outcome.verdict == "pass" else 1

    def _broken(self, failure: Failure) -> int:
        _log.failure("the run broke", failure)
        _print(f"{TABLE.name}: {failure.getErrorMessage()}\n", sys.__stderr__)
        return 1

    def _finish(self, status: int) -> None:
        self._end(status)
        if self._finished is not None:
            self._finished.callback(None)


def _print(text: str, stream: TextIO | None) -> None:
    """To the process's own stream: twistd has made sys.stdout a part of the log. In the background there is none."""
    if stream is not None:
        print(text, end="", file=stream, flush=True)
