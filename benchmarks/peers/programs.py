"""Other systems, as they are found on this machine: on the PATH, where Go installs, or among Node's modules.

Each is set up as its manual says for one node, with nothing switched on that a chat does not need, and listens on
loopback alone. Nothing of them is part of ChatFlow.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import attrs

from benchmarks import null_server
from benchmarks.peers.servers import Server
from benchmarks.usage import Roots
from testbed.waiting import eventually

_SOCKET_IO_SERVER = Path(__file__).with_name("socket_io_server.js")
_ROOMS = 20

# Where to look, and how to get it.
_NATS_SERVER = ("nats-server", "go install github.com/nats-io/nats-server/v2@latest, or apt install nats-server")
_CENTRIFUGO = ("centrifugo", "go install github.com/centrifugal/centrifugo/v6@latest")
_REDIS = ("redis-server", "apt install redis-server")


class Absent(Exception):
    """A program is not on this machine. The text says how to get it."""


def find_program(name: str, how: str) -> str:
    """Where a program is. :raises Absent: nowhere."""
    go = os.environ.get("GOBIN") or str(Path(os.environ.get("GOPATH", Path.home() / "go")) / "bin")
    found = shutil.which(name, path=os.pathsep.join((os.environ.get("PATH", ""), go, "/usr/sbin")))
    if not found:
        raise Absent(f"no {name} on the PATH: {how}")
    return found


def find_node_module(name: str) -> Path:
    """The ``node_modules`` that has a module. :raises Absent: none has."""
    given = [Path(place) for place in os.environ.get("NODE_PATH", "").split(os.pathsep) if place]
    for place in (*given, Path("node_modules"), Path.home() / "node_modules"):
        if (place / name).is_dir():
            return place.resolve()
    raise Absent(
        f"no {name} among Node's modules: npm install --prefix DIRECTORY {name}, and NODE_PATH=DIRECTORY/node_modules"
    )


class Program:
    """Processes of one system in a directory of their own.

    :ivar port: where clients connect.
    """

    def __init__(self, wire: str) -> None:
        self.wire = wire
        self.port = _free_port()
        self.directory = Path(tempfile.mkdtemp(prefix="peer-"))
        self._processes: list[tuple[str, subprocess.Popen[bytes]]] = []

    def run(
        self, name: str, command: Sequence[object], port: int, environment: Mapping[str, str] | None = None
    ) -> None:
        """Start one of its processes, and wait until it listens."""
        with (self.directory / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                [str(word) for word in command],
                cwd=self.directory,
                env={**os.environ, **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self._processes.append((name, process))

        def listens() -> bool:
            if process.poll() is not None:
                raise RuntimeError(f"{name} has ended: {(self.directory / f'{name}.log').read_text()[-2000:]}")
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0

        eventually(listens, f"{name} listens")

    def write(self, name: str, content: str) -> Path:
        """A file in its directory."""
        path = self.directory / name
        path.write_text(content)
        return path

    def roots(self) -> Roots:
        return tuple((name, process.pid) for name, process in self._processes)

    def faults(self, sent: int) -> list[str]:
        """What it has stored is not looked at, where there is no simple way to ask."""
        return []

    def stop(self) -> None:
        for _, process in self._processes:
            process.kill()
            process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)


class Nats(Program):
    """A NATS server.

    :param sync: ``sync_interval`` of its streams, of which there is one in files for each room; none if it is empty.
    """

    def __init__(self, sync: str = "") -> None:
        super().__init__("jetstream" if sync else "nats")
        self._client_port, self._monitoring_port = _free_port(), _free_port()
        try:
            self._start(sync)
        except BaseException:
            self.stop()
            raise

    def _start(self, sync: str) -> None:
        store = f'jetstream {{ store_dir: "{self.directory}", sync_interval: {sync} }}\n' if sync else ""
        settings = self.write(
            "nats.conf",
            f'listen: "127.0.0.1:{self._client_port}"\nhttp: "127.0.0.1:{self._monitoring_port}"\n'
            f'websocket {{ listen: "127.0.0.1:{self.port}", no_tls: true }}\n{store}',
        )
        self.run("nats-server", [find_program(*_NATS_SERVER), "--config", settings], self.port)
        if sync:
            with socket.create_connection(("127.0.0.1", self._client_port), 20) as connection:
                self._make_streams(connection)

    def _make_streams(self, connection: socket.socket) -> None:
        connection.sendall(b'CONNECT {"verbose":false}\r\nSUB made 1\r\n')
        with connection.makefile("rb") as answers:
            for room in range(1, _ROOMS + 1):
                wanted = json.dumps({"name": f"ROOM{room}", "subjects": [f"room.{room}"], "storage": "file"})
                connection.sendall(f"PUB $JS.API.STREAM.CREATE.ROOM{room} made {len(wanted)}\r\n{wanted}\r\n".encode())
                while not (line := answers.readline()).startswith(b'{"type"'):
                    if not line:
                        raise RuntimeError("nats-server has closed the connection")
                if b'"error"' in line:
                    raise RuntimeError(f"no stream was made: {line!r}")

    def faults(self, sent: int) -> list[str]:
        if self.wire != "jetstream":
            return []
        with urllib.request.urlopen(f"http://127.0.0.1:{self._monitoring_port}/jsz", timeout=20) as answer:
            stored = json.load(answer)["messages"]
        return [] if stored == sent else [f"{sent} messages were acknowledged, {stored} are stored"]


class Centrifugo(Program):
    """A Centrifugo. :param fsync: ``appendfsync`` of the Redis that holds its history; if empty, its memory does."""

    def __init__(self, fsync: str = "") -> None:
        super().__init__("centrifugo")
        try:
            self._start(fsync)
        except BaseException:
            self.stop()
            raise

    def _start(self, fsync: str) -> None:
        room = {"name": "room", "history_size": 1000, "history_ttl": "600s"}
        settings: dict[str, object] = {
            "http_server": {"address": "127.0.0.1", "port": str(self.port)},
            "client": {"insecure": True},
            "channel": {"namespaces": [room]},
            "log": {"level": "error"},
        }
        if fsync:
            port = _free_port()
            durable = ("--appendonly", "yes", "--appendfsync", fsync, "--save", "", "--dir", self.directory)
            self.run("redis", [find_program(*_REDIS), "--bind", "127.0.0.1", "--port", port, *durable], port)
            settings["engine"] = {"type": "redis", "redis": {"address": f"redis://127.0.0.1:{port}"}}
        path = self.write("centrifugo.json", json.dumps(settings))
        self.run("centrifugo", [find_program(*_CENTRIFUGO), "--config", path], self.port)


class SocketIo(Program):
    """A Node program on socket.io that hands on what comes, and acknowledges it."""

    def __init__(self) -> None:
        super().__init__("socket.io")
        try:
            command = [find_program("node", "apt install nodejs"), _SOCKET_IO_SERVER, self.port]
            self.run("node", command, self.port, {"NODE_PATH": str(find_node_module("socket.io"))})
        except BaseException:
            self.stop()
            raise


class Null(Program):
    """``benchmarks/null_server.py``: what is measured against it is the client."""

    def __init__(self) -> None:
        super().__init__("chatflow")
        try:
            self.run("null", [sys.executable, null_server.__file__, "--port", self.port], self.port)
        except BaseException:
            self.stop()
            raise


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        port: int = found.getsockname()[1]
        return port


@attrs.frozen
class System:
    """One to be measured.

    :ivar start: makes it run. It raises :class:`Absent` if there is none on this machine.
    :ivar acknowledgement: what the server has done when it acknowledges a message.
    """

    start: Callable[[], Server]
    acknowledgement: str


#: By what ``--against`` calls them: each with its variants.
PEERS = {
    "nats": {
        "nats": System(Nats, "taken from the connection; nothing is stored"),
        "jetstream": System(partial(Nats, "always"), "written to a file of the room's stream, with fsync"),
        "jetstream-unsynced": System(
            partial(Nats, "2m"), "written to a file of the room's stream; fsync after 2 minutes"
        ),
    },
    "centrifugo": {
        "centrifugo": System(Centrifugo, "in memory, 1,000 messages of a room"),
        "centrifugo-redis": System(partial(Centrifugo, "always"), "in Redis, with fsync, 1,000 messages of a room"),
        "centrifugo-redis-everysec": System(partial(Centrifugo, "everysec"), "in Redis, fsync every second"),
    },
    "socket.io": {"socket.io": System(SocketIo, "handed on; nothing is stored")},
    "null": {"null": System(Null, "nothing")},
}
