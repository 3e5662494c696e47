"""``chatflow-client``, also as ``python -m chatflow.client``."""

from __future__ import annotations

import os
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import react

from chatflow.client.command import parse
from chatflow.lifecycle.clocks import make_monotonic


def main() -> None:
    """Run the program.

    :raises SystemExit: with its status.
    """
    _open_missing_descriptors()  # before the reactor takes their numbers
    wishes = parse()
    from chatflow.client.terminal import chat

    async def run(reactor: Any) -> None:
        raise SystemExit(await chat(make_monotonic(reactor), wishes))

    react(lambda reactor: Deferred.fromCoroutine(run(reactor)))


def _open_missing_descriptors() -> None:
    """``<&-`` and ``>&-``: nothing to read, nobody to write to."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest that is free


if __name__ == "__main__":
    main()
