"""What a fault is: something that is done to a laboratory, and undone."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from random import Random

import attrs

from benchmarks.faults.laboratory import Laboratory

_UNDER_WAY_SECONDS = 0.5


@attrs.define
class Scene:
    """What a fault is given.

    :ivar random: what it draws from, nothing else.
    :ivar hold_seconds: how long it should last.
    :ivar figures: of its own, for people: name → value.
    :ivar problems: what should not have happened.
    """

    laboratory: Laboratory
    random: Random
    hold_seconds: float
    figures: dict[str, float] = attrs.Factory(dict)
    problems: list[str] = attrs.Factory(list)

    def expect(self, holds: bool, what: str) -> None:
        """Note a problem unless it holds."""
        if not holds:
            self.problems.append(what)


@contextmanager
def standstill(scene: Scene, counter: Callable[[str], float], name: str) -> Iterator[None]:
    """Within the block a counter does not grow, once what was under way is over: or the fault is none."""
    began = time.monotonic()
    yield
    if time.monotonic() - began > 2 * _UNDER_WAY_SECONDS:
        before = counter(name)
        threading.Event().wait(_UNDER_WAY_SECONDS)
        scene.expect(counter(name) == before, f"{name} grows meanwhile")


Act = Callable[[Scene], Iterator[None]]


@attrs.frozen
class Fault:
    """:ivar name: of the command line. :ivar what: happens. :ivar sees: what a user does.

    :ivar begin: a context: what is undone at its end was done before its block, which lasts as long as is wanted.
    :ivar needs: of :meth:`Laboratory.lacks`, or nothing.
    :ivar hold_seconds: how long it lasts unless told otherwise.
    :ivar survivors_go_on: service must come back while it lasts; otherwise once it is undone.
    :ivar spares_witness: connections to the first instance stay.
    :ivar may_refuse: codes of the errors by which messages may be refused; who sent them sends them again.
    :ivar more_seconds: how long doing and undoing it takes, more or less, besides: for the plan of a walk.
    """

    name: str
    what: str
    sees: str
    begin: Callable[[Scene], AbstractContextManager[None]]
    needs: str = ""
    hold_seconds: float = 5.0
    survivors_go_on: bool = True
    spares_witness: bool = True
    may_refuse: tuple[str, ...] = ()
    more_seconds: float = 10.0


def fault(
    name: str,
    what: str,
    sees: str,
    *,
    needs: str = "",
    hold_seconds: float = 5.0,
    survivors_go_on: bool = True,
    spares_witness: bool = True,
    may_refuse: tuple[str, ...] = (),
    more_seconds: float = 10.0,
) -> Callable[[Act], Fault]:
    """Make a fault of a generator function, as :func:`contextlib.contextmanager` does."""

    def made(act: Act) -> Fault:
        return Fault(
            name=name,
            what=what,
            sees=sees,
            begin=contextmanager(act),
            needs=needs,
            hold_seconds=hold_seconds,
            survivors_go_on=survivors_go_on,
            spares_witness=spares_witness,
            may_refuse=may_refuse,
            more_seconds=more_seconds,
        )

    return made
