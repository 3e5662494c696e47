"""How far the run is: one live line on a terminal, otherwise a plain line now and then."""

from __future__ import annotations

from typing import Any, TextIO

from rich.console import Console
from rich.live import Live
from rich.text import Text
from twisted.internet.task import LoopingCall

from chatflow.load.interfaces import Progress
from chatflow.load.run import LoadRun

_LIVE_SECONDS = 0.5
_PLAIN_SECONDS = 5.0


class ProgressLine:
    """:param reactor: IReactorTime. :param stream: where the line goes."""

    def __init__(self, reactor: Any, run: LoadRun, stream: TextIO) -> None:
        self._reactor = reactor
        self._run = run
        self._stream = stream
        self._live: Live | None = None
        if stream.isatty():
            self._live = Live(console=Console(file=stream), auto_refresh=False, transient=True)
        self._before = Progress()
        self._at_seconds = 0.0
        self._call = LoopingCall(self._show)
        self._call.clock = reactor

    def start(self) -> None:
        self._at_seconds = self._reactor.seconds()
        if self._live is not None:
            self._live.start()
        self._call.start(_LIVE_SECONDS if self._live is not None else _PLAIN_SECONDS, now=False)

    def stop(self) -> None:
        if self._call.running:
            self._call.stop()
        if self._live is not None:
            self._live.stop()

    def _show(self) -> None:
        now, seconds = self._run.progress, self._reactor.seconds()
        line = progress_text(self._run.phase, self._before, now, seconds - self._at_seconds)
        self._before, self._at_seconds = now, seconds
        if self._live is not None:
            self._live.update(Text(line), refresh=True)
        else:
            print(line, file=self._stream, flush=True)


def progress_text(phase: str, before: Progress, now: Progress, seconds: float) -> str:
    """:param before: as it was *seconds* ago."""
    if now.acked < before.acked:  # another phase has begun
        before = Progress()
    acked, delivered = (
        (a - b) / max(seconds, 0.001) for a, b in ((now.acked, before.acked), (now.delivered, before.delivered))
    )
    return (
        f"{phase}: {now.sent:,} sent, {now.acked:,} acknowledged ({acked:,.0f}/s), "
        f"{now.delivered:,} delivered ({delivered:,.0f}/s)"
    )
