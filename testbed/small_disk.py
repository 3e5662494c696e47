"""A disk that can be full: a file system in memory, of a size of its own. It needs root."""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path
from typing import Self

_SLACK_BYTES = 4096


class SmallDisk:
    """Mounted on a directory while it is a context.

    :param directory: is there and empty.
    """

    def __init__(self, directory: Path, megabytes: int = 768) -> None:
        self.directory = directory
        self._megabytes = megabytes
        self._ballast = directory / "ballast"

    def __enter__(self) -> Self:
        options = f"size={self._megabytes}m,mode=0755"
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "chatflow", self.directory], check=True)
        return self

    def __exit__(self, *_: object) -> None:
        # At once, and whoever still has a file open there keeps it as long as he likes.
        subprocess.run(["umount", "--lazy", self.directory], check=False)

    def fill(self) -> None:
        """Leave no room at all."""
        with self._ballast.open("ab") as ballast:
            piece = 1 << 20
            while piece >= _SLACK_BYTES:
                try:
                    os.write(ballast.fileno(), bytes(piece))
                except OSError:
                    piece //= 2

    def make_room(self) -> None:
        """As it was."""
        self._ballast.unlink(missing_ok=True)


def why_not(directory: Path) -> str:
    """In one line why this process cannot have one; nothing if it can."""
    if os.geteuid() != 0:
        return "no disk of its own without root"
    with contextlib.suppress(OSError, subprocess.CalledProcessError), SmallDisk(directory, 1):
        return ""
    return "no disk of its own here: mount refuses"
