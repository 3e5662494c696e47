"""What the systems are put through, and which figures tell how they did."""

from __future__ import annotations

from collections.abc import Callable

import attrs

from benchmarks.peers.client import Finding, Plan, come_back, stay, talk
from benchmarks.peers.servers import Server
from benchmarks.results import Goal


@attrs.frozen
class Sizes:
    """What the command line says.

    :ivar seconds: of a run's measured part.
    :ivar idle_connections: of workload C.
    :ivar missed: messages that wait for the one who comes back.
    """

    seconds: float
    idle_connections: int
    missed: int


@attrs.frozen
class Shown:
    """A figure of a workload.

    :ivar name: among the figures of a :class:`~benchmarks.peers.client.Finding`.
    :ivar goal: what ChatFlow should reach.
    """

    name: str
    unit: str
    goal: Goal | None = None

    @property
    def title(self) -> str:
        """Of its column."""
        return {"ms": f"{self.name.removesuffix('_ms').replace('_', ' ')}, ms", "ms/1000": "CPU, ms/1000"}.get(
            self.unit, self.unit
        )


@attrs.frozen
class Workload:
    """One thing that they are put through.

    :ivar work: done in the client's process.
    :ivar plan: beside what :meth:`plan_for` knows.
    :ivar of_chatflow: whether it is in ChatFlow's own protocol, so that no other system can be asked.
    :ivar alone: whether it takes a server that has just started: memory tells little where there was a flood.
    """

    help: str
    work: Callable[[Plan], Finding]
    plan: Callable[[Sizes], dict[str, float]]
    shown: tuple[Shown, ...]
    alone: bool = False
    of_chatflow: bool = False

    def plan_for(self, server: Server, sizes: Sizes) -> Plan:
        """What the client is to do with that server."""
        usual = {"seconds": sizes.seconds, "warmup_seconds": sizes.seconds / 5}
        return Plan(server.wire, server.port, server.roots(), **{**usual, **self.plan(sizes)})  # type: ignore[arg-type]


_CPU = "cpu_ms_per_1000"

WORKLOADS = {
    "A": Workload(
        "64 connections in 20 rooms, each with 50 messages unacknowledged",
        talk,
        lambda sizes: {"window": 50},
        (Shown("messages_per_second", "messages/s", (">=", 45_000)), Shown(_CPU, "ms/1000", ("<=", 24))),
    ),
    "B": Workload(
        "1,000 connections in 10 rooms, each with 3 messages unacknowledged",
        talk,
        lambda sizes: {"window": 3, "connections": 1000, "rooms": 10},
        (Shown("deliveries_per_second", "deliveries/s", (">=", 2_500_000)), Shown(_CPU, "ms/1000")),
    ),
    "C": Workload(
        "idle connections",
        stay,
        lambda sizes: {"connections": sizes.idle_connections, "warmup_seconds": sizes.seconds},
        (Shown("kb_per_connection", "KB", ("<=", 8)), Shown("connections_per_second", "connections/s")),
        alone=True,
    ),
    "D": Workload(
        "64 connections in 20 rooms, 3,465 messages/s",
        talk,
        lambda sizes: {"rate": 3465},
        (
            Shown("ack_p50_ms", "ms", ("<=", 6)),
            Shown("ack_p99_ms", "ms", ("<=", 20)),
            Shown(_CPU, "ms/1000", ("<=", 140)),
        ),
    ),
    "E": Workload(
        "64 connections in 20 rooms, one message at a time",
        talk,
        lambda sizes: {},
        (Shown("ack_p50_ms", "ms", ("<=", 1)), Shown(_CPU, "ms/1000", ("<=", 900))),
    ),
    "500": Workload(
        "64 connections in 20 rooms, 500 messages/s",
        talk,
        lambda sizes: {"rate": 500},
        (Shown("cores", "cores", ("<=", 0.25)), Shown("ack_p50_ms", "ms"), Shown(_CPU, "ms/1000")),
    ),
    "resume": Workload(
        "one client that was away comes back to a room",
        come_back,
        lambda sizes: {"connections": 8, "window": 50, "missed": sizes.missed},
        (Shown("history_per_second", "messages/s", (">=", 150_000)), Shown(_CPU, "ms/1000")),
        of_chatflow=True,
    ),
}
