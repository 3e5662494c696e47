"""Fixtures of the broker's tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from testbed.fault_proxy import FaultProxy
from tests.broker.room_queues import make_instances, make_queue, pair, parking
from tests.broker.topics import peers, topic
from tests.support.cloud import shared_aws, shared_proxy
from tests.support.reactor import LoggedFailures

__all__ = ["make_instances", "make_queue", "pair", "parking", "peers", "topic"]


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
    with _recorded(shared_aws().clients.sqs_poll, "sqs.ReceiveMessage") as parameters:
        yield parameters


@pytest.fixture
def publishes() -> Iterator[list[dict[str, Any]]]:
    """The parameters of each PublishBatch of the shared calls."""
    with _recorded(shared_aws().clients.sns_send, "sns.PublishBatch") as parameters:
        yield parameters


@contextmanager
def _recorded(client: Any, operation: str) -> Iterator[list[dict[str, Any]]]:
    parameters: list[dict[str, Any]] = []

    def record(params: dict[str, Any], **_: object) -> None:
        parameters.append(dict(params))

    client.meta.events.register(f"before-parameter-build.{operation}", record)
    yield parameters
    client.meta.events.unregister(f"before-parameter-build.{operation}", record)


@pytest.fixture(autouse=True)
def logged_failures() -> Iterator[LoggedFailures]:
    """What parts log with a traceback fails the test, unless it clears the list."""
    failures = LoggedFailures()
    failures.start()
    yield failures
    failures.stop()
    assert not failures.events, str(failures)
