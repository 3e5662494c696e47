"""What the system lets this process have: memory and open files, looked at when it starts."""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Iterator
from pathlib import Path

from attrs import frozen

from chatflow.errors import StartupError

#: Of the memory, for what waits for clients, if nobody says how much; and the most of it that anybody may say.
_USUAL_SHARE, _LARGEST_SHARE = 1 / 4, 3 / 4
_USUAL_MOST_BYTES = 1 << 30

#: Beside connections: the database's, listeners, logs, plain HTTP (chatflow.edge.site).
OTHER_FILES = 1200


@frozen
class Memory:
    """How much there is. :ivar source: what says so."""

    size_bytes: int
    source: str


def memory(process: Path = Path("/proc/self"), groups: Path = Path("/sys/fs/cgroup")) -> Memory:
    """The least of what the machine has, the limit of the process (``ulimit -v``) and those of its control groups."""
    return min(_memories(process, groups), key=lambda each: each.size_bytes)


def _memories(process: Path, groups: Path) -> Iterator[Memory]:
    yield Memory(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), "the machine's memory")
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft != resource.RLIM_INFINITY:
        yield Memory(soft, "ulimit -v")
    with contextlib.suppress(OSError):
        for line in (process / "cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            root, name = (groups, "memory.max") if not controllers else (groups / "memory", "memory.limit_in_bytes")
            if controllers and "memory" not in controllers.split(","):
                continue
            # Seen from within a container the path may not be there, and the limit is that of the root.
            group = root / path.lstrip("/")
            for each in (group, *group.parents):
                if each == root.parent:
                    break
                with contextlib.suppress(OSError, ValueError):  # "max" is none
                    yield Memory(int((each / name).read_text()), "its control group")


def allow_buffers(asked_bytes: int, available: Memory) -> int:
    """How much may wait for clients.

    :param asked_bytes: 0 for the usual share.
    :raises StartupError: that is too much for this process.
    """
    if not asked_bytes:
        return int(min(_USUAL_MOST_BYTES, available.size_bytes * _USUAL_SHARE))
    most = int(available.size_bytes * _LARGEST_SHARE)
    if asked_bytes > most:
        raise StartupError(
            f"max-buffered-bytes = {asked_bytes}: this process may have {available.size_bytes} bytes "
            f"({available.source}); give at most {most}, or more memory"
        )
    return asked_bytes


def lacking_files(max_connections: int, allowed: int) -> str:
    """What to tell an operator whose limit of open files does not suffice; empty if it does."""
    needed = max_connections + OTHER_FILES
    if allowed == resource.RLIM_INFINITY or allowed >= needed:
        return ""
    return (
        f"at most {allowed} open files are allowed, and max-connections = {max_connections} needs {needed}: "
        f"raise the limit (ulimit -n, LimitNOFILE=), or give --max-connections {max(1, allowed - OTHER_FILES)}"
    )


def allowed_files() -> int:
    """How many open files this process may have now."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
