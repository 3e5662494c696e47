"""What is kept of each acknowledgement: its messageId for the database check, and a line of ``messages.csv``."""

from __future__ import annotations

import shutil
from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from chatflow.errors import ChatFlowError
from chatflow.load.roomlog import TICK_US
from chatflow.load.scenario import Kind
from chatflow.load.wall_clock import Clock

MESSAGES_HEADER = "timestamp,messageType,latency_ms,status,room\n"
_NO_ID = bytes(16)


class KeptAcks:
    """16 bytes for each id, and 18 for each line, so that a long run stays in memory.

    :param ids: keep messageIds.
    :param lines: keep what ``messages.csv`` needs.
    """

    def __init__(self, *, ids: bool, lines: bool) -> None:
        self._keep_ids = ids
        self._keep_lines = lines
        self.ids: dict[int, bytearray] = defaultdict(bytearray)
        self._sent_us = array("q")
        self._kinds = array("i")
        self._ticks = array("i")
        self._rooms = array("h")

    def add(self, room: int, ids: Iterable[str], rows: Sequence[tuple[int, int, int]]) -> None:
        """:param rows: intended send time (µs), kind, latency (ticks) of each."""
        if self._keep_ids:
            kept = self.ids[room]
            for message_id in ids:
                kept += _id_bytes(message_id)
        if self._keep_lines:
            self._sent_us.extend([row[0] for row in rows])
            self._kinds.extend([row[1] for row in rows])
            self._ticks.extend([row[2] for row in rows])
            self._rooms.extend([room] * len(rows))

    def lines(self, kinds: Sequence[Kind], clock: Clock, unanswered: Iterable[tuple[int, int]]) -> Iterator[str]:
        """Lines of ``messages.csv``. :param unanswered: intended send time and room of messages without an ack."""
        for sent_us, kind, ticks, room in zip(self._sent_us, self._kinds, self._ticks, self._rooms, strict=True):
            yield f"{clock.timestamp(sent_us)},{kinds[kind].type},{ticks * TICK_US / 1000:.1f},SUCCESS,{room}\n"
        for sent_us, room in unanswered:
            yield f"{clock.timestamp(sent_us)},,,FAILED,{room}\n"


def _id_bytes(message_id: str) -> bytes:
    """A UUID as 16 bytes; 16 zeros if it is none, which no database has."""
    try:
        found = bytes.fromhex(message_id.replace("-", ""))
    except ValueError:
        return _NO_ID
    return found if len(found) == 16 else _NO_ID


class CannotWrite(ChatFlowError):
    """A result could not be written. The text is one line that names the option."""

    def __init__(self, directory: str, error: OSError) -> None:
        super().__init__(f"cannot write to --output {directory}: {error.strerror or error}")


def part_path(directory: str, process: int) -> Path:
    """Where a process leaves its lines of ``messages.csv``."""
    return Path(directory) / f"messages.{process}.part"


def write_part(directory: str, process: int, lines: Iterable[str]) -> None:
    """Leave a process's lines of ``messages.csv``. :raises CannotWrite: that cannot be done."""
    try:
        with part_path(directory, process).open("w", encoding="ascii") as part:
            part.writelines(lines)
    except OSError as error:
        raise CannotWrite(directory, error) from error


def join_parts(directory: str, processes: int) -> None:
    """Make ``messages.csv`` of what the processes left. They are in order of acknowledgement, process by process.

    :raises CannotWrite: that cannot be done.
    """
    try:
        _join_parts(directory, processes)
    except OSError as error:
        raise CannotWrite(directory, error) from error


def _join_parts(directory: str, processes: int) -> None:
    with (Path(directory) / "messages.csv").open("w", encoding="ascii") as whole:
        whole.write(MESSAGES_HEADER)
        for process in range(processes):
            path = part_path(directory, process)
            if path.exists():
                with path.open(encoding="ascii") as part:
                    shutil.copyfileobj(part, whole)
                path.unlink()
