"""Hosts on this machine, each with a network of its own (network namespaces of Linux), one switch between them.

What is cut loses packets without a word, as a broken cable or a security group does: nobody is told, and connections
that are open stay so. It needs root and ``ip`` (``apt install iproute2``); for latency and loss also a kernel with
netem.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Self

_NEW_NETWORK = 0x40000000  # CLONE_NEWNET of setns(2)
_NOBODY = "02:00:00:00:00:01"  # no interface has this hardware address
_NETWORK = "10.77.0"

_serials = itertools.count(1)


class Namespaces:
    """Made when entered, and removed afterwards.

    :param names: of the hosts.
    :ivar switch: the path of the namespace that reaches all others.
    :ivar addresses: of the hosts, by name.
    """

    def __init__(self, *names: str) -> None:
        self._prefix = f"chatflow-{os.getpid()}-{next(_serials)}"
        self.addresses = {name: f"{_NETWORK}.{number}" for number, name in enumerate(names, 1)}
        self.switch = self.path("switch")

    def __enter__(self) -> Self:
        switch = f"{self._prefix}-switch"
        try:
            _ip("netns", "add", switch)
            _ip("-n", switch, "link", "add", "name", "bridge0", "type", "bridge")
            _ip("-n", switch, "address", "add", f"{_NETWORK}.254/24", "dev", "bridge0")
            for link in ("lo", "bridge0"):
                _ip("-n", switch, "link", "set", link, "up")
            for name, address in self.addresses.items():
                self._add(name, address)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for name in (*self.addresses, "switch"):
            with contextlib.suppress(NoNamespaces):
                _ip("netns", "delete", f"{self._prefix}-{name}")

    def path(self, name: str) -> Path:
        """Of a host's namespace; see :func:`enter`."""
        return Path("/run/netns") / f"{self._prefix}-{name}"

    def cut(self, sender: str, receiver: str) -> None:
        """What the one sends to the other is lost; the other way is still open."""
        self._neighbour("replace", sender, self.addresses[receiver], "lladdr", _NOBODY, "nud", "permanent")

    def heal(self, sender: str, receiver: str) -> None:
        """What it sends arrives again."""
        with contextlib.suppress(NoNamespaces):
            self._neighbour("delete", sender, self.addresses[receiver])

    def disturb(self, name: str, delay_ms: float, loss_percent: float) -> bool:
        """All that a host sends is late, and some of it is lost; False if this kernel has no netem."""
        what = ("netem", "delay", f"{delay_ms:g}ms", f"{delay_ms / 2:g}ms", "loss", f"{loss_percent:g}%")
        return self._traffic_control("replace", name, *what)

    def calm(self, name: str) -> None:
        """End of that."""
        self._traffic_control("delete", name)

    def _add(self, name: str, address: str) -> None:
        own, switch = f"{self._prefix}-{name}", f"{self._prefix}-switch"
        _ip("netns", "add", own)
        _ip("-n", switch, "link", "add", "name", name, "type", "veth", "peer", "name", "eth0", "netns", own)
        _ip("-n", switch, "link", "set", name, "master", "bridge0", "up")
        _ip("-n", own, "address", "add", f"{address}/24", "dev", "eth0")
        for link in ("lo", "eth0"):
            _ip("-n", own, "link", "set", link, "up")

    def _neighbour(self, what: str, name: str, address: str, *more: str) -> None:
        _ip("-n", f"{self._prefix}-{name}", "neighbour", what, address, *more, "dev", "eth0")

    def _traffic_control(self, what: str, name: str, *more: str) -> bool:
        command = ["tc", "-n", f"{self._prefix}-{name}", "qdisc", what, "dev", "eth0", "root", *more]
        return subprocess.run(command, capture_output=True).returncode == 0


class NoNamespaces(RuntimeError):
    """Why there are none here."""


def why_not() -> str:
    """In one line why this process cannot have any; nothing if it can."""
    if not shutil.which("ip"):
        return "no network namespaces without ip: apt install iproute2"
    if os.geteuid() != 0:
        return "no network namespaces without root"
    try:
        with Namespaces("probe"):
            return ""
    except NoNamespaces as error:
        return f"no network namespaces here: {error}"


def enter(namespace: Path) -> None:
    """This thread, and the threads that it starts from now on, live there.

    :raises OSError: they may not, or there is none.
    """
    with namespace.open("rb") as file:
        if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), _NEW_NETWORK):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(namespace))


@contextlib.contextmanager
def inside(namespace: Path | None) -> Iterator[None]:
    """Sockets that this thread makes within the block belong there, also afterwards; None changes nothing."""
    if namespace is None:
        yield
        return
    own = Path(f"/proc/self/task/{threading.get_native_id()}/ns/net")
    with own.open("rb") as file:
        enter(namespace)
        try:
            yield
        finally:
            ctypes.CDLL(None).setns(file.fileno(), _NEW_NETWORK)


def listen(address: str, namespace: Path | None) -> socket.socket:
    """A socket on a free port."""
    with inside(namespace):
        return socket.create_server((address, 0), backlog=1024)


def _ip(*arguments: str) -> None:
    try:
        subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        said = getattr(error, "stderr", "") or str(error)
        raise NoNamespaces(f"ip {' '.join(arguments)}: {said.strip()}") from error
