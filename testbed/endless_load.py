"""``twistd`` with a load client that sends until it is told that it is enough, and then ends its run in order.

::

    python -m testbed.endless_load -n chatflow-load --rate 100 --messages 1000000 ...

``--messages`` are the most that it sends. It is enough once there is a file ``enough`` in the process's directory: all
that was sent is then proven as ever. A file ``heard`` is made there once every connection has received something: from
then on each knows what it misses while it is away.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from twisted.internet.task import LoopingCall

from chatflow.load.phase import RunningPhase
from chatflow.load.worker import LoadWorker

ENOUGH, HEARD = "enough", "heard"

_LOOK_SECONDS = 0.05


def end_early(running: RunningPhase) -> None:
    """Nothing more is sent, and what was not sent is owed by nobody."""
    for client in running.clients:
        session = client.session
        if not session.lost:
            running.recorder.tally.messages -= session.unsent
            session.unsent = 0


def install(directory: Path) -> None:
    """Let every load client of this process look for the one file and make the other."""
    enough, heard = directory / ENOUGH, directory / HEARD
    work = LoadWorker._work

    async def work_until_told(self: LoadWorker, running: RunningPhase, start_us: int) -> Any:
        def look() -> None:
            if enough.exists():
                end_early(running)
            if all(client.session.arrivals.next for client in running.clients):
                heard.touch()

        looking = LoopingCall(look)
        looking.clock = self._reactor
        looking.start(_LOOK_SECONDS)
        try:
            return await work(self, running, start_us)
        finally:
            looking.stop()

    LoadWorker._work = work_until_told  # type: ignore[method-assign]


def main() -> None:
    """Become ``twistd``."""
    install(Path.cwd())
    from twisted.scripts.twistd import run

    sys.argv[0] = "twistd"
    run()


if __name__ == "__main__":
    main()
