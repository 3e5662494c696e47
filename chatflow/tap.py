"""``twistd chatflow``: the path of a message as code. Constructs and wires; all I/O begins in ``startService``."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from twisted.application.service import IService

from chatflow import process
from chatflow.broker.consumer import Consumer
from chatflow.broker.depth import QueueReport
from chatflow.brokers import make_broker
from chatflow.config import TABLE, Config
from chatflow.drain import Drain, WrongClock
from chatflow.edge.connections import ChatFactory, EdgeLimits, Rounds, ping_or_drop
from chatflow.edge.dashboard import Dashboard
from chatflow.edge.frames import broadcast_block, text_frame
from chatflow.edge.inherited import InheritedListener, is_inherited
from chatflow.edge.listeners import Listener, address_of
from chatflow.edge.stored import LOOK_UP_SECONDS, StoredTracker
from chatflow.edge.v2 import HEARTBEAT_SECONDS, presence_block
from chatflow.edge.web import make_site
from chatflow.edge.websocket import ChatProtocol
from chatflow.lifecycle import Reloads, Repeating, ServiceManager, Supervision, TopService, run_in_own_thread
from chatflow.lifecycle.clocks import StampClock, make_monotonic
from chatflow.lifecycle.step import Step
from chatflow.logs import log_for
from chatflow.metrics import Instance, Latest, Metrics
from chatflow.options import CommandLine, Setting
from chatflow.persistence.analytics_store import AnalyticsStore
from chatflow.persistence.archive import Archive
from chatflow.persistence.clock import COMPARE_SECONDS, ClockWatch
from chatflow.persistence.database import Database, SessionLimits
from chatflow.persistence.history import History
from chatflow.persistence.membership import read_census
from chatflow.persistence.prepare import prepare
from chatflow.persistence.upkeep import Upkeep
from chatflow.persistence.writer import BatchWriter
from chatflow.postgres.embedded import EmbeddedPostgres
from chatflow.rooms.hub import Hub
from chatflow.rooms.ingress import Ingress
from chatflow.rooms.pages import Pages
from chatflow.rooms.presence import Presence
from chatflow.rooms.resume import Resumer

_HEADS_SECONDS = 8.0


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

        make_monotonic(reactor)
    config: Config = options.config
    metrics = Metrics()
    now = StampClock(reactor, time.time)

    # PostgreSQL: one connection commits, the others read.
    postgres = EmbeddedPostgres(config.data_dir) if config.database == "embedded" else None
    url = postgres.url if postgres else config.database
    recover = postgres.ensure_running if postgres else None

    def database(name: str, connections: int) -> Database:
        limits = SessionLimits(application_name=f"chatflow-{name} {config.server_id}")
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
    broker = make_broker(config, reactor, now, watch, metrics, commits, database, partial(address_of, listeners))
    hub = Hub(
        clock=reactor,
        history=history,
        encode=broadcast_block,
        patience_seconds=broker.gap_timeout_seconds,
    )
    broker.subscribe(hub.deliver)
    writer = BatchWriter(
        clock=reactor,
        database=commits,
        dead_letters=broker.dead_letters,
        batch_messages=config.batch_size,
        refuse_conflicts=config.broker == "embedded",
        linger_seconds=config.linger_ms / 1000,
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
    # And the way of who comes back: history → tail of the hub → hub.
    pages = Pages(clock=reactor, history=history, concurrent_reads=max(1, config.database_connections // 2))
    resumer = Resumer(clock=reactor, hub=hub, pages=pages, max_write_bytes=config.max_client_buffer_bytes)
    presence = Presence(clock=reactor, table=broker.presence, encode=presence_block)
    stored = StoredTracker(clock=reactor, hub=hub, places=history.places)
    edge = ChatFactory(
        clock=reactor,
        now=now,
        rooms=config.rooms,
        server_id=config.server_id,
        ingress=ingress,
        hub=hub,
        resumer=resumer,
        presence=presence,
        stored=stored,
        limits=EdgeLimits(
            max_frame_bytes=config.max_frame_bytes,
            max_connections=config.max_connections,
            max_pending_per_connection=config.max_pending_per_connection,
            max_client_buffer_bytes=config.max_client_buffer_bytes,
            send_timeout_seconds=config.send_timeout_seconds,
        ),
        ping_interval_seconds=config.ping_interval_seconds,
    )

    def set_back(room: int, first: int) -> None:
        pages.forget(room)
        edge.set_back(room, first)

    hub.on_set_back = set_back

    def rounds(interval_seconds: float, visit: Callable[[ChatProtocol], object]) -> Step:
        each = Rounds(clock=reactor, factory=edge, interval_seconds=interval_seconds, visit=visit)
        return Step(each.start, each.stop)

    upkeep = Upkeep(
        reactor=reactor,
        url=url,
        database=reads,
        server_id=config.server_id,
        partitions_ahead_days=config.partitions_ahead_days,
        retention_days=config.retention_days,
        refresh_views_seconds=config.refresh_views_seconds,
        may_drop=watch.may_drop,
    )
    dead_letters = Latest(broker.dead_letters.count)
    instance = Instance(
        now=now,
        server_id=config.server_id,
        edge=edge,
        ingress=ingress,
        hub=hub,
        resumer=resumer,
        pages=pages,
        consumer=consumer,
        writer=writer,
        databases=(commits, reads),
        hears=broker.is_subscribed,
        views_age_seconds=upkeep.refresher.age_seconds,
        dead_letters=dead_letters,
        clock_is_wrong=lambda: now.is_wrong,
    )
    wrong_clock = WrongClock(clock=reactor, ingress=ingress, edge=edge, has_others=config.broker == "sqs")
    metrics.add([*instance.readings(), *watch.readings(), *broker.readings()], hub)
    dashboard = Dashboard(
        clock=reactor,
        now=time.time,
        server_id=config.server_id,
        cluster=config.broker == "sqs",
        snapshot=metrics.snapshot,
        census=lambda: read_census(reads),
        silent_seconds=min(11.0, 0.55 * config.reap_after_seconds),  # more than two heartbeats
        away_seconds=lambda: max(commits.away_seconds, reads.away_seconds),
        ready=instance.ready,
    )
    site = make_site(
        reactor=reactor,
        chat=edge,
        status=instance.status(metrics, QueueReport(broker.depths, config.rooms)),
        archive=Archive(reads),
        analytics=AnalyticsStore(reads, upkeep.refresher.now),
        presence=presence,
        dashboard=dashboard,
        rooms=config.rooms,
        allowed_origins=config.allowed_origins,
    )

    def prepare_database() -> None:
        heads = prepare(
            url,
            migrate=postgres is not None,
            rooms=config.rooms,
            ahead_days=config.partitions_ahead_days,
            now=time.time,
        )
        for room, seq in heads.items():
            hub.start_at(room, seq)

    async def compare() -> None:
        if await hub.compare_with_database():
            broker.gap_observed()

    async def look_for_stalled_answers() -> None:
        site.end_stalled()

    # Started in this order, stopped in reverse: first the clients, last the database.
    manager = ServiceManager.from_environment(os.environ)
    log = log_for(config.log_settings, options.parent)
    reloads = Reloads(TABLE, options.settings, options.read_again)
    if log is not None:
        reloads.add("log-level", log.set_level)
    service = TopService(
        reactor,
        deadline_seconds=config.drain_seconds,
        supervision=Supervision(reactor, manager, instance.summary),
        log=log,
        reloads=reloads if options.settings["config"].value else None,
    )
    service.add("process", Step(start=process.prepare))
    if postgres:
        stop_postgres = partial(run_in_own_thread, reactor, "stop PostgreSQL", postgres.stop)
        service.add("PostgreSQL", Step(postgres.start, stop_postgres))
    service.add("schema", Step(prepare_database))
    service.add("readers", Step(reads.start, reads.stop))
    service.add("writer's connection", Step(commits.start, commits.stop))
    for name, part in broker.transport:
        service.add(name, part)
    service.add("clocks", Repeating(reactor, "comparison of clocks", COMPARE_SECONDS, watch.compare, at_once=True))
    service.add("batch writer", Step(stop=writer.stop))
    service.add("consumer", Step(consumer.start, consumer.stop))
    for name, part in broker.subscription:
        service.add(name, part)
    service.add("heartbeat", Repeating(reactor, "heartbeat", broker.beat_seconds, presence.beat, at_once=True))
    for name, part in upkeep.services:
        service.add(name, part)
    service.add(
        "dead letters' count", Repeating(reactor, "count of dead letters", 60.0, dead_letters.ask, at_once=True)
    )
    service.add("comparison", Repeating(reactor, "comparison of heads", _HEADS_SECONDS, compare))
    service.add("places", Repeating(reactor, "look-up of places", LOOK_UP_SECONDS, stored.look_up))
    service.add("pings", rounds(config.ping_interval_seconds, ping_or_drop))
    service.add("heads", rounds(HEARTBEAT_SECONDS, ChatProtocol.tell_head))
    # Often enough that nobody stands still for much longer than allowed.
    looks_seconds = config.send_timeout_seconds / 4
    service.add("stalled clients", rounds(looks_seconds, ChatProtocol.leave_if_stalled))
    service.add("stalled answers", Repeating(reactor, "stalled answers", looks_seconds, look_for_stalled_answers))
    inherited = [endpoint for endpoint in config.listen if is_inherited(endpoint)]
    for endpoint in config.listen:
        if endpoint not in inherited:
            listeners.append(Listener(reactor, endpoint, site))
            service.add(f"port {endpoint}", listeners[-1])
    drain = Drain(
        clock=reactor,
        edge=edge,
        ingress=ingress,
        instance=instance,
        broker=broker,
        patience_seconds=config.drain_seconds / 3,
    )
    service.add("clients", drain)
    service.add("dashboard", Step(stop=dashboard.close))
    # After the clients, so that these are left alone before a drain begins: who comes then waits for the next process.
    for endpoint in inherited:
        service.add(f"sockets of {endpoint}", InheritedListener(reactor, endpoint, site))
    return service
