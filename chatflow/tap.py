"""``twistd chatflow``: the path of a message as code. Constructs and wires; all I/O begins in ``startService``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from twisted.application.service import IService
from twisted.internet.threads import deferToThread

from chatflow import process
from chatflow.broker.consumer import Consumer
from chatflow.broker.embedded import EmbeddedRoomQueue, NoFanout
from chatflow.config import TABLE, Config
from chatflow.drain import Drain
from chatflow.edge.connections import ChatFactory, EdgeLimits, Heartbeat
from chatflow.edge.frames import broadcast_block
from chatflow.edge.http import ChatResource, ChatSite, Status, routes
from chatflow.edge.listeners import Listener
from chatflow.lifecycle import Repeating, TopService
from chatflow.lifecycle.step import Step
from chatflow.metrics import Instance, Metrics
from chatflow.options import CommandLine, Setting
from chatflow.persistence.database import Database, SessionLimits
from chatflow.persistence.deadletters import DeadLetterTable
from chatflow.persistence.embedded import EmbeddedPostgres
from chatflow.persistence.history import History
from chatflow.persistence.prepare import maintain_partitions, prepare
from chatflow.persistence.writer import BatchWriter
from chatflow.rooms.hub import Hub
from chatflow.rooms.ingress import Ingress

_PARTITIONS_SECONDS = 3600.0
_COMPARE_SECONDS = 10.0


class Options(CommandLine):
    """The daemon's options; the table is in :mod:`chatflow.config`."""

    table = TABLE

    @staticmethod
    def build(settings: Mapping[str, Setting]) -> Config:
        return Config.from_settings(settings)


def makeService(options: Options, reactor: Any = None) -> IService:
    """The daemon, not started.

    :param reactor: the real one by default.
    """
    if reactor is None:
        from twisted.internet import reactor
    config: Config = options.config
    metrics = Metrics()

    # PostgreSQL: one connection commits, the others read.
    postgres = EmbeddedPostgres(config.data_dir) if config.database == "embedded" else None
    url = postgres.url if postgres else config.database
    recover = postgres.ensure_running if postgres else None

    def database(name: str, connections: int) -> Database:
        limits = SessionLimits(application_name=f"chatflow-{name} {config.server_id}")
        return Database(reactor=reactor, url=url, connections=connections, limits=limits, recover_in_thread=recover)

    commits = database("writer", 1)
    reads = database("reader", config.database_connections)
    history = History(reads)
    writer = BatchWriter(
        clock=reactor,
        database=commits,
        dead_letters=DeadLetterTable(commits),
        batch_messages=config.batch_size,
        linger_seconds=config.linger_ms / 1000,
        observe=metrics.observe_batch,
    )

    # A message's way: edge → ingress → room queue → consumer → writer → hub → edge.
    queue, fanout = EmbeddedRoomQueue(config.rooms), NoFanout()
    hub = Hub(clock=reactor, history=history, encode=broadcast_block)
    consumer = Consumer(clock=reactor, queue=queue, writer=writer, hub=hub, fanout=fanout)
    ingress = Ingress(
        clock=reactor,
        queue=queue,
        server_id=config.server_id,
        max_pending_messages=config.max_pending_messages,
    )
    edge = ChatFactory(
        clock=reactor,
        rooms=config.rooms,
        ingress=ingress,
        hub=hub,
        limits=EdgeLimits(
            max_frame_bytes=config.max_frame_bytes,
            max_connections=config.max_connections,
            max_pending_per_connection=config.max_pending_per_connection,
            max_client_buffer_bytes=config.max_client_buffer_bytes,
        ),
    )
    heartbeat = Heartbeat(clock=reactor, factory=edge, interval_seconds=config.ping_interval_seconds)

    instance = Instance(
        clock=reactor,
        server_id=config.server_id,
        edge=edge,
        ingress=ingress,
        hub=hub,
        consumer=consumer,
        writer=writer,
        databases=(commits, reads),
    )
    metrics.add(instance.readings(), hub)
    status = Status(
        health=instance.health,
        ready=instance.ready,
        metrics=instance.metrics,
        database_metrics=instance.database_metrics,
        prometheus=metrics.prometheus,
    )
    site = ChatSite(ChatResource(edge, config.allowed_origins), routes(status), reactor)

    def prepare_database() -> None:
        heads = prepare(
            url,
            migrate=postgres is not None,
            rooms=config.rooms,
            ahead_days=config.partitions_ahead_days,
            now_seconds=reactor.seconds(),
        )
        for room, seq in heads.items():
            hub.start_at(room, seq)

    def keep_partitions() -> Any:
        return maintain_partitions(reads, reactor.seconds(), config.partitions_ahead_days, config.retention_days)

    # Started in this order, stopped in reverse: first the clients, last the database.
    service = TopService(reactor, deadline_seconds=config.drain_seconds)
    service.add("process", Step(start=process.prepare))
    if postgres:
        service.add("PostgreSQL", Step(postgres.start, lambda: deferToThread(postgres.stop)))
    service.add("schema", Step(prepare_database))
    service.add("readers", Step(reads.start, reads.stop))
    service.add("writer's connection", Step(commits.start, commits.stop))
    service.add("batch writer", Step(stop=writer.stop))
    service.add("consumer", Step(consumer.start, consumer.stop))
    service.add("partitions", Repeating(reactor, "partitions", _PARTITIONS_SECONDS, keep_partitions, at_once=True))
    service.add("comparison", Repeating(reactor, "comparison of heads", _COMPARE_SECONDS, hub.compare_with_database))
    service.add("heartbeat", Step(heartbeat.start, heartbeat.stop))
    for endpoint in config.listen:
        service.add(f"port {endpoint}", Listener(reactor, endpoint, site))
    service.add("clients", Drain(clock=reactor, edge=edge, ingress=ingress, instance=instance))
    return service
