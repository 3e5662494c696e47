"""The load client as a process of its own, ``twistd -n chatflow-load``, and the report that it leaves."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import IO, Any, Self

from tests.support.daemon import TWISTD, clean_environment

_STOP_SECONDS = 30.0


class LoadClient:
    """A run under way. Leaving the ``with`` block ends it, if it is not over, and removes its directory.

    :param options: of the load client, without ``--url``, ``--output`` and ``--check-database``.
    :param urls: where to connect, each without the room.
    :param database_url: where to look up every acknowledged message at the end; empty for nowhere.
    :param progress: where the progress line goes: :data:`subprocess.DEVNULL`, or None for our own stderr.
    """

    def __init__(
        self, *options: object, urls: list[str], database_url: str = "", progress: int | None = subprocess.DEVNULL
    ) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="chatflow-load-"))
        self._summary: IO[bytes] = (self.directory / "summary").open("wb")
        environment = clean_environment()
        if database_url:
            environment["CHATFLOW_LOAD_CHECK_DATABASE"] = database_url  # a URL may hold a password
        where = [word for url in urls for word in ("--url", url)]
        self._process = subprocess.Popen(
            [
                str(TWISTD),
                *("-n", "--pidfile=", "chatflow-load", "--output", str(self.directory)),
                *where,
                *map(str, options),
            ],
            cwd=self.directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=self._summary,
            stderr=progress,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._summary.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    @property
    def runs(self) -> bool:
        """Whether it is not over."""
        return self._process.poll() is None

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
        path = self.directory / "report.json"
        if not path.exists():
            raise RuntimeError(f"the load client left no report: {self.summary()}")
        report: dict[str, Any] = json.loads(path.read_text())
        return report

    def summary(self) -> str:
        """What it printed for people."""
        return (self.directory / "summary").read_text(errors="replace")
