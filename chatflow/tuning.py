"""Settings of the process itself, for a daemon that holds many sockets and hands work to threads."""

from __future__ import annotations

import gc
import resource
import sys

from twisted.logger import Logger

_log = Logger()

# A thread that waits for the interpreter's lock gets it after this; the default of 5 ms, several times in each
# commit, would be most of a commit's time while the reactor is busy.
_SWITCH_SECONDS = 0.0005

# Messages come in thousands and die young without cycles: collecting after each 700 of them finds nothing.
_YOUNG_OBJECTS = 50_000


def tune_process() -> None:
    """Called once, after the fork and before anything else starts."""
    sys.setswitchinterval(_SWITCH_SECONDS)
    gc.freeze()
    gc.set_threshold(_YOUNG_OBJECTS, 20, 50)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    _log.info("up to {files} open files", files=hard)
