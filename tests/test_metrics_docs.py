"""Every figure that the documentation names exists under that name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from twisted.internet.task import Clock

from chatflow.broker.aws import Aws
from chatflow.broker.names import Names
from chatflow.broker.pacing import Pace
from chatflow.broker.readings import cluster_readings
from chatflow.broker.sns import SnsFanout
from chatflow.broker.sqs import SqsRoomQueue
from tests.support.daemon import running_daemon

_DOCS = sorted((Path(__file__).parent.parent / "docs").glob("*.rst"))


async def _nothing(*_: object) -> None:
    """For parts that nobody uses here."""


def _of_the_cluster() -> set[str]:
    clock = Clock()
    aws = Aws(reactor=clock, polls=1, sends=1)
    pace = Pace(clock=clock, max_gap_seconds=1, calls_per_second=1)
    common = {"clock": clock, "aws": aws, "names": Names("chatflow", 1, 0), "pace": pace}
    queue = SqsRoomQueue(**common, set_aside=_nothing)  # type: ignore[arg-type]
    fanout = SnsFanout(
        **common,  # type: ignore[arg-type]
        server_id="a",
        register=_nothing,
        register_now=lambda *_: None,
        deliver=lambda _: None,
    )
    readings = cluster_readings(aws, queue, fanout, pace)
    return {reading.name + ("_total" if reading.is_counter else "") for reading in readings}


@pytest.fixture(scope="module")
def served() -> set[str]:
    """What Prometheus can be asked for: of a single node, with its histograms, and of an instance on SQS and SNS."""
    with running_daemon() as daemon:
        text = daemon.get("/metrics", headers={"Accept": "text/plain"}).body.decode()
    samples = set(re.findall(r"^(chatflow_\w+)", text, re.MULTILINE))
    return samples | set(re.findall(r"^# TYPE (\w+) histogram$", text, re.MULTILINE)) | _of_the_cluster()


@pytest.mark.parametrize("page", _DOCS, ids=lambda page: page.stem)
def test_every_figure_that_the_documentation_names_is_served_under_that_name(page: Path, served: set[str]) -> None:
    named = set(re.findall(r"\bchatflow_[a-z0-9_]+", page.read_text(encoding="utf-8")))
    assert named - served == set()
