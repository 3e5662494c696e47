"""What this instance tells of itself: as Prometheus text, and as the reference's JSON.

Counters are plain integers of the parts that count, read when somebody asks: nothing is paid per message.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from importlib import metadata

from prometheus_client import CollectorRegistry, GCCollector, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from chatflow.broker.consumer import Consumer
from chatflow.edge.services import EdgeServices
from chatflow.errors import Unavailable
from chatflow.lifecycle.clocks import WallTime
from chatflow.persistence.database import Database
from chatflow.persistence.migrations import load_migrations
from chatflow.persistence.writer import BatchWriter
from chatflow.readings import Reading
from chatflow.rooms.hub import Hub
from chatflow.rooms.ingress import Ingress
from chatflow.rooms.pages import Pages
from chatflow.rooms.resume import Resumer

_COMMIT_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
# Close together, so that percentiles can be told from them.
_ACK_SECONDS = tuple(round(digit * 10**power, 4) for power in range(-3, 2) for digit in (1, 1.5, 2, 3, 5, 7))
_BATCH_MESSAGES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000)


class _Readings(Collector):
    def __init__(self, readings: Iterable[Reading], hub: Hub) -> None:
        self._readings = tuple(readings)
        self._hub = hub

    def collect(self) -> Iterator[Metric]:
        for reading in self._readings:
            kind = CounterMetricFamily if reading.is_counter else GaugeMetricFamily
            family = kind(reading.name, reading.help, labels=[reading.label] if reading.label else None)
            value = reading.read()
            for label, number in value.items() if isinstance(value, Mapping) else [(None, value)]:
                family.add_metric([] if label is None else [label], number)
            yield family
        members = GaugeMetricFamily("chatflow_room_members", "Members on this instance", labels=["room"])
        for room, count in self._hub.members().items():
            members.add_metric([str(room)], count)
        yield members


class Metrics:
    """The figures of one daemon. ``observe_batch`` is given to the batch writer.

    :ivar observe_ack: takes the seconds from the acceptance of an envelope's oldest message to its acknowledgement.
    """

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._commit_seconds = Histogram(
            "chatflow_commit_seconds",
            "From the start of a flush to its commit",
            buckets=_COMMIT_SECONDS,
            registry=self._registry,
        )
        self._batch_messages = Histogram(
            "chatflow_batch_messages", "Messages per commit", buckets=_BATCH_MESSAGES, registry=self._registry
        )
        self.observe_ack = self.histogram(
            "chatflow_ack_seconds", "Of each envelope's oldest message: from its acceptance until durable", _ACK_SECONDS
        )
        ProcessCollector(registry=self._registry)
        GCCollector(registry=self._registry)

    def observe_batch(self, messages: int, seconds: float) -> None:
        """A batch was committed."""
        self._batch_messages.observe(messages)
        self._commit_seconds.observe(seconds)

    def histogram(self, name: str, help_: str, buckets: Sequence[float]) -> Callable[[float], None]:
        """Show one more histogram; what this returns adds an observation to it."""
        return Histogram(name, help_, buckets=buckets, registry=self._registry).observe

    def add(self, readings: Iterable[Reading], hub: Hub) -> None:
        """Show these figures too."""
        self._registry.register(_Readings(readings, hub))

    def snapshot(self) -> dict[str, dict[str, float]]:
        """Every sample by name and label, as Prometheus would get it; without a label it is ``""``."""
        found: dict[str, dict[str, float]] = {}
        for family in self._registry.collect():
            for sample in family.samples:
                found.setdefault(sample.name, {})[",".join(sample.labels.values())] = sample.value
        return found

    def prometheus(self) -> tuple[bytes, str]:
        """The text and its content type."""
        encode, content_type = choose_encoder("")
        return encode(self._registry), content_type


class Latest:
    """A figure that costs a question, asked from time to time. ``value``: NaN while it is not known."""

    def __init__(self, ask: Callable[[], Awaitable[float]]) -> None:
        self._ask = ask
        self.value = float("nan")

    async def ask(self) -> None:
        """Ask again. Does not fail."""
        try:
            self.value = float(await self._ask())
        except Unavailable:
            self.value = float("nan")


class Instance:
    """The parts of one daemon, as far as the HTTP routes speak of them."""

    def __init__(
        self,
        *,
        now: WallTime,
        server_id: str,
        edge: EdgeServices,
        ingress: Ingress,
        hub: Hub,
        resumer: Resumer,
        pages: Pages,
        consumer: Consumer,
        writer: BatchWriter,
        databases: Iterable[Database],
        hears: Callable[[], bool],
        views_age_seconds: Callable[[], float],
        dead_letters: Latest,
        clock_is_wrong: Callable[[], bool],
    ) -> None:
        self._now = now
        self._server_id = server_id
        self._edge = edge
        self._ingress = ingress
        self._hub = hub
        self._resumer = resumer
        self._pages = pages
        self._consumer = consumer
        self._writer = writer
        self._databases = tuple(databases)
        self._hears = hears
        self._views_age_seconds = views_age_seconds
        self._dead_letters = dead_letters
        self._clock_is_wrong = clock_is_wrong
        self.started = False

    def ready(self) -> bool:
        """Whether a load balancer should send clients here: it hears the other instances, its clock is right, and
        it is not stopping.

        The database's state is not part of it: a failover must not take every instance out at once.
        """
        return self.started and self._hears() and not self._clock_is_wrong() and not self._edge.connections.draining

    def summary(self) -> str:
        """A line for ``systemctl status``."""
        database = "" if self._database_available() else ", the database is away"
        deaf = "" if self._hears() else ", does not hear the other instances"
        return f"{len(self._edge.connections)} clients, {self._ingress.pending} messages unanswered{database}{deaf}"

    def health(self) -> dict[str, object]:
        """``/health`` in the reference's shape."""
        running = self._consumer.running
        return {
            **self._who(),
            "sqsHealthy": running,
            "consumerHealthy": running,
            "writeManagerHealthy": not self._edge.connections.draining,
            "databaseHealthy": self._database_available(),
            "databaseConfigured": True,
            "status": "UP" if running and not self._edge.connections.draining else "DOWN",
        }

    def metrics(self) -> dict[str, object]:
        """``/metrics`` in the reference's shape; ``messagesBroadcast`` counts deliveries."""
        edge, ingress, hub = self._edge.counters, self._ingress, self._hub
        members = hub.members()
        return {
            **self._who(),
            "handler": {
                "messagesReceived": edge.messages_received,
                "messagesPublished": ingress.acknowledged,
                "messagesFailed": edge.messages_refused,
                "acksSent": edge.acks_sent,
                "acksFailed": ingress.acknowledged - edge.acks_sent,
            },
            "sqs": {"messagesSent": ingress.envelopes},
            "consumer": {
                "messagesProcessed": self._consumer.processed,
                "messagesFailed": self._consumer.set_aside,
                "messagesDeletedWithoutBroadcast": self._consumer.redelivered,
                "isRunning": self._consumer.running,
            },
            "rooms": {
                "totalSessions": sum(members.values()),
                "activeRooms": len(members),
                "messagesBroadcast": hub.delivered,
                "broadcastFailures": hub.failed,
                "roomStats": {str(room): count for room, count in members.items()},
            },
            "writeManager": {
                "messagesSent": hub.delivered + edge.acks_sent,
                "messagesQueued": ingress.pending,
                "messagesDropped": 0,
                "writeErrors": hub.failed,
                "activeSessions": len(self._edge.connections),
                "activeWriterThreads": 1,
            },
        }

    def database_metrics(self) -> dict[str, object]:
        """``/db-metrics`` in the reference's shape."""
        return {
            **self._who(),
            "persistence": {
                "messages_inserted": self._writer.stored,
                "insert_errors": self._writer.set_aside,
                "user_activity_updates": self._writer.stored,
            },
        }

    def readings(self) -> list[Reading]:
        """Every figure for Prometheus."""
        edge, ingress, hub, writer = self._edge.counters, self._ingress, self._hub, self._writer
        counter, gauge = True, False
        version, schema_version = metadata.version("chatflow"), len(load_migrations())
        return [
            Reading("chatflow_connections", "Open connections", lambda: len(self._edge.connections), gauge),
            Reading("chatflow_connections_opened", "Handshakes done", lambda: self._edge.connections.opened, counter),
            Reading("chatflow_connections_refused", "Handshakes refused", lambda: edge.connections_refused, counter),
            Reading("chatflow_slow_clients_closed", "Did not read", lambda: edge.slow_clients_closed, counter),
            Reading("chatflow_silent_clients_dropped", "No pong in time", lambda: edge.silent_clients_dropped, counter),
            Reading("chatflow_reads_paused", "Times a client was not read", lambda: edge.reads_paused, counter),
            Reading("chatflow_messages_received", "Text messages read", lambda: edge.messages_received, counter),
            Reading("chatflow_messages_refused", "Answered with an error", lambda: edge.messages_refused, counter),
            Reading("chatflow_messages_accepted", "Validated and stamped", lambda: ingress.accepted, counter),
            Reading("chatflow_messages_acknowledged", "Durable", lambda: ingress.acknowledged, counter),
            Reading("chatflow_messages_pending", "Accepted, not yet answered", lambda: ingress.pending, gauge),
            Reading("chatflow_envelopes_published", "Room queue publishes", lambda: ingress.envelopes, counter),
            Reading("chatflow_messages_stored", "Committed rows", lambda: writer.stored, counter),
            Reading("chatflow_batches_committed", "Transactions of messages", lambda: writer.batches, counter),
            Reading("chatflow_envelopes_set_aside", "Dead letters", lambda: writer.set_aside, counter),
            Reading("chatflow_writer_waiting_messages", "Wait for a flush", writer.pending_messages, gauge),
            Reading("chatflow_envelopes_redelivered", "Stored before", lambda: self._consumer.redelivered, counter),
            Reading("chatflow_envelopes_too_late", "No longer held", lambda: self._consumer.too_late, counter),
            Reading("chatflow_deliveries", "Broadcasts, times members", lambda: hub.delivered, counter),
            Reading("chatflow_gaps_filled", "Pages read to fill gaps", lambda: hub.gaps_filled, counter),
            Reading("chatflow_duplicates_dropped", "Seen before", lambda: hub.duplicates_dropped, counter),
            Reading("chatflow_rooms_set_back", "Their seqs are given anew", lambda: hub.rooms_set_back, counter),
            Reading("chatflow_resumes", "Connections that asked for history", lambda: self._resumer.resumes, counter),
            Reading("chatflow_resuming", "Connections that are given history", lambda: self._resumer.resuming, gauge),
            Reading("chatflow_pages_read", "Pages of history read", lambda: self._pages.read, counter),
            Reading("chatflow_pages_shared", "Pages given without a read", lambda: self._pages.shared, counter),
            Reading("chatflow_database_retries", "Transactions tried again", self._retries, counter),
            Reading("chatflow_database_available", "1 if the last try worked", self._database_available, gauge),
            Reading("chatflow_commit_under_way_seconds", "Since the flush began, or 0", writer.busy_seconds, gauge),
            Reading("chatflow_messages_pending_limit", "Of those pending", lambda: ingress.max_pending_messages, gauge),
            Reading("chatflow_ready", "1 if /health/ready says so", self.ready, gauge),
            Reading("chatflow_draining", "1 while it stops", lambda: self._edge.connections.draining, gauge),
            Reading("chatflow_dead_letters", "Waiting, asked each minute", lambda: self._dead_letters.value, gauge),
            Reading("chatflow_views_age_seconds", "Since their refresh, by whomever", self._views_age_seconds, gauge),
            Reading("chatflow_schema_version", "That this version works with", lambda: schema_version, gauge),
            Reading("chatflow_build_info", "1, by version", lambda: {version: 1}, gauge, "version"),
        ]

    def _who(self) -> dict[str, object]:
        return {"serverId": self._server_id, "timestamp": int(self._now() * 1000)}

    def _retries(self) -> int:
        return sum(database.retries for database in self._databases)

    def _database_available(self) -> bool:
        return all(database.available for database in self._databases)
