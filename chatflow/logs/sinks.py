"""Where lines go: standard output, the journal, a file that is rotated. None of them raises when it cannot write."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Protocol, TextIO

from twisted.python.logfile import LogFile

# RFC 5424, section 6.2.1; systemd takes them off the begin of a line (sd-daemon(3)).
_PRIORITIES = {"debug": 7, "info": 6, "warn": 4, "error": 3, "critical": 2}


class Sink(Protocol):
    """Takes what the log has to say.

    :ivar stamps: whether it notes the time of each line itself.
    """

    stamps: bool

    def write(self, text: str, level: str) -> None:
        """Write one entry, which may have several lines. Lost when that is not possible."""

    def reopen(self) -> None:
        """Begin the file anew, if somebody has moved it."""


class StreamSink:
    """Writes lines to standard output."""

    stamps = False

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str, level: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # full, closed, or its reader has gone
            self._stream.write(self._lines(text, level))
            self._stream.flush()

    def reopen(self) -> None:
        pass

    def _lines(self, text: str, level: str) -> str:
        # What this stream's encoding lacks is escaped, so that a locale of C does not lose the line.
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        return f"{text}\n".encode(encoding, "backslashreplace").decode(encoding)


class JournalSink(StreamSink):
    """Writes to standard output when systemd has connected it with its journal: each line begins with its priority."""

    stamps = True

    def _lines(self, text: str, level: str) -> str:
        priority = f"<{_PRIORITIES[level]}>"
        return super()._lines("\n".join(priority + line for line in text.split("\n")), level)


class FileSink:
    """A file that becomes ``NAME.1`` when it is full, while older ones move on and the last one is removed.

    :param max_bytes: when it is full. All files together hold about ``(kept + 1) * max_bytes``.
    :param kept: how many full ones are kept, at least one. Where no file can be made they are not, and a file of twice
        the size begins anew.
    :raises OSError: it cannot be opened.
    """

    stamps = False

    def __init__(self, path: Path, max_bytes: int, kept: int) -> None:
        self._path = path.absolute()
        self._max_bytes = max_bytes
        self._file = LogFile(
            self._path.name,
            str(self._path.parent),
            rotateLength=max_bytes,
            defaultMode=None if self._path.exists() else 0o640,
            maxRotatedFiles=kept,
        )

    def write(self, text: str, level: str) -> None:
        try:
            if self._file.size > 2 * self._max_bytes:  # it cannot be rotated, as in a directory of somebody else
                os.truncate(self._path, 0)
                self.reopen()
            self._file.write(f"{text}\n".encode("utf-8", "backslashreplace"))
        except (OSError, ValueError):  # the disk is full, or a rotation failed half-way
            self.reopen()

    def reopen(self) -> None:
        with contextlib.suppress(OSError, AttributeError):
            self._file.reopen()


def is_journal(stream: TextIO | None) -> bool:
    """Whether systemd has connected this stream with its journal (``JOURNAL_STREAM`` in systemd.exec(5))."""
    try:
        status = os.fstat(stream.fileno()) if stream is not None else None
    except (OSError, ValueError, AttributeError):
        return False
    return status is not None and os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"
