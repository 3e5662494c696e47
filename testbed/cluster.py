"""A whole cluster on this machine: an SQS and SNS emulator, PostgreSQL, instances of the daemon, HAProxy in front.

::

    with Cluster(instances=3) as cluster:
        cluster.start()
        ... cluster.urls, cluster.instances[0].chat_url(1) ...
        cluster.kill(0)
        cluster.add()

Everything listens on loopback, on free ports. Leaving the ``with`` block ends every process and removes every file.
"""

from __future__ import annotations

import contextlib
import shutil
import sysconfig
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Self

import boto3
import psutil
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from chatflow.postgres.embedded import EmbeddedPostgres
from testbed.crowd import Crowd
from testbed.daemon import Daemon, clean_environment
from testbed.emulator import Emulator, aws_environment
from testbed.fault_proxy import FaultProxy
from testbed.forkserver import run
from testbed.haproxy import HAProxy
from testbed.postgres import copy_cluster, execute
from testbed.set_clock import SteppedClock
from testbed.threads import run_together
from testbed.waiting import eventually

ADMIN = Path(sysconfig.get_path("scripts")) / "chatflow-admin"


class Cluster:
    """Its parts are started by :meth:`start`; instances may then come and go.

    All methods block until what they say has happened.

    :param options: of every daemon, beside those that join it to the cluster.
    :param instances: how many to begin with; they are called ``node-1``, ``node-2`` and so on.
    :param faults: rules of a :class:`FaultProxy` between daemons and emulator; None for no such proxy.
    :param haproxy: what to put in front; it is stopped with the cluster.
    :param data_directory: where PostgreSQL keeps its data over restarts; None for a temporary one.
    :param clock: of daemons and PostgreSQL, but not of the emulator.
    :ivar instances: every one that was ever started, running or not. :ivar options: the daemons', as given.
    """

    def __init__(
        self,
        *options: str,
        instances: int = 4,
        rooms: int = 20,
        room_queues: int = 0,
        faults: Sequence[str] | None = None,
        seed: int = 0,
        haproxy: HAProxy | None = None,
        data_directory: Path | None = None,
        clock: SteppedClock | None = None,
    ) -> None:
        self.haproxy = haproxy
        self.emulator = Emulator()
        self.instances: list[Daemon] = []
        self._directory = Path(tempfile.mkdtemp(prefix="chatflow-cluster-"))
        self._is_temporary = data_directory is None
        self._postgres = EmbeddedPostgres(data_directory or self._directory)
        self._faults, self._seed = faults, seed
        self._clock = clock
        self._fault_proxy: FaultProxy | None = None
        self._first_instances = instances
        self._names = ("--rooms", str(rooms), "--room-queues", str(room_queues))
        self.options = options
        self._exits = contextlib.ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._exits.close()
        shutil.rmtree(self._directory, ignore_errors=True)

    def start(self) -> Self:
        """Start every part; afterwards each instance is ready for clients."""
        if self.haproxy is not None:
            self._exits.callback(self.haproxy.stop)
        self._exits.callback(self.emulator.stop)
        self._exits.callback(self._postgres.stop)
        if self._is_temporary:
            copy_cluster(self._directory)
        run_together([self.emulator.start, self.start_database])
        if self._faults is not None:
            proxy = FaultProxy(self.emulator.url, rules=self._faults, seed=self._seed)
            self._fault_proxy = self._exits.enter_context(proxy)
        run_together([lambda: self.admin("migrate"), self.set_up])
        self.add(self._first_instances)
        return self

    def set_up(self) -> str:
        """Make the queues and the topic, where they are missing."""
        return self.admin("setup", *self._names)

    def stop(self) -> list[int]:
        """SIGTERM to every running instance at once; their exit statuses."""
        return run_together([instance.stop for instance in self.running])

    # Instances

    @property
    def running(self) -> list[Daemon]:
        """The instances that have not ended."""
        return [instance for instance in self.instances if instance.runs]

    def add(self, count: int = 1, *, database_url: str | None = None) -> list[Daemon]:
        """Start further instances at once, and let HAProxy send clients to them.

        :param database_url: another way for them to the same database.
        """
        added = [self._new_instance(database_url or self.database_url) for _ in range(count)]
        run_together([instance.start for instance in added])
        self._tell_haproxy()
        return added

    def kill(self, index: int) -> None:
        """SIGKILL."""
        self.instances[index].kill()

    def terminate(self, index: int) -> int:
        """SIGTERM; the exit status."""
        return self.instances[index].stop()

    def _new_instance(self, database_url: str) -> Daemon:
        instance = self.make_instance(f"node-{len(self.instances) + 1}", database_url)
        self.instances.append(self._exits.enter_context(instance))
        self.configure(instance, self.options, {})
        return instance

    def make_instance(self, name: str, database_url: str) -> Daemon:
        """The daemon of that name, not started: the place for those that are other than usual."""
        return Daemon(database=database_url)

    def configure(self, instance: Daemon, options: Sequence[str], environment: Mapping[str, str]) -> None:
        """Say how an instance is started, the next time.

        :param options: beside those that join it to the cluster. :param environment: variables beside the usual ones.
        """
        instance.options = ("--broker", "sqs", "--server-id", self.name_of(instance), *self._names, *options)
        clock = self._clock.environment if self._clock else {}
        instance.environment = {**clean_environment(), **aws_environment(self.aws_url), **clock, **environment}

    @property
    def aws_url(self) -> str:
        """For the daemons, whose calls may go through the fault proxy; those of ``admin`` never do."""
        return self._fault_proxy.url if self._fault_proxy else self.emulator.url

    def _tell_haproxy(self) -> None:
        if self.haproxy is not None:
            names = {self.name_of(instance): instance for instance in self.instances}
            wanted = [name for name, one in names.items() if one.runs or not self.haproxy.sends_to(name)]
            self.haproxy.serve({name: names[name].port for name in wanted})

    @property
    def urls(self) -> list[str]:
        """For clients, each without the room: HAProxy's, or without it those of all running instances."""
        if self.haproxy is not None:
            return [f"ws://127.0.0.1:{self.haproxy.port}/chat"]
        return self.urls_of(self.running)

    @staticmethod
    def urls_of(instances: Sequence[Daemon]) -> list[str]:
        """The same for some instances themselves."""
        return [f"ws://127.0.0.1:{instance.port}/chat" for instance in instances]

    # What they share

    @property
    def database_url(self) -> str:
        return self._postgres.url

    def stop_database(self) -> None:
        """Shut PostgreSQL down, as an administrator does."""
        self._postgres.stop()

    def start_database(self) -> None:
        """Start it, again if need be."""
        with self._clock.inherited() if self._clock else contextlib.nullcontext():
            self._postgres.start()

    def database_processes(self) -> list[psutil.Process]:
        """The postmaster, which may have died, and its children."""
        with contextlib.suppress(OSError, IndexError, ValueError, psutil.NoSuchProcess):
            lines = (self._postgres.data_directory / "postgres/postmaster.pid").read_text().split()
            postmaster = psutil.Process(int(lines[0]))
            return [postmaster, *postmaster.children()] if postmaster.name() == "postgres" else []
        return []

    def revive_database(self) -> None:
        """Start it again after a death that :meth:`stop_database` has no part in."""
        self._postgres.ensure_running()

    def sql(self, statement: str, *arguments: Any) -> list[tuple[Any, ...]]:
        """The rows of one statement."""
        return execute(self.database_url, statement, arguments)

    @property
    def faults(self) -> FaultProxy:
        """The proxy whose rules say how calls of the daemons fail."""
        assert self._fault_proxy is not None, "the cluster was made without faults"
        return self._fault_proxy

    def admin(self, *arguments: str, environment: Mapping[str, str] | None = None) -> str:
        """What ``chatflow-admin`` prints.

        :param environment: variables beside those that it needs.
        :raises RuntimeError: it failed.
        """
        variables = clean_environment() | aws_environment(self.emulator.url) | dict(environment or {})
        ended = run([ADMIN, *arguments], env=variables | {"CHATFLOW_DATABASE": self.database_url}, timeout=None)
        if ended.returncode:
            raise RuntimeError(f"chatflow-admin {' '.join(arguments)}: {ended.stderr.strip()}")
        return ended.stdout

    def totals(self) -> dict[str, float]:
        """Every figure of Prometheus, added up over labels and running instances; 0 for any other."""
        totals: dict[str, float] = defaultdict(float)
        for sample in self._samples():
            totals[sample.name] += sample.value
        return totals

    def aws_calls(self) -> Counter[str]:
        """Calls of the running instances since they started, by operation and outcome: ``receive_message ok``."""
        calls: Counter[str] = Counter()
        for sample in self._samples():
            if sample.name == "chatflow_aws_calls_total":
                calls[sample.labels["call"]] += int(sample.value)
        return calls

    def fanout_names(self, instance: Daemon | None = None) -> set[str]:
        """Fan-out queues that there are, and those that have a subscription: of an instance, or all."""
        session = boto3.session.Session("test", "test", region_name="us-east-1")
        sqs = session.client("sqs", endpoint_url=self.emulator.url)
        sns = session.client("sns", endpoint_url=self.emulator.url)
        urls = sqs.list_queues(QueueNamePrefix="chatflow-fanout-").get("QueueUrls", ())
        names = {url.rpartition("/")[2] for url in urls}
        names |= {one["Endpoint"].rpartition(":")[2] for one in sns.list_subscriptions()["Subscriptions"]}
        if instance is None:
            return names
        return {name for name in names if name.startswith(f"chatflow-fanout-{self.name_of(instance)}-")}

    def name_of(self, instance: Daemon) -> str:
        """Its server id."""
        return f"node-{self.instances.index(instance) + 1}"

    @staticmethod
    def figures_of(instance: Daemon) -> list[tuple[str, float]]:
        """Every figure of Prometheus of one instance, once for each of its labels, as of one moment."""
        return [(sample.name, sample.value) for sample in _samples_of(instance)]

    def _samples(self) -> Iterator[Sample]:
        for instance in self.running:
            yield from _samples_of(instance)


