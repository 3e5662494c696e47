"""The cases of the Autobahn Testsuite, against a daemon whose connections say everything again.

kosoku runs the suite's own cases; its older runner needs Python 2.
"""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from testbed.daemon import Daemon
from testbed.postgres import copy_cluster

#: Those of 9 and of 12 and 13 move hundreds of megabytes, in minutes: see docs/reliability.rst. 13.3 to 13.6 ask for
#: smaller windows than the one that all clients share, and get no compression.
SMALL = ("1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "9.7.1", "9.8.1", "10.*")
COMPRESSED = ("12.1.1", "12.1.5", "12.2.1", "12.3.1", "13.1.1", "13.2.1", "13.7.1")
_SECONDS = 120
_KOSOKU = Path(sysconfig.get_path("scripts")) / "kosoku"
_PASSED = {"OK", "NON-STRICT", "INFORMATIONAL"}


class EchoDaemon(Daemon):
    """See :mod:`testbed.echo_daemon`."""

    def command(self) -> list[str]:
        return [sys.executable, "-m", "testbed.echo_daemon", *super().command()[1:]]


@pytest.fixture(scope="module")
def echo() -> Iterator[EchoDaemon]:
    options = ("--compress", "--max-frame-bytes", "1048576", "--max-client-buffer-bytes", "16777216")
    daemon = EchoDaemon(*options)
    with daemon:
        copy_cluster(daemon.data_directory)
        daemon.start()
        yield daemon


def run(url: str, cases: Sequence[str], parallel: int, directory: Path) -> dict[str, str]:
    """The cases of these that did not pass, each with why. A process of its own has Autobahn's modules for itself."""
    chosen = [argument for case in cases for argument in ("--include", case)]
    subprocess.run(
        [_KOSOKU, *chosen, "--parallelism", str(parallel), "--outdir", directory, url],
        timeout=_SECONDS,
        capture_output=True,
        check=False,
    )
    (results,) = json.loads((directory / "index.json").read_text()).values()
    assert len(results) >= len(cases)
    return {
        case: f"{result['behavior']}, closing {result['behaviorClose']}"
        for case, result in results.items()
        if not {result["behavior"], result["behaviorClose"]} <= _PASSED
    }


def failed(url: str, cases: Sequence[str], directory: Path) -> dict[str, str]:
    """The cases that did not pass.

    Many wait a second for an end, which is short while other tests want the processor too: they are tried again alone.
    """
    once = run(url, cases, 4, directory / "once")
    return run(url, tuple(once), 1, directory / "twice") if once else {}


def test_every_case_of_the_protocol_passes(echo: EchoDaemon, tmp_path: Path) -> None:
    assert failed(echo.chat_url(1), SMALL, tmp_path) == {}


def test_cases_of_compression_pass_where_it_is_on(echo: EchoDaemon, tmp_path: Path) -> None:
    assert failed(echo.chat_url(1), COMPRESSED, tmp_path) == {}
