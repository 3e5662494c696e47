"""``twistd chatflow``: the path of a message as code. Constructs and wires; all I/O begins in ``startService``."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial
from typing import Any

from twisted.application.service import IService

from chatflow import tuning
from chatflow.authentication import make_authentication
from chatflow.broker.consumer import Consumer
from chatflow.brokers import make_broker
from chatflow.config import TABLE, Config
from chatflow.drain import Drain, WrongClock
from chatflow.edge.compat.routes import InstanceSource
from chatflow.edge.connections import Connections
from chatflow.edge.frames import broadcast_block, text_frame
from chatflow.edge.inherited import InheritedListener, is_inherited
from chatflow.edge.limits import EdgeLimits, LimitsInForce
from chatflow.edge.listeners import Listener, add_ports, address_of
from chatflow.edge.readings import edge_readings
from chatflow.edge.services import EdgeServices
from chatflow.edge.stored import StoredTracker
from chatflow.edge.v2 import presence_block
from chatflow.edge.web import connection_services, make_sites
from chatflow.lifecycle import PeriodicService, run_in_own_thread
from chatflow.lifecycle.callback_service import CallbackService
from chatflow.lifecycle.clocks import StampClock, make_monotonic
from chatflow.lifecycle.grace import Grace
from chatflow.lifecycle.root import make_root_service
from chatflow.metrics import Latest, Metrics
from chatflow.moderating import make_sanction_watch
from chatflow.operators import make_dashboard, operators_ports
from chatflow.options import CommandLine, Setting
from chatflow.persistence.analytics_store import AnalyticsStore
from chatflow.persistence.archive import Archive
from chatflow.persistence.clock_watch import COMPARE_SECONDS, ClockWatch
from chatflow.persistence.database import Database, SessionLimits
from chatflow.persistence.history import History
from chatflow.persistence.readings import database_readings
from chatflow.persistence.rhythm import Rhythm
from chatflow.persistence.upkeep import Upkeep
from chatflow.persistence.writer import BatchWriter
from chatflow.postgres.embedded import EmbeddedPostgres
from chatflow.rooms.hub import Hub
from chatflow.rooms.ingress import Ingress
from chatflow.rooms.pages import Pages
from chatflow.rooms.presence import Presence
from chatflow.rooms.readings import room_readings
from chatflow.rooms.resume import Resumer
from chatflow.status import InstanceStatus

_HEADS_SECONDS = 8.0
_COUNT_SECONDS = 60.0


class Options(CommandLine):
    """The daemon's options; the table is in :mod:`chatflow.config`."""

    table = TABLE

    @staticmethod
    def build(settings: Mapping[str, Setting]) -> Config:
        return Config.from_settings(settings)


