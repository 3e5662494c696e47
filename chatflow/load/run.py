"""A whole run: phase after phase over all processes, then the database check."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import attrs
from twisted.internet.defer import Deferred, FirstError, gatherResults

from chatflow.load.interfaces import Bounds, ILoadWorker, Progress
from chatflow.load.output import CannotWrite, join_parts
from chatflow.load.proof import Stored, causes_to_fail
from chatflow.load.scenario import Settings, phases
from chatflow.load.tally import PhaseTally, merge_processes
from chatflow.load.wall_clock import Clock

# All processes begin a phase at the same moment; this is enough for the order to reach them.
_HEADSTART_US = 50_000

DatabaseCheck = Callable[[Sequence[PhaseTally]], Deferred[Stored]]
"""Takes all phases, fires with what is stored; a failure's text is for the operator."""


@attrs.define
class Outcome:
    """:ivar phases: each merged over all processes.
    :ivar stored: None if the database was not checked.
    :ivar causes: why the verdict is *fail*; empty if it is *pass*.
    """

    settings: Settings
    phases: list[PhaseTally] = attrs.Factory(list)
    stored: Stored | None = None
    causes: list[str] = attrs.Factory(list)

    @property
    def verdict(self) -> str:
        return "fail" if self.causes else "pass"


class LoadRun:
    """:param workers: one for each process.
    :param check_database: or None.

    :ivar phase: name of the phase under way.
    """

    def __init__(
        self, settings: Settings, workers: Sequence[ILoadWorker], clock: Clock, check_database: DatabaseCheck | None
    ) -> None:
        self.phase = ""
        self._settings = settings
        self._workers = workers
        self._clock = clock
        self._check_database = check_database
        self._stage: Deferred[Any] | None = None
        self._interrupted = False

    @property
    def progress(self) -> Progress:
        """How far the phase under way is, over all processes."""
        parts = [worker.progress for worker in self._workers]
        return Progress(
            sum(part.sent for part in parts),
            sum(part.acked for part in parts),
            sum(part.delivered for part in parts),
        )

    def interrupt(self) -> None:
        """Give up: :meth:`run` soon ends with what is known so far, as a failure."""
        self._interrupted = True
        if self._stage is not None:
            self._stage.cancel()

    async def run(self) -> Outcome:
        """Everything. Whatever goes wrong is a cause in the outcome."""
        outcome = Outcome(self._settings)
        try:
            for index, phase in enumerate(phases(self._settings)):
                self.phase = phase.name
                outcome.phases.append(await self._run_phase(index))
            if self._check_database is not None:
                self.phase = "database check"
                (outcome.stored,) = await self._all([self._check_database(outcome.phases)])
        except Exception as error:
            outcome.phases += await self._give_up()
            outcome.causes.append("interrupted" if self._interrupted else str(error) or repr(error))
        if self._settings.output is not None:
            try:
                join_parts(self._settings.output, len(self._workers))
            except CannotWrite as error:
                outcome.causes.append(str(error))
        outcome.causes += causes_to_fail(outcome.phases, outcome.stored)
        return outcome

    async def _run_phase(self, index: int) -> PhaseTally:
        await self._all([worker.open(index) for worker in self._workers])
        start_us = self._clock.monotonic_us() + _HEADSTART_US
        bounds = merge_bounds(await self._all([worker.work(start_us) for worker in self._workers]))
        return merge_processes(await self._all([worker.settle(bounds) for worker in self._workers]))

    async def _give_up(self) -> list[PhaseTally]:
        self._stage = None
        tallies = await gatherResults([worker.stop() for worker in self._workers])
        known = [tally for tally in tallies if tally is not None]
        return [merge_processes(known)] if known else []

    async def _all(self, stage: Sequence[Deferred[Any]]) -> list[Any]:
        """Wait for all, unless :meth:`interrupt` is called or one fails; raises that one's error."""
        self._stage = gatherResults(stage, consumeErrors=True)
        try:
            return await self._stage
        except FirstError as first:
            first.subFailure.raiseException()
            raise


def merge_bounds(parts: list[Bounds]) -> Bounds:
    """The bounds as all processes together know them."""
    whole: Bounds = {}
    for part in parts:
        for room, (first, last) in part.items():
            low, high = whole.get(room, (first, last))
            whole[room] = min(low, first), max(high, last)
    return whole
