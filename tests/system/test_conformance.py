"""The cases of the Autobahn Testsuite, against a daemon whose connections say everything again.

kosoku runs the suite's own cases; its older runner needs Python 2.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator, Sequence

import kosoku
import pytest

from testbed.daemon import Daemon, copy_cluster

#: Those of 9 and of 12 and 13 move hundreds of megabytes, in minutes: see docs/reliability.rst. 13.3 to 13.6 ask for
#: smaller windows than the one that all clients share, and get no compression.
SMALL = ("1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "9.7.1", "9.8.1", "10.*")
COMPRESSED = ("12.1.1", "12.1.5", "12.2.1", "12.3.1", "13.1.1", "13.2.1", "13.7.1")
_SECONDS = 120


class EchoDaemon(Daemon):
    """See :mod:`testbed.echo_daemon`."""

    def command(self) -> list[str]:
        return [sys.executable, "-m", "testbed.echo_daemon", *super().command()[1:]]


@pytest.fixture(scope="module")
def echo() -> Iterator[EchoDaemon]:
    options = ("--compress", "--max-frame-bytes", "1048576", "--max-client-buffer-bytes", "16777216")
    with EchoDaemon(*options) as daemon:
        copy_cluster(daemon.data_directory)
        yield daemon.start()


def run(url: str, cases: Sequence[str], concurrency: int) -> Sequence[kosoku.CaseResult]:
    """The results of these cases that did not pass."""

    async def within_time() -> Sequence[kosoku.CaseResult]:
        running = kosoku.run_fuzzingclient(url, cases=cases, concurrency=concurrency)
        return await asyncio.wait_for(running, _SECONDS)

    try:
        results = asyncio.run(within_time())
    except kosoku.FailureError as error:
        results = error.results  # all of them
    assert len(results) >= len(cases)
    return [result for result in results if not result.passed]


def failed(url: str, cases: Sequence[str]) -> list[str]:
    """The cases that did not pass, each with why.

    Many wait a second for an end, which is short while other tests want the processor too: they are tried again alone.
    """
    once = [result.case_id for result in run(url, cases, concurrency=4)]
    twice = run(url, once, concurrency=1) if once else []
    return [f"{each.case_id}: {each.behavior}, {each.behavior_close}: {each.result}" for each in twice]


def test_every_case_of_the_protocol_passes(echo: EchoDaemon) -> None:
    assert failed(echo.chat_url(1), SMALL) == []


def test_cases_of_compression_pass_where_it_is_on(echo: EchoDaemon) -> None:
    assert failed(echo.chat_url(1), COMPRESSED) == []
