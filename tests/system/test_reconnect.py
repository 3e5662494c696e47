"""Connections are cut at random all the time, and the daemon is restarted: every message comes once, in order."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from testbed.daemon import Daemon, running_daemon
from testbed.load_client import LoadClient
from testbed.network import Network
from testbed.recounting import recount

_RUN_SECONDS = 120.0


@pytest.fixture
def alone() -> Iterator[Daemon]:
    """A daemon with a PostgreSQL of its own."""
    with running_daemon() as daemon:
        yield daemon


def test_the_proof_holds_over_connections_that_come_back(alone: Daemon) -> None:
    size = ("--connections", 40, "--messages", 4000, "--rate", 800, "--warmup-messages", 0, "--rooms", 4)
    with (
        Network(alone.port) as network,
        LoadClient(
            *(*size, "--reconnect", 0.5, "--timeout-seconds", 30),
            urls=[f"ws://127.0.0.1:{network.port}"],
            database_url=alone.database_url,
        ) as client,
    ):
        while alone.counter("chatflow_messages_acknowledged_total") < 1000:
            assert client.runs
        alone.kill()
        alone.restart()
        network.target = alone.port
        report = client.report(_RUN_SECONDS)
    assert report["verdict"] == "pass", report["causes"]
    assert report["stored"]["checked"] == report["acked"] == 4000
    assert report["reconnects"] > 100
    assert recount(alone.database_url) == {}
    assert alone.sql("SELECT count(*), count(DISTINCT client_message_id) FROM messages") == [(4000, 4000)]
