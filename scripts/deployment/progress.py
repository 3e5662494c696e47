"""A line for each step: what, how long, and what came of it. On a terminal the step under way shows its time."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from attrs import define
from rich.console import Console
from rich.progress import Progress as RichProgress
from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn


@define
class Step:
    """:ivar note: said behind the step's time, once it is done."""

    note: str = ""


class Progress:
    """:param clock: seconds that only grow."""

    def __init__(self, console: Console, clock: Callable[[], float]) -> None:
        self._console = console
        self._clock = clock

    def say(self, text: str = "") -> None:
        """One line."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    @contextlib.contextmanager
    def step(self, name: str, what: str) -> Iterator[Step]:
        """The block is one step.

        :param name: whose, if it is one instance's.
        """
        step, began = Step(), self._clock()
        outcome = "  not done"
        try:
            with self._shown(f"  {name:<12} {what}"):
                yield step
            outcome = f"  {step.note}" if step.note else ""
        finally:
            self.say(f"  {name:<12} {what:<36} {self._clock() - began:6.1f} s{outcome}".rstrip())

    @contextlib.contextmanager
    def _shown(self, text: str) -> Iterator[None]:
        if not self._console.is_terminal:
            yield
            return
        columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
        with RichProgress(*columns, console=self._console, transient=True) as shown:
            shown.add_task(text, total=None)
            yield
