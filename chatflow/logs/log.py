"""The observer that twistd is given instead of its own."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from attrs import frozen
from twisted.logger import FilteringLogObserver, ILogObserver, LogLevel, LogLevelFilterPredicate
from zope.interface import implementer

from chatflow.logs.formats import as_json, as_text, level_name
from chatflow.logs.repeats import Repeats
from chatflow.logs.sinks import FileSink, JournalSink, Sink, StreamSink, is_journal


@frozen
class LogSettings:
    """What an operator may choose; the options of the same names in ``docs/configuration.rst`` say what it means.

    :ivar file: None for standard output.
    """

    level: str
    format: str
    file: Path | None
    file_bytes: int
    files_kept: int


@implementer(ILogObserver)
class Log:
    """Takes every event of the process. Any thread may call it.

    Nothing is opened before :meth:`open`, and what comes before that is lost.

    :param seconds: a monotonic clock.
    """

    def __init__(self, settings: LogSettings, seconds: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._sink: Sink | None = None
        self._levels = LogLevelFilterPredicate()
        self.set_level(settings.level)
        self._repeats = Repeats(self._write, seconds)
        self._filtered = FilteringLogObserver(self._repeats, [self._levels])

    def __call__(self, event: dict[str, Any]) -> None:
        self._filtered(event)

    def open(self) -> None:
        """Begin to write.

        :raises OSError: the file cannot be opened.
        """
        settings = self._settings
        if settings.file is not None:
            self._sink = FileSink(settings.file, settings.file_bytes, settings.files_kept)
        elif is_journal(sys.stdout):
            self._sink = JournalSink(sys.stdout)
        else:
            self._sink = StreamSink(sys.stdout)

    def set_level(self, level: str) -> None:
        """From now on, what is less important than ``level`` is left out."""
        self._levels.setLogLevelForNamespace("", LogLevel.levelWithName(level))

    def reopen(self) -> None:
        """Begin the file anew, if somebody has moved it."""
        if self._sink is not None:
            self._sink.reopen()

    def sum_up(self) -> None:
        """Tell what was repeated; to be called every few seconds."""
        self._repeats.sum_up()

    def close(self) -> None:
        """Tell everything that was repeated. What comes later is still written."""
        self._repeats.close()

    def _write(self, event: dict[str, Any]) -> None:
        sink = self._sink
        if sink is None:
            return
        text = as_json(event) if self._settings.format == "json" else as_text(event, stamped=not sink.stamps)
        sink.write(text, level_name(event))


def log_for(settings: LogSettings, twistd: Mapping[str, Any] | None) -> Log | None:
    """The log of a process that twistd runs; None if twistd was told to keep it (``--syslog``, ``--logger``).

    :param settings: without a file, it is the one that twistd was given (``--logfile``); in the background
        ``twistd.log``, as twistd has it.
    :param twistd: its options; None without one.
    """
    options = twistd or {}
    if options.get("syslog") or options.get("logger"):
        return None
    file = settings.file
    if file is None:
        in_background = twistd is not None and "nodaemon" in twistd and not twistd["nodaemon"]
        name = options.get("logfile") or ("twistd.log" if in_background else "-")
        if name == "-" and in_background:
            return None  # twistd says that this is not possible
        file = None if name == "-" else Path(name)
    return Log(LogSettings(settings.level, settings.format, file, settings.file_bytes, settings.files_kept))
