"""Fixtures of the broker's tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.cloud import shared_proxy
from tests.support.fault_proxy import FaultProxy
from tests.support.reactor import LoggedFailures


@pytest.fixture
def proxy() -> Iterator[FaultProxy]:
    """Between the calls of :mod:`tests.support.cloud` and the emulator; without rules when a test begins and ends."""
    proxy = shared_proxy()
    proxy.set_rules(seed=1)
    yield proxy
    proxy.set_rules()


@pytest.fixture(autouse=True)
def logged_failures() -> Iterator[LoggedFailures]:
    """What parts log with a traceback fails the test, unless it clears the list."""
    failures = LoggedFailures()
    failures.start()
    yield failures
    failures.stop()
    assert not failures.events, str(failures)
