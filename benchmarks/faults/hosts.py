"""The instances of a laboratory: made to die where it is wanted, and one of them behind links that can be cut."""

from __future__ import annotations

import contextlib
import socket
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from psycopg2.extensions import parse_dsn

from testbed.daemon import Daemon
from testbed.fault_points import ARMED, PLANTED, PLANTS, POINTS, REACHED
from testbed.namespaces import Namespaces, listen
from testbed.relay import Relay, dial_tcp, dial_unix

_PORT = 8080
_POSTGRES_PORT = 5432

#: What the remote host talks to, and what talks to it.
PEERS = ("database", "queue", "clients")


class Host(Daemon):
    """A daemon with fault points, which keeps its port over restarts."""

    def command(self) -> list[str]:
        """The whole command line."""
        return [sys.executable, "-m", "testbed.fault_points", *super().command()[1:]]

    def start(self) -> Self:
        """Start the process and return once it is ready for clients."""
        super().start()
        self.keep_port()
        return self

    def arm(self, point: str) -> None:
        """It dies there, the next time that it gets there."""
        assert point in POINTS
        (self.directory / f"{REACHED}{point}").unlink(missing_ok=True)
        (self.directory / f"{ARMED}{point}").touch()

    def disarm(self) -> None:
        """It does not, if it has not."""
        for point in POINTS:
            (self.directory / f"{ARMED}{point}").unlink(missing_ok=True)

    def died_at(self, point: str) -> bool:
        """Whether it got there and is dead."""
        return (self.directory / f"{REACHED}{point}").exists() and not self.runs

    def plant(self, defect: str) -> None:
        """It has this defect from now on, or with nothing none."""
        assert not defect or defect in PLANTS
        for name in PLANTS:
            path = self.directory / f"{PLANTED}{name}"
            if name == defect:
                path.touch()
            else:
                path.unlink(missing_ok=True)


class Links:
    """The remote host's ways to the database, to the queue, and from its clients.

    In namespaces of their own, where these can be had: then a cut loses packets. Otherwise a relay stands still.

    :param database_url: of a UNIX socket. :param aws_url: of what is on loopback.
    """

    def __init__(self, database_url: str, aws_url: str, *, with_namespaces: bool, seed: int) -> None:
        self._namespaces = Namespaces("host", *PEERS[:2]) if with_namespaces else None
        self._database, self._aws = parse_dsn(database_url), urlsplit(aws_url)
        self._seed = seed
        self._relays: dict[str, Relay] = {}
        self._target = ("127.0.0.1", 0)
        self._exits = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as exits:
            if self._namespaces:
                exits.enter_context(self._namespaces)
            name = f"{self._database['host']}/.s.PGSQL.{self._database.get('port', _POSTGRES_PORT)}"
            aws = partial(dial_tcp, self._aws.hostname or "127.0.0.1", self._aws.port or 80)
            self._relays = {
                "database": Relay(self._listen("database"), partial(dial_unix, name), seed=self._seed),
                "queue": Relay(self._listen("queue"), aws, seed=self._seed),
                "clients": Relay(listen("127.0.0.1", None), self._dial_host, seed=self._seed),
            }
            for relay in self._relays.values():
                exits.enter_context(relay)
            self._exits = exits.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._exits.close()

    @property
    def namespace(self) -> Path | None:
        """The host's, if it has one."""
        return self._namespaces.path("host") if self._namespaces else None

    @property
    def address(self) -> str:
        """What the host listens on."""
        return self._address("host")

    @property
    def clients_port(self) -> int:
        """Where its clients come, on loopback."""
        return self._relays["clients"].port

    def database_url(self) -> str:
        """For the host."""
        where = f"{self._address('database')}:{self._relays['database'].port}"
        return f"postgresql://{self._database['user']}@{where}/{self._database['dbname']}?sslmode=disable"

    def aws_url(self) -> str:
        """For the host."""
        return f"http://{self._address('queue')}:{self._relays['queue'].port}"

    def lead_to(self, port: int) -> None:
        """The host listens there."""
        self._target = (self.address, port)

    def cut(self, peer: str, *, to_peer: bool = True, from_peer: bool = True) -> None:
        """What the host and that peer send each other is lost, in one direction or both; nobody is told."""
        if peer == "clients":  # they come to the relay, whose target is the host
            self._relays[peer].stall(to_target=from_peer, from_target=to_peer)
        elif self._namespaces is None:
            self._relays[peer].stall(to_target=to_peer, from_target=from_peer)
        else:
            if to_peer:
                self._namespaces.cut("host", peer)
            if from_peer:
                self._namespaces.cut(peer, "host")

    def disturb(self, peers: Sequence[str], delay_seconds: float, loss: float) -> str:
        """Latency and loss on these ways; how it was done."""
        if self._namespaces is not None and self._namespaces.disturb("host", delay_seconds * 1000, loss * 100):
            return "netem"
        for peer in peers:
            self._relays[peer].disturb(delay_seconds, loss)
        return "relays, since this kernel has no netem or this process no namespaces"

    def heal(self) -> None:
        """As it was."""
        for relay in self._relays.values():
            relay.heal()
        if self._namespaces is not None:
            self._namespaces.calm("host")
            for peer in PEERS[:2]:
                self._namespaces.heal("host", peer)
                self._namespaces.heal(peer, "host")

    def _address(self, name: str) -> str:
        return self._namespaces.addresses[name] if self._namespaces else "127.0.0.1"

    def _listen(self, name: str) -> socket.socket:
        return listen(self._address(name), self._namespaces.path(name) if self._namespaces else None)

    def _dial_host(self) -> socket.socket:
        return dial_tcp(*self._target, self._namespaces.switch if self._namespaces else None)


class RemoteHost(Host):
    """One that has :class:`Links` between itself and everybody else."""

    def __init__(self, links: Links) -> None:
        in_namespace = links.namespace is not None
        super().__init__(
            database=links.database_url(), listen=f"tcp:{_PORT if in_namespace else 0}:interface={links.address}"
        )
        self.links = links

    def find_port(self) -> int:
        """Where its clients come, 0 as long as it has not said that it listens."""
        own = super().find_port()
        if own:
            self.links.lead_to(own)
            self.port = self.links.clients_port
        return self.port if own else 0

    def keep_port(self) -> None:
        """Its clients never see it."""
