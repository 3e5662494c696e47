"""``twistd chatflow``: the path of a message as code. Constructs and wires; all I/O begins in ``startService``."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from twisted.application.service import IService
from twisted.internet.defer import Deferred

from chatflow import tuning
from chatflow.broker.broker import Broker
from chatflow.broker.consumer import Consumer
from chatflow.broker.depth import EmbeddedDepths, QueueReport, SqsDepths
from chatflow.broker.embedded import EmbeddedRoomQueue, NoFanout
from chatflow.config import TABLE, Config
from chatflow.drain import Drain, WrongClock
from chatflow.edge.analytics import AnalyticsApi
from chatflow.edge.api import Api
from chatflow.edge.connections import ChatFactory, EdgeLimits, Rounds, ping_or_drop
from chatflow.edge.dashboard import Dashboard
from chatflow.edge.frames import broadcast_block, text_frame
from chatflow.edge.http import ChatResource, Root, Status, routes
from chatflow.edge.inherited import InheritedListener, is_inherited
from chatflow.edge.listeners import Listener, address_of
from chatflow.edge.site import ChatSite
from chatflow.edge.stored import LOOK_UP_SECONDS, StoredTracker
from chatflow.edge.v2 import HEARTBEAT_SECONDS, presence_block
from chatflow.edge.websocket import ChatProtocol
from chatflow.lifecycle import Reloads, Repeating, ServiceManager, Supervision, TopService, run_in_own_thread
from chatflow.lifecycle.clocks import StampClock, WallTime, make_monotonic
from chatflow.lifecycle.step import Step
from chatflow.logs import LogSettings, log_for
from chatflow.metrics import Instance, Latest, Metrics
from chatflow.options import CommandLine, Setting
from chatflow.persistence.analytics_store import AnalyticsStore
from chatflow.persistence.archive import Archive
from chatflow.persistence.bootstrap import bootstrap, maintain_partitions
from chatflow.persistence.clock import COMPARE_SECONDS, ClockWatch
from chatflow.persistence.database import Database, SessionLimits
from chatflow.persistence.deadletters import DeadLetterTable
from chatflow.persistence.history import History
from chatflow.persistence.instances import InstanceTable, read_census, register_now
from chatflow.persistence.presence import PresenceTable
from chatflow.persistence.refresh import Refresher, refresh_in_thread
from chatflow.persistence.writer import BatchWriter
from chatflow.postgres.embedded import EmbeddedPostgres
from chatflow.rooms.hub import Hub
from chatflow.rooms.ingress import Ingress
from chatflow.rooms.pages import Pages
from chatflow.rooms.presence import BEAT_SECONDS, NoOthers, Presence
from chatflow.rooms.resume import Resumer

_PARTITIONS_SECONDS = 3600.0
_HEADS_SECONDS = 8.0
_BODY_BYTES = (256, 1024, 4096, 16_384, 32_768, 65_536)
_NEWS_SECONDS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 60)


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
    hub = Hub(
        clock=reactor,
        history=history,
        encode=broadcast_block,
        patience_seconds=lambda: broker.patience_seconds(),
    )
    if config.broker == "sqs":
        address = partial(address_of, listeners)
        broker = _one_of_many(config, reactor, now, watch, metrics, hub, commits, database("beats", 1), address)
    else:
        broker = _alone(config, commits)
    writer = BatchWriter(
        clock=reactor,
        database=commits,
        dead_letters=broker.dead_letters,
        batch_messages=config.batch_size,
        refuse_conflicts=config.broker == "embedded",
        linger_seconds=config.linger_ms / 1000,
        observe=metrics.observe_batch,
    )
    consumer = Consumer(clock=reactor, queue=broker.queue, writer=writer, hub=hub, fanout=broker.fanout)
    ingress = Ingress(
        clock=reactor,
        now=now,
        queue=broker.queue,
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

    dead_letters = Latest(broker.count_dead_letters)
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
        hears=broker.hears,
        views_age_seconds=lambda: refresher.age_seconds(),
        dead_letters=dead_letters,
        clock_is_wrong=lambda: now.is_wrong,
    )
    wrong_clock = WrongClock(clock=reactor, ingress=ingress, edge=edge, has_others=config.broker == "sqs")
    metrics.add([*instance.readings(), *watch.readings(), *broker.readings()], hub)
    report = QueueReport(broker.depths, config.rooms)
    api = Api(rooms=config.rooms, archive=Archive(reads), presence=presence)
    refresher = Refresher(
        lambda unless: run_in_own_thread(
            reactor, "refresh views", partial(refresh_in_thread, url, config.server_id, unless)
        ),
        config.refresh_views_seconds,
        reactor.seconds,
    )
    analytics = AnalyticsApi(source=AnalyticsStore(reads, refresher.now), rooms=config.rooms)
    status = Status(
        health=instance.health,
        ready=instance.ready,
        metrics=instance.metrics,
        database_metrics=instance.database_metrics,
        prometheus=metrics.prometheus,
        queue=report.room,
        queues=report.all,
    )
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
    app = routes(
        status,
        history=api.operations(),
        analytics=analytics.operations(),
        refreshing=analytics.refreshing(),
        dashboard=dashboard,
    )
    site = ChatSite(Root(ChatResource(edge, config.allowed_origins), app, config.allowed_origins), edge, reactor)

    def prepare_database() -> None:
        heads = bootstrap(
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
            broker.missed()

    async def look_for_stalled_answers() -> None:
        site.end_stalled()

    def keep_partitions() -> Any:
        return maintain_partitions(reads, config.partitions_ahead_days, config.retention_days, watch.may_drop)

    # Started in this order, stopped in reverse: first the clients, last the database.
    manager = ServiceManager.from_environment(os.environ)
    log_file = Path(config.log_file) if config.log_file != "-" else None
    log_settings = LogSettings(
        config.log_level, config.log_format, log_file, config.log_file_bytes, config.log_files_kept
    )
    log = log_for(log_settings, options.parent)
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
    service.add("process", Step(start=tuning.tune_process))
    if postgres:
        stop_postgres = partial(run_in_own_thread, reactor, "stop PostgreSQL", postgres.stop)
        service.add("PostgreSQL", Step(postgres.start, stop_postgres))
    service.add("schema", Step(prepare_database))
    service.add("readers", Step(reads.start, reads.stop))
    service.add("writer's connection", Step(commits.start, commits.stop))
    for name, part in broker.parts:
        service.add(name, part)
    service.add("clocks", Repeating(reactor, "comparison of clocks", COMPARE_SECONDS, watch.compare, at_once=True))
    service.add("batch writer", Step(stop=writer.stop))
    service.add("consumer", Step(consumer.start, consumer.stop))
    for name, part in broker.listeners:
        service.add(name, part)
    service.add("partitions", Repeating(reactor, "partitions", _PARTITIONS_SECONDS, keep_partitions, at_once=True))
    if config.refresh_views_seconds:
        service.add("views", Repeating(reactor, "refresh of views", config.refresh_views_seconds, refresher.on_timer))
    service.add(
        "dead letters' count", Repeating(reactor, "count of dead letters", 60.0, dead_letters.ask, at_once=True)
    )
    service.add("refresh of views", Step(stop=refresher.stop))
    service.add("comparison", Repeating(reactor, "comparison of heads", _HEADS_SECONDS, compare))
    service.add("presence", Step(stop=lambda: Deferred.fromCoroutine(presence.leave())))
    service.add("beat of presence", Repeating(reactor, "beat of presence", BEAT_SECONDS, presence.beat, at_once=True))
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


def _alone(config: Config, commits: Database) -> Broker:
    """Room queue in this process, nobody to tell, dead letters in a table."""
    queue = EmbeddedRoomQueue(config.rooms)
    dead_letters = DeadLetterTable(commits)
    return Broker(
        queue=queue,
        fanout=NoFanout(),
        dead_letters=dead_letters,
        count_dead_letters=dead_letters.count,
        depths=EmbeddedDepths(queue),
        presence=NoOthers(),
        give_up=queue.close,
    )


def _one_of_many(
    config: Config,
    reactor: Any,
    now: WallTime,
    watch: ClockWatch,
    metrics: Metrics,
    hub: Hub,
    commits: Database,
    beats: Database,
    address: Callable[[], str],
) -> Broker:
    """Room queues and dead letters on SQS, fan-out through SNS, instances in a table.

    :param address: of this instance's HTTP, for whoever looks after all instances.
    :param beats: of its own, so that no slow query makes the others take this instance for dead.
    """
    # Imported only here, because boto3 takes its time and memory.
    from chatflow.broker.aws import Aws
    from chatflow.broker.deadletters import SqsDeadLetters
    from chatflow.broker.instances import Instances, Reaper, heartbeat_seconds
    from chatflow.broker.names import Names
    from chatflow.broker.pacing import Pace
    from chatflow.broker.readings import cluster_readings
    from chatflow.broker.sns import SnsFanout
    from chatflow.broker.sqs import SqsRoomQueue

    names = Names(config.queue_prefix, config.rooms, config.room_queues)
    pace = Pace(
        clock=reactor,
        max_gap_seconds=config.max_linger_ms / 1000,
        calls_per_second=config.max_calls_per_second,
    )
    aws = Aws(
        reactor=reactor,
        polls=len(names.lanes) + 1,
        sends=config.publishing_threads,
        observe=pace.observe,
        on_failure=pace.failed,
    )
    dead_letters = SqsDeadLetters(clock=reactor, now=now, aws=aws, names=names)
    queue = SqsRoomQueue(
        clock=reactor,
        now=now,
        aws=aws,
        names=names,
        pace=pace,
        set_aside=dead_letters.keep_body,
        publish_seconds=config.publish_seconds,
        visibility_seconds=config.visibility_seconds,
        long_poll_seconds=config.long_poll_seconds,
        # An instance that alone has lost the database must not keep the rooms' heads from the others.
        may_extend=lambda: commits.away_seconds < 2 * config.visibility_seconds,
        observe_bytes=metrics.histogram("chatflow_envelope_bytes", "Body of an envelope that SQS took", _BODY_BYTES),
    )
    table = InstanceTable(beats, address)
    beat_seconds = heartbeat_seconds(config.reap_after_seconds)
    instances = Instances(clock=reactor, table=table, server_id=config.server_id, interval_seconds=beat_seconds)
    reaper = Reaper(
        clock=reactor,
        calls=aws,
        names=names,
        table=table,
        instances=instances,
        silent_seconds=config.reap_after_seconds,
        is_steady=watch.is_steady,
    )
    fanout = SnsFanout(
        clock=reactor,
        now=now,
        aws=aws,
        names=names,
        pace=pace,
        server_id=config.server_id,
        register=instances.register,
        register_now=lambda start, name: register_now(config.database, instances.entry(start, name)),
        deliver=hub.deliver,
        observe_latency=metrics.histogram(
            "chatflow_fanout_latency_seconds", "From the publish of news to their receipt", _NEWS_SECONDS
        ),
        long_poll_seconds=config.long_poll_seconds,
    )

    async def beat() -> None:
        if not await instances.heartbeat():
            fanout.attach_again()  # not awaited: heartbeats go on meanwhile

    def hurry() -> None:
        queue.close()
        fanout.close()

    async def leave() -> None:
        if await fanout.detach():  # otherwise the entry is what makes the others remove the queue
            await instances.leave()

    return Broker(
        queue=queue,
        fanout=fanout,
        dead_letters=dead_letters,
        count_dead_letters=dead_letters.count,
        depths=SqsDepths(clock=reactor, calls=aws, names=names, urls=queue.urls),
        presence=PresenceTable(beats, config.server_id, f"{int(now() * 1000):x}"),
        parts=[
            ("beats' connection", Step(beats.start, beats.stop)),
            ("AWS calls", Step(aws.start, aws.stop)),
            ("dead letters", Step(dead_letters.start)),
            ("room queue", Step(queue.start, queue.stop)),
            ("visibility", Repeating(reactor, "visibility", config.visibility_seconds / 6, queue.extend_visibility)),
            ("fan-out", Step(fanout.start, fanout.stop)),
        ],
        listeners=[
            ("fan-out queue", Step(stop=lambda: Deferred.fromCoroutine(leave()))),
            ("instance", Repeating(reactor, "heartbeat of the instance", beat_seconds, beat, at_once=True)),
            ("reaper", Repeating(reactor, "reaper", config.reap_after_seconds / 2, reaper.reap)),
        ],
        hears=lambda: fanout.hears,
        missed=fanout.missed,
        patience_seconds=fanout.patience_seconds,
        hurry=hurry,
        readings=lambda: cluster_readings(aws, queue, fanout, pace, reaper),
    )