def _samples_of(instance: Daemon) -> Iterator[Sample]:
    text = instance.get("/metrics", headers={"Accept": "text/plain"}).body.decode()
    for family in text_string_to_metric_families(text):
        yield from family.samples


def check_left_behind(cluster: Cluster, crowd: Crowd) -> None:
    """For clients whose instance has gone: each acknowledged message is stored once, and what was heard is stored.

    :raises AssertionError: not so. What is stored is waited for: the queue may still hold it.
    """
    for speaker in crowd.speakers:
        assert speaker.failure is None, f"{speaker.name}: {speaker.failure!r}"
        assert speaker.acks, f"{speaker.name} had nothing to lose"
        stored = eventually(partial(_stored_acks, cluster, speaker.acks), f"all of {speaker.name} is stored", 60)
        assert sorted(stored) == sorted(speaker.acks.items())
        if speaker.seqs:
            first, last = speaker.seqs[0], speaker.seqs[-1]
            assert speaker.seqs == list(range(first, last + 1)), f"{speaker.name} heard with holes"
            rows = cluster.sql(
                "SELECT message_id::text FROM messages WHERE room_id = %s AND seq BETWEEN %s AND %s ORDER BY seq",
                *(speaker.room, first, last),
            )
            assert speaker.heard == [message_id for (message_id,) in rows]


def _stored_acks(cluster: Cluster, acks: dict[str, str]) -> list[tuple[Any, ...]]:
    """Text and id of these acknowledged messages, once at least so many rows are there."""
    rows = cluster.sql("SELECT message_text, message_id::text FROM messages WHERE message_text = ANY(%s)", list(acks))
    return rows if len(rows) >= len(acks) else []
