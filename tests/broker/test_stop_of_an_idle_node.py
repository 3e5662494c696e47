"""A receive that was just begun when the daemon is to stop ends before the daemon gives it up."""

from __future__ import annotations

from functools import partial

import pytest
from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock, deferLater
from twisted.logger import LogEvent, globalLogPublisher

from chatflow.config import Config
from chatflow.lifecycle import OrderedServices
from chatflow.tap import Options, makeService
from tests.support.deferreds import result_of

#: These end when the last receive has: none of them can interrupt one.
_WAIT_FOR_RECEIVES = {"fan-out", "room queue", "AWS calls"}


class Part(Service):
    """Stands for a part of the daemon, which takes until ``ends_at`` to stop."""

    def __init__(self, clock: Clock, ends_at: float) -> None:
        self._clock = clock
        self._ends_at = ends_at

    def stopService(self) -> Deferred[None]:
        return deferLater(self._clock, max(0.0, self._ends_at - self._clock.seconds()))


class IdleReactor(Clock):
    """A reactor that runs, and runs nothing."""

    running = True

    def callWhenRunning(self, *_: object) -> None:
        """What connection pools begin with."""


class TestIdleNode:
    def test_with_default_options_no_receive_is_left_behind(self, request: pytest.FixtureRequest) -> None:
        options = Options()
        options.parseOptions(["--broker", "sqs", "--database", "postgresql://127.0.0.1/chat"])
        config: Config = options.config
        names = [child.name for child in makeService(options, IdleReactor())]  # type: ignore[attr-defined]
        assert set(names) >= _WAIT_FOR_RECEIVES
        last = ["clients", "dashboard"]
        assert names[-2:] == last, "of which the former hurries the receives that begin from now on"

        clock = IdleReactor()
        answered_at = config.long_poll_seconds + 1.0
        service = OrderedServices(clock, deadline_seconds=config.drain_seconds)
        for name in names:
            service.add(name, Part(clock, answered_at if name in _WAIT_FOR_RECEIVES else 0.0))
        logged: list[LogEvent] = []
        globalLogPublisher.addObserver(logged.append)  # type: ignore[arg-type]  # any callable is one
        request.addfinalizer(partial(globalLogPublisher.removeObserver, logged.append))  # type: ignore[arg-type]
        service.startService()
        stopped = service.stopService()
        clock.pump([0.1] * round(answered_at * 10 + 30))
        result_of(stopped)
        assert [event["log_format"] for event in logged] == []
