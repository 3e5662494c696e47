"""A plugin of pytest: mypy, which takes a minute, beside the tests instead of before them.

``scripts/test`` loads it. What mypy finds is shown behind the tests, and fails the run.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from typing import IO

import pytest

_running: list[tuple[subprocess.Popen[bytes], IO[bytes]]] = []


@pytest.hookimpl(trylast=True)  # so that tests.support.run ends it with everything else
def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        output = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the summary
        command = [sys.executable, "-m", "mypy"]
        process = subprocess.Popen(command, cwd=config.rootpath, stdout=output, stderr=subprocess.STDOUT)
        _running.append((process, output))


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    for process, _ in _running:
        if exitstatus == pytest.ExitCode.INTERRUPTED:
            process.kill()
        if process.wait() and exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for _, output in _running:
        output.seek(0)
        terminalreporter.section("mypy")
        terminalreporter.write(output.read().decode(errors="replace"))
        output.close()
