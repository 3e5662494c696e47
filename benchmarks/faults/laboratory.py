"""The cluster to experiment on, and what its faults need of the machine."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import boto3

from benchmarks.faults.hosts import Host, Links, RemoteHost
from testbed import namespaces, small_disk
from testbed.cluster import Cluster
from testbed.daemon import Daemon
from testbed.emulator import aws_environment
from testbed.haproxy import HOW_TO_INSTALL as HAPROXY
from testbed.haproxy import find_haproxy
from testbed.namespaces import NETWORK
from testbed.postgres import copy_cluster
from testbed.set_clock import HOW_TO_INSTALL as FAKETIME
from testbed.set_clock import SteppedClock, find_libfaketime
from testbed.small_disk import SmallDisk
from testbed.waiting import eventually

READY_SECONDS = 90.0

# It notices at the second look, and one has a time limit.
_LOOKS = 3
# Whoever comes from there is no stranger.
_OURS = ("127.0.0.1", "::1")

_REMOTE, _CLOCKED = "node-2", "node-3"

#: What a fault may need of the machine.
ROOT_DISK, CLOCK, BALANCER = "a disk of its own", "faketime", "HAProxy"


class Laboratory(Cluster):
    """Instances, of which the first is the witness: nothing is done to it unless to all.

    The second has links that can be cut, the third a clock that can be set, and PostgreSQL a disk that can be full: as
    far as this machine allows it.

    :param options: of every daemon.
    :param seed: of what goes wrong by chance.
    :param ping_seconds: between pings to silent clients.
    :param balancer_seconds: between two looks of a balancer at an instance; an ALB's are 30.
    :param crowd_share: of the many clients of some faults.
    :ivar notes: what is otherwise on this machine, a line each.
    """

    def __init__(
        self,
        *options: str,
        instances: int = 4,
        rooms: int = 8,
        seed: int = 0,
        ping_seconds: float = 10.0,
        balancer_seconds: float = 5.0,
        crowd_share: float = 1.0,
    ) -> None:
        self._own_exits = contextlib.ExitStack()
        place = Path(self._own_exits.enter_context(tempfile.TemporaryDirectory(prefix="chatflow-laboratory-")))
        place.chmod(0o711)
        data, clock = place / "data", place / "clock"
        for directory in (data, clock):
            directory.mkdir()
        self.rooms = rooms
        self.ping_seconds, self.balancer_seconds = ping_seconds, balancer_seconds
        self._crowd_share = crowd_share
        self.notes: list[str] = []
        self.links: Links | None = None
        self.disk = self._mount(data)
        self.host_clock = SteppedClock(clock) if find_libfaketime() else None
        self._chance = seed
        copy_cluster(data)
        own: tuple[str, ...] = ("--ping-interval-seconds", f"{ping_seconds:g}")
        own += ("--drain-grace-seconds", f"{_LOOKS * balancer_seconds:g}")
        for network in (*_OURS, NETWORK):
            own += ("--unlimited-address", network)
        super().__init__(*own, *options, instances=instances, rooms=rooms, faults=(), seed=seed, data_directory=data)

    def __exit__(self, *_: object) -> None:
        try:
            super().__exit__()
        finally:
            self._own_exits.close()

    def make_instance(self, name: str, database_url: str) -> Host:
        """The remote one among others."""
        if name != _REMOTE:
            return Host(database=database_url)
        why_not = namespaces.why_not()
        if why_not:
            self.note(f"{why_not}: relays stand still instead of networks")
        links = Links(database_url, self.aws_url, with_namespaces=not why_not, seed=self._chance)
        self.links = self._own_exits.enter_context(links)
        return RemoteHost(links)

    def configure(self, instance: Daemon, options: Sequence[str], environment: Any) -> None:
        """Say how an instance is started."""
        own: dict[str, str] = {}
        name = self.name_of(instance)
        if isinstance(instance, RemoteHost):
            own = aws_environment(instance.links.aws_url())
            if instance.links.namespace:
                own["TESTBED_NAMESPACE"] = str(instance.links.namespace)
        elif name == _CLOCKED and self.host_clock:
            own = dict(self.host_clock.environment)
        super().configure(instance, options, {**own, **environment})

    def lacks(self, need: str) -> str:
        """In one line why something that a fault needs is not here; nothing if it is."""
        match need:
            case "":
                return ""
            case str() if need == ROOT_DISK:
                return "" if self.disk else "no disk of its own for PostgreSQL"
            case str() if need == CLOCK:
                return "" if self.host_clock and len(self.instances) > 2 else FAKETIME
            case str() if need == BALANCER:
                return "" if find_haproxy() else HAPROXY
        raise ValueError(need)

    @property
    def witness(self) -> Host:
        """The one that nothing is done to."""
        return self.host(0)

    @property
    def victims(self) -> list[Host]:
        """All others."""
        return [self.host(index) for index in range(1, len(self.instances))]

    @cached_property
    def remote(self) -> RemoteHost:
        """The one behind links."""
        (found,) = (one for one in self.instances if isinstance(one, RemoteHost))
        return found

    @property
    def clocked(self) -> Host:
        """The one whose clock can be set."""
        return self.host(2)

    def host(self, index: int) -> Host:
        """An instance."""
        found = self.instances[index]
        assert isinstance(found, Host)
        return found

    def plant(self, defect: str) -> None:
        """Every daemon has a defect of :data:`testbed.fault_points.PLANTS` from now on, or with nothing none."""
        for index in range(len(self.instances)):
            self.host(index).plant(defect)

    def note(self, text: str) -> None:
        """Something that is otherwise here; once."""
        if text not in self.notes:
            self.notes.append(text)

    def crowd(self, clients: int) -> int:
        """How many of these."""
        return max(1, round(clients * self._crowd_share))

    def queued(self) -> int:
        """Envelopes in the room queues, held ones included."""
        session = boto3.session.Session("test", "test", region_name="us-east-1")
        sqs = session.client("sqs", endpoint_url=self.emulator.url)
        urls = sqs.list_queues(QueueNamePrefix="chatflow-room-").get("QueueUrls", ())
        counts = [sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"] for url in urls]
        return sum(int(value) for one in counts for name, value in one.items() if name.startswith("ApproximateNumber"))

    def bring_back(self, host: Host) -> None:
        """Start what has died, if it has, and return once it is ready."""
        host.disarm()
        if not host.runs:
            host.restart()
        eventually(host.is_ready, f"{self.name_of(host)} is ready", READY_SECONDS)

    def _mount(self, directory: Path) -> SmallDisk | None:
        why_not = small_disk.why_not(directory)
        if why_not:
            self.note(f"{why_not}: PostgreSQL's is never full")
            return None
        return self._own_exits.enter_context(SmallDisk(directory))
