"""A wall clock for single processes that tests set forward and back: libfaketime, and what goes with it.

It comes from the system, not from pip: ``apt install faketime``. ``time.sleep`` fails in such a process (libfaketime
0.9.10 computes with the deadlines of CLOCK_MONOTONIC), so it may not start an embedded PostgreSQL.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

HOW_TO_INSTALL = "libfaketime is not installed: apt install faketime"


def find_libfaketime() -> Path | None:
    """The library to preload, if there is one."""
    places = [*Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), Path("/usr/lib/faketime/libfaketime.so.1")]
    return next((place for place in places if place.exists()), None)


class SteppedClock:
    """The time of day of all processes that are started with its :attr:`environment`; other clocks stay theirs.

    :param directory: of the test; every account may read what is written there.
    """

    def __init__(self, directory: Path) -> None:
        library = find_libfaketime()
        assert library is not None, HOW_TO_INSTALL
        self._file = directory / "clock"
        self.set(0)
        directory.chmod(0o755)
        self._file.chmod(0o644)
        self.environment: Mapping[str, str] = {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            # Else it does so with those of condition variables, too: waits for Python's own lock end at once, and
            # threads spin.
            "FAKETIME_FORCE_MONOTONIC_FIX": "0",
            "FAKETIME_NO_CACHE": "1",  # or some processes would notice later than others, as no clock does
        }

    def set(self, seconds: float) -> None:
        """So far ahead of the machine's clock, or behind it, from now on."""
        written = self._file.with_suffix(".new")
        written.write_text(f"{seconds:+.0f}\n")
        written.chmod(0o644)
        written.replace(self._file)

    @contextlib.contextmanager
    def inherited(self) -> Iterator[None]:
        """Processes that are started within the block have this clock."""
        before = {name: os.environ.get(name) for name in self.environment}
        os.environ.update(self.environment)
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value