def makeService(options: Options, reactor: Any = None) -> IService:
    """The daemon, not started; on the real reactor by default."""
    if reactor is None:
        from twisted.internet import reactor

        make_monotonic(reactor)
    config: Config = options.config
    metrics = Metrics()
    now = StampClock(reactor, time.time)

    # PostgreSQL: one connection commits, the others read.
    postgres = EmbeddedPostgres(config.data_dir) if config.database == "embedded" else None
    url = postgres.url if postgres else config.database

    def database(name: str, connections: int) -> Database:
        limits = SessionLimits(application_name=f"chatflow-{name} {config.server_id}")
        recover = postgres.ensure_running if postgres else None
        return Database(reactor=reactor, url=url, connections=connections, limits=limits, recover_in_thread=recover)

    listeners: list[Listener] = []
    commits = database("writer", 1)
    reads = database("reader", config.database_connections)
    watch = ClockWatch(
        seconds=reactor.seconds,
        database=reads,
        stamps=now,
        on_wrong=lambda: wrong_clock.begin(),
        on_right=lambda: wrong_clock.end(),
    )

    # A message's way: edge → ingress → room queue → consumer → writer → hub and fan-out → edge.
    history = History(reads, text_frame)
    rhythm = Rhythm(clock=reactor, ceiling_seconds=config.linger_ms / 1000)
    address = partial(address_of, listeners)
    broker = make_broker(config, reactor, now, watch, metrics, commits, rhythm, database, address)
    hub = Hub(clock=reactor, history=history, encode=broadcast_block, gap_timeout_seconds=broker.gap_timeout_seconds)
    broker.subscribe(hub.deliver)
    writer = BatchWriter(
        clock=reactor,
        database=commits,
        rhythm=rhythm,
        # The embedded queue has rooms gather; what comes from others is gathered here.
        wait_seconds=rhythm.wait_seconds if config.is_cluster else lambda: 0.0,
        dead_letters=broker.dead_letters,
        batch_messages=config.batch_size,
        refuse_conflicts=not config.is_cluster,
        observe=metrics.observe_batch,
    )
    consumer = Consumer(clock=reactor, queue=broker.room_queue, writer=writer, hub=hub, fanout=broker.fanout)
    ingress = Ingress(
        clock=reactor,
        now=now,
        queue=broker.room_queue,
        server_id=config.server_id,
        max_pending_messages=config.max_pending_messages,
        observe=metrics.observe_ack,
    )
    # And the way of who comes back: history → replay buffer of the hub → hub.
    pages = Pages(
        clock=reactor,
        history=history,
        concurrent_reads=max(1, config.database_connections // 2),
        others_work=lambda: ingress.accepted + writer.batches,
    )
    resumer = Resumer(clock=reactor, hub=hub, pages=pages, max_write_bytes=config.max_client_buffer_bytes)
    presence = Presence(clock=reactor, table=broker.presence, encode=presence_block)
    in_force = LimitsInForce(EdgeLimits.of(config))
    connections = Connections(clock=reactor, in_force=in_force)
    sanctions = make_sanction_watch(reactor, url, database, ingress.moderator, connections, metrics)
    auth = make_authentication(config, reactor, now)
    edge = EdgeServices(
        clock=reactor,
        now=now,
        rooms=config.rooms,
        server_id=config.server_id,
        ingress=ingress,
        hub=hub,
        resumer=resumer,
        presence=presence,
        stored=StoredTracker(clock=reactor, hub=hub, seqs_of=history.seqs_of),
        connections=connections,
        in_force=in_force,
        ping_interval_seconds=config.ping_interval_seconds,
        verifier=auth.verifier,
    )

    def set_back(room: int, first: int) -> None:
        pages.forget(room)
        connections.set_back(room, first)

    hub.on_set_back = set_back

    # What is told of it all, and asked over HTTP.
    upkeep = Upkeep(reactor=reactor, url=url, database=reads, options=config, may_drop=watch.may_drop)
    dead_letters = Latest(broker.dead_letters.count)
    status = InstanceStatus(
        now=now,
        edge=edge,
        consumer=consumer,
        writer=writer,
        databases=(commits, reads),
        hears=broker.is_subscribed,
        clock_is_wrong=lambda: now.is_wrong,
    )
    wrong_clock = WrongClock(clock=reactor, ingress=ingress, connections=connections, has_others=config.is_cluster)
    for readings in (
        edge_readings(edge),
        room_readings(ingress, hub, resumer, pages),
        consumer.readings(),
        database_readings(writer, (commits, reads), upkeep.refresher),
        dead_letters.readings("chatflow_dead_letters", "Waiting, asked each minute"),
        status.readings(),
        auth.counts.readings(),
        watch.readings(),
        broker.readings(),
    ):
        metrics.add(readings)
    dashboard = make_dashboard(config, reactor, metrics, (commits, reads), status.ready)
    site, admin_site = make_sites(
        reactor=reactor,
        edge=edge,
        instance=InstanceSource(
            rooms=config.rooms, figures=status.figures, depth_of=broker.depths.of, prometheus=metrics.prometheus
        ),
        ready=lambda: status.ready() and auth.ready(),
        archive=Archive(reads),
        analytics=AnalyticsStore(reads, upkeep.refresher.now),
        dashboard=dashboard,
        allowed_origins=config.allowed_origins,
        page_token_url=config.page_token_url,
        gates=auth.gates,
        sanctions=sanctions,
    )

    def bootstrap_database() -> None:
        for room, seq in upkeep.bootstrap(migrate=postgres is not None, now=time.time).items():
            hub.start_at(room, seq)

    async def compare() -> None:
        if await hub.compare_with_database():
            broker.gap_observed()

    # Started in this order, stopped in reverse: first the clients, last the database.
    grace = Grace(reactor, config.drain_grace_seconds, connections.begin_end)
    service = make_root_service(reactor, options, status.summary, grace, {**in_force.changes(), **auth.changes()})
    for name, part in auth.parts().items():
        service.read_again(name, part)
    service.add("process", CallbackService(start=tuning.tune_process))
    if postgres:
        stop_postgres = partial(run_in_own_thread, reactor, "stop PostgreSQL", postgres.stop)
        service.add("PostgreSQL", CallbackService(postgres.start, stop_postgres))
    service.add("schema", CallbackService(bootstrap_database))
    service.add("readers", CallbackService(reads.start, reads.stop))
    service.add("writer's connection", CallbackService(commits.start, commits.stop))
    service.add_all(broker.transport)
    service.add("clocks", PeriodicService(reactor, "clocks", COMPARE_SECONDS, watch.compare, at_once=True))
    service.add("batch writer", CallbackService(stop=writer.stop))
    service.add("consumer", CallbackService(consumer.start, consumer.stop))
    service.add_all(broker.subscription)
    service.add("heartbeat", PeriodicService(reactor, "heartbeat", broker.beat_seconds, presence.beat, at_once=True))
    service.add_all(upkeep.services)
    service.add("count", PeriodicService(reactor, "dead letters", _COUNT_SECONDS, dead_letters.ask, at_once=True))
    service.add("comparison", PeriodicService(reactor, "comparison of heads", _HEADS_SECONDS, compare))
    service.add_all([*auth.services, *sanctions.services, *connection_services(edge, site)])
    service.add_all(operators_ports(config, reactor, admin_site))
    add_ports(service, reactor, [one for one in config.listen if not is_inherited(one)], site, listeners)
    drain = Drain(
        clock=reactor,
        connections=connections,
        ingress=ingress,
        status=status,
        broker=broker,
        answer_timeout_seconds=config.drain_seconds / 3,
    )
    service.add("clients", drain)
    service.add("dashboard", CallbackService(stop=dashboard.close))
    # After the clients, so that these are left alone before a drain begins: who comes then waits for the next process.
    for endpoint in filter(is_inherited, config.listen):
        service.add(f"sockets of {endpoint}", InheritedListener(reactor, endpoint, site))
    return service
