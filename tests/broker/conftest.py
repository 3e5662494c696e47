"""Fixtures of the broker's tests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.cloud import shared_aws, shared_proxy
from tests.support.fault_proxy import FaultProxy
from tests.support.reactor import LoggedFailures


@pytest.fixture
def proxy() -> Iterator[FaultProxy]:
    """Between the calls of :mod:`tests.support.cloud` and the emulator; without rules when a test begins and ends."""
    proxy = shared_proxy()
    proxy.set_rules(seed=1)
    yield proxy
    proxy.set_rules()


@pytest.fixture
def receives() -> Iterator[list[dict[str, Any]]]:
    """The parameters of each ReceiveMessage of the shared calls."""
    receives: list[dict[str, Any]] = []

    def record(params: dict[str, Any], **_: object) -> None:
        receives.append(dict(params))

    events = shared_aws().clients.sqs_poll.meta.events
    events.register("before-parameter-build.sqs.ReceiveMessage", record)
    yield receives
    events.unregister("before-parameter-build.sqs.ReceiveMessage", record)


@pytest.fixture(autouse=True)
def logged_failures() -> Iterator[LoggedFailures]:
    """What parts log with a traceback fails the test, unless it clears the list."""
    failures = LoggedFailures()
    failures.start()
    yield failures
    failures.stop()
    assert not failures.events, str(failures)
