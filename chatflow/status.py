"""How one daemon is: for load balancers, for ``systemctl status``, and as figures for the routes of HTTP."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import metadata

from chatflow.broker.consumer import Consumer
from chatflow.edge.compat.instance import InstanceFigures
from chatflow.edge.services import EdgeServices
from chatflow.lifecycle.clocks import WallTime
from chatflow.persistence.database import Database
from chatflow.persistence.writer import BatchWriter
from chatflow.readings import Reading


class InstanceStatus:
    """Reads what its parts keep, when somebody asks. Runs on the reactor thread.

    :param now: for stamps.
    :param databases: all pools that messages depend on.
    :param hears: whether messages that other instances store arrive here.
    :param clock_is_wrong: whether nothing may be accepted therefore.
    :ivar started: whether the ports are open.
    """

    def __init__(
        self,
        *,
        now: WallTime,
        edge: EdgeServices,
        consumer: Consumer,
        writer: BatchWriter,
        databases: Sequence[Database],
        hears: Callable[[], bool],
        clock_is_wrong: Callable[[], bool],
    ) -> None:
        self._now = now
        self._edge = edge
        self._consumer = consumer
        self._writer = writer
        self._databases = databases
        self._hears = hears
        self._clock_is_wrong = clock_is_wrong
        self.started = False

    def ready(self) -> bool:
        """Whether a load balancer should send clients here: it hears the other instances, its clock is right, and
        it is not stopping.

        The database's state is not part of it: a failover must not take every instance out at once.
        """
        return self.started and self._hears() and not self._clock_is_wrong() and not self._edge.connections.ending

    def summary(self) -> str:
        """A line for ``systemctl status``."""
        clients, pending = len(self._edge.connections), self._edge.ingress.pending
        database = "" if self._database_available() else ", the database is away"
        deaf = "" if self._hears() else ", does not hear the other instances"
        return f"{clients} clients, {pending} messages unanswered{database}{deaf}"

    def figures(self) -> InstanceFigures:
        """This instance's figures as they are now."""
        edge, counters, ingress, hub = self._edge, self._edge.counters, self._edge.ingress, self._edge.hub
        consumer, writer = self._consumer, self._writer
        return InstanceFigures(
            server_id=edge.server_id,
            at_ms=int(self._now() * 1000),
            consuming=consumer.running,
            draining=edge.connections.ending,
            database_available=self._database_available(),
            connections=len(edge.connections),
            members=hub.members(),
            received=counters.messages_received,
            refused=counters.messages_refused,
            pending=ingress.pending,
            acknowledged=ingress.acknowledged,
            acks_sent=counters.acks_sent,
            envelopes=ingress.envelopes,
            delivered=hub.delivered,
            deliveries_failed=hub.failed,
            consumed=consumer.processed,
            redelivered=consumer.redelivered,
            dead_lettered=consumer.set_aside,
            stored=writer.stored,
            not_stored=writer.set_aside,
        )

    def readings(self) -> list[Reading]:
        """For Prometheus: what no single part knows."""
        version = metadata.version("chatflow")
        return [
            Reading("chatflow_ready", "1 if /health/ready says so", self.ready, is_counter=False),
            Reading("chatflow_build_info", "1, by version", lambda: {version: 1}, is_counter=False, label="version"),
        ]

    def _database_available(self) -> bool:
        return all(database.available for database in self._databases)
