"""The load client as a process of its own, ``twistd -n chatflow-load``, and the report that it leaves."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Self

from testbed.daemon import TWISTD, clean_environment
from testbed.endless_load import ENOUGH, HEARD
from testbed.forkserver import start

_STOP_SECONDS = 30.0


class LoadClient:
    """A run under way. Leaving the ``with`` block ends it, if it is not over, and removes its directory.

    :param options: of the load client, without ``--url``, ``--output`` and ``--check-database``.
    :param urls: where to connect, each without the room.
    :param database_url: where to look up every acknowledged message at the end; empty for nowhere.
    :param progress: show it on our own stderr.
    :param endless: send until :meth:`finish` is called, ``--messages`` at most.
    """

    def __init__(
        self,
        *options: object,
        urls: list[str],
        database_url: str = "",
        progress: bool = False,
        endless: bool = False,
    ) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="chatflow-load-"))
        environment = clean_environment()
        if database_url:
            environment["CHATFLOW_LOAD_CHECK_DATABASE"] = database_url  # a URL may hold a password
        where = [word for url in urls for word in ("--url", url)]
        program = [sys.executable, "-m", "testbed.endless_load"] if endless else [str(TWISTD)]
        command = [*program, "-n", "--pidfile=", "chatflow-load", "--output", str(self.directory), *where]
        with self._file("stdout").open("wb") as stdout, self._file("stderr").open("wb") as stderr:
            self._process = start(
                [*command, *map(str, options)],
                cwd=self.directory,
                env=environment,
                stdout=stdout,
                stderr=None if progress else stderr,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)

    @property
    def runs(self) -> bool:
        """Whether it is not over."""
        return self._process.poll() is None

    def finish(self) -> None:
        """An endless one sends nothing more; what it has sent is proven."""
        (self.directory / ENOUGH).touch()

    @property
    def is_heard(self) -> bool:
        """Whether every connection of an endless one has received something."""
        return self._file(HEARD).exists()

    def interrupt(self) -> None:
        """Give up: the report then tells what is known so far."""
        self._process.send_signal(signal.SIGTERM)

    def report(self, seconds: float) -> dict[str, Any]:
        """``report.json``, once the run is over.

        :param seconds: how long it may take; then it is interrupted.
        :raises RuntimeError: there is none, because the run never began.
        """
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.interrupt()
            self._process.wait(_STOP_SECONDS)
        try:
            report: dict[str, Any] = json.loads(self._file("report.json").read_text())
        except FileNotFoundError:
            raise RuntimeError(f"the load client left no report: {self._file('stderr').read_text()}") from None
        return report

    def summary(self) -> str:
        """What it printed for people."""
        return self._file("stdout").read_text(errors="replace")

    def _file(self, name: str) -> Path:
        return self.directory / name
