"""A newcomer's walk through the tutorial, done literally: its commands are run, one after the other, as they stand.

Only the ports are replaced by free ones, and the paths of the checkout by absolute ones.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed.daemon import clean_environment
from testbed.http_client import request
from testbed.waiting import eventually

_ROOT = Path(__file__).parent.parent.parent
_BLOCK = re.compile(r"^\.\. code-block:: console\n((?:   :.*\n)*)\n((?:   .*\n|\n)+)", re.MULTILINE)
_COMMAND_SECONDS = 120
_START_SECONDS = 60


class Walk:
    """A shell's working directory, the ports in the place of the tutorial's, and what runs in the background."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.ports: dict[str, int] = {}
        self._exits = contextlib.ExitStack()

    def run(self, command: str) -> str:
        """Its output, once it has ended with status 0."""
        ended = subprocess.run(
            ["bash", "-c", self._absolute(command)],
            cwd=self.directory,
            env=self._environment(command),
            capture_output=True,
            text=True,
            timeout=_COMMAND_SECONDS,
        )
        assert ended.returncode == 0, f"{command}: {ended.stdout}{ended.stderr}"
        return ended.stdout

    def start(self, command: str) -> None:
        """Leave it running until the end; returns when it serves."""
        absolute = self._absolute(command)
        port = self._port_of(absolute)
        output = (self.directory / f"output-{port}").open("w+")
        process = subprocess.Popen(
            ["bash", "-c", f"exec {absolute}"],
            cwd=self.directory,
            env=self._environment(command),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        self._exits.callback(_stop, process)

        def serves() -> bool:
            assert process.poll() is None, Path(output.name).read_text()
            with contextlib.suppress(OSError):
                return request(port, "GET", "/health/ready").status == 200
            return False

        eventually(serves, f"{command} serves", _START_SECONDS)

    def end(self) -> None:
        """Stop what runs in the background, as Ctrl-C does."""
        self._exits.close()

    def _absolute(self, command: str) -> str:
        command = re.sub(r"(?<![\w/])scripts/", f"{_ROOT}/scripts/", command)
        command = command.replace(".venv/bin/", f"{sys.prefix}/bin/")
        return re.sub(r"(?<=[: ])80\d\d\b", lambda found: str(self._port(found[0])), command)

    def _port(self, written: str) -> int:
        if written not in self.ports:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                self.ports[written] = probe.getsockname()[1]
        return self.ports[written]

    def _port_of(self, command: str) -> int:
        (port,) = (port for port in self.ports.values() if str(port) in command)
        return port

    @staticmethod
    def _environment(command: str) -> dict[str, str]:
        if "scripts/" in command:
            return clean_environment() | {"PYTHON": sys.executable, "CHATFLOW_VENV": sys.prefix}
        return clean_environment() | {"PATH": f"{sys.prefix}/bin:{os.environ['PATH']}"}


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    assert process.wait(_START_SECONDS) == 0


@pytest.fixture
def walk(tmp_path: Path) -> Iterator[Walk]:
    if not (Path(sys.prefix) / "installed-testbed").exists():
        # scripts/run would make the environment of these very tests anew.
        assert not os.environ.get("CI"), "the tests run in an environment that scripts/test has not made"
        pytest.skip("needs the environment that scripts/test makes")
    walk = Walk(tmp_path)
    try:
        yield walk
    finally:
        walk.end()


def _steps(page: str = "tutorial") -> list[tuple[bool, str]]:
    """Each command of a page, with whether it goes on in the background."""
    text = (_ROOT / "docs" / f"{page}.rst").read_text(encoding="utf-8")
    return [
        ("background" in options, line.strip().removeprefix("$ "))
        for options, block in _BLOCK.findall(text)
        for line in block.splitlines()
        if line.strip().startswith("$ ")
    ]


def test_the_tutorial_is_walked_through(walk: Walk) -> None:
    outputs = []
    for in_background, command in _steps():
        if in_background:
            walk.end()  # the tutorial says so before it starts the next
            walk.start(command)
        else:
            outputs.append(walk.run(command))
    health, _, history, load = outputs
    assert '"status": "UP"' in health or '"status":"UP"' in health
    assert "hello from a terminal" in history
    assert "Verdict: PASS" in load


def test_what_the_page_of_authentication_shows_works(walk: Walk) -> None:
    outputs = []
    for in_background, command in _steps("authentication"):
        if in_background:
            walk.start(command)
        else:
            outputs.append(walk.run(command))
    *_, history, metrics, writer = outputs
    assert "Hello, it is me" in history
    assert "alice" in history
    assert '"messagesReceived":1,' in metrics
    assert "writer" in writer
