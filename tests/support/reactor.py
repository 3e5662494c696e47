"""Tests on the real reactor, which runs for the whole test session: see pytest-twisted."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import pytest_twisted
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.logger import LogEvent, globalLogPublisher

reactor: Any = _reactor

_T = TypeVar("_T")
_POLL_SECONDS = 0.005


def on_reactor(test: Callable[..., Coroutine[Any, Any, None]], seconds: float = 60.0) -> Callable[..., Awaitable[None]]:
    """A coroutine as a test or a method of a test class; it fails when it takes longer than ``seconds``."""

    @functools.wraps(test)
    async def wrapper(*arguments: Any, **keywords: Any) -> None:
        await Deferred.fromCoroutine(test(*arguments, **keywords)).addTimeout(seconds, reactor)

    return pytest_twisted.ensureDeferred(wrapper)  # type: ignore[no-any-return]


async def until(condition: Callable[[], _T], what: str, seconds: float = 20.0) -> _T:
    """Ask ``condition`` until it gives something true, and return that, while the reactor runs.

    :param what: says in the failure what was waited for.
    :raises AssertionError: it did not come true in time.
    """
    deadline = reactor.seconds() + seconds
    while not (result := condition()):
        assert reactor.seconds() < deadline, f"waited {seconds:g} s in vain: {what}"
        await deferLater(reactor, _POLL_SECONDS)
    return result


class LoggedFailures:
    """Between ``start`` and ``stop`` collects what is logged with a traceback: nobody else would hear of it."""

    def __init__(self) -> None:
        self.events: list[LogEvent] = []

    def start(self) -> None:
        globalLogPublisher.addObserver(self._observe)  # type: ignore[arg-type]  # any callable is one

    def stop(self) -> None:
        globalLogPublisher.removeObserver(self._observe)  # type: ignore[arg-type]  # any callable is one

    def __str__(self) -> str:
        return "\n".join(str(event["log_failure"].getTraceback()) for event in self.events)

    def _observe(self, event: LogEvent) -> None:
        if "log_failure" in event:
            self.events.append(event)
