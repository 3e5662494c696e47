"""A whole run against a server in this process, over loopback."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
from twisted.internet import reactor as _reactor
from twisted.internet.task import deferLater

from benchmarks.null_server import NullServer
from chatflow.load.run import LoadRun, Outcome
from chatflow.load.scenario import Settings
from chatflow.load.tally import merge
from chatflow.load.wall_clock import system_clock
from chatflow.load.worker import LoadWorker

reactor: Any = _reactor

# Six connections in two rooms, three in each. What never comes is not waited for long.
SETTINGS = Settings(
    connections=6,
    rooms=2,
    even_rooms=True,
    messages=120,
    warmup_connections=2,
    warmup_messages=20,
    in_flight=5,
    timeout_seconds=1.5,  # on a busy machine this process may stand still for a part of a second
    run="f00ba4",
)


class Listening:
    """``async with Listening(server) as url``. Leaving waits until all connections are gone."""

    def __init__(self, server: NullServer) -> None:
        self._server = server

    async def __aenter__(self) -> str:
        self._port = reactor.listenTCP(0, self._server, interface="127.0.0.1")
        return f"ws://127.0.0.1:{self._port.getHost().port}/chat"

    async def __aexit__(self, *_: object) -> None:
        await self._port.stopListening()
        while self._server.connections:
            await deferLater(reactor, 0.002)


async def run_against(server: Callable[[Any], NullServer], **changed: Any) -> Outcome:
    """One run of one process. :param changed: settings that are not as in :data:`SETTINGS`."""
    async with Listening(server(reactor)) as url:
        settings = attrs.evolve(SETTINGS, urls=(url,), **changed)
        clock = system_clock()
        return await LoadRun(settings, [LoadWorker(reactor, settings, 0, clock)], clock, None).run()


def faults(outcome: Outcome) -> dict[str, int]:
    """Each figure that must be 0 and is not, over both phases."""
    whole = merge(outcome.phases)
    whole.room_seq_holes = sum(phase.room_seq_holes for phase in outcome.phases)
    names = (
        "failed refused unsent connections_lost unexpected_frames unexpected_acks never_broadcast changed_ids missing"
        " duplicated repeated out_of_order altered misrouted conflicting room_seq_holes"
    )
    return {name: count for name in names.split() if (count := getattr(whole, name))}
