"""New releases for the instances of a cluster that serves: what ``scripts/deploy roll --local`` asks it for.

Nothing here waits for an instance: who asks looks at :meth:`Rolling.state` until it likes what it sees.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from attrs import frozen

from testbed.cluster import Cluster
from testbed.control import ControlError
from testbed.daemon import Daemon
from testbed.haproxy import HOW_TO_INSTALL, HAProxy

_MAX_NOTE_CHARACTERS = 300


@frozen
class Release:
    """What an instance may run: the checkout that the cluster was started from, or a wheel; with options.

    :ivar number: 1, 2, 3 in the order in which they came.
    :ivar wheel: its path; empty for the checkout.
    :ivar directory: where it is unpacked.
    """

    number: int
    version: str
    options: tuple[str, ...]
    wheel: str = ""
    directory: Path | None = None

    @property
    def label(self) -> str:
        """For people: one version may run with different options."""
        return f"{self.version}#{self.number}"

    @property
    def environment(self) -> dict[str, str]:
        """Variables of its processes."""
        if self.directory is None:
            return {}
        return {"PYTHONPATH": os.pathsep.join(filter(None, (str(self.directory), os.environ.get("PYTHONPATH"))))}


class Rolling:
    """All methods may be called by one thread at a time, while the cluster is started and not yet stopped.

    :param directory: for what is unpacked.
    """

    def __init__(self, cluster: Cluster, directory: Path) -> None:
        self._cluster = cluster
        self._directory = directory
        self._target = Release(1, metadata.version("chatflow"), cluster.options)
        self._former: Release | None = None
        self._going_back = False
        self._number = 1
        self._runs = dict.fromkeys(self._names(), self._target)
        self._told_to_stop: set[str] = set()

    def answer(self, request: dict[str, Any]) -> object:
        """What a request of :mod:`testbed.control` asks.

        :raises ControlError: it cannot be done.
        """
        match request:
            case {"do": "state"}:
                return self.state()
            case {"do": "release", "wheel": str(wheel), "options": None | list() as options}:
                self.release(wheel, options)
            case {"do": "rollback"}:
                self.rollback()
            case {"do": "take_out" | "stop" | "start" | "put_back" as what, "name": str(name)}:
                getattr(self, what)(name)
            case _:
                raise ControlError("this cluster does not know what it is asked for: is it of another checkout?")
        return None

    def state(self) -> dict[str, Any]:
        """How every instance stands."""
        return {
            "release": self._target.label,
            "options": list(self._target.options),
            "instances": [self._state_of(name) for name in self._names()],
        }

    def release(self, wheel: str, options: Sequence[str] | None) -> None:
        """Say what all instances are to run. The same again, while not all do, changes nothing.

        :param wheel: its path; empty for the checkout.
        :param options: of the daemons, instead of those that they have; None for no change of these.
        """
        wanted = tuple(options) if options is not None else self._target.options
        if self._unfinished and (wheel, wanted) == (self._target.wheel, self._target.options):
            return
        number = self._number + 1
        version, directory = metadata.version("chatflow"), None
        if wheel:
            directory = self._directory / f"release-{number}"
            version = _unpack(wheel, directory)
        made = Release(number, version, wanted, wheel, directory)
        try:
            self._cluster.admin("migrate", environment=made.environment)
        except RuntimeError as error:
            raise ControlError(str(error)) from error
        self._number, self._former, self._target, self._going_back = number, self._target, made, False

    def rollback(self) -> None:
        """All instances are to run again what they ran before. The same again, while not all do, changes nothing."""
        if self._going_back and self._unfinished:
            return
        if self._former is None:
            raise ControlError("there is no former release: this one is the first of the cluster")
        self._former, self._target, self._going_back = self._target, self._former, True

    def take_out(self, name: str) -> None:
        """Let HAProxy send it no more clients."""
        self._find(name)
        self._haproxy.take_out(name)

    def stop(self, name: str) -> None:
        """SIGTERM."""
        instance = self._find(name)
        self._told_to_stop.add(name)
        if instance.runs:
            instance.send_signal(signal.SIGTERM)

    def start(self, name: str) -> None:
        """Start what has ended, on what all instances are to run; HAProxy sends it no clients yet."""
        instance = self._find(name)
        if instance.runs:
            raise ControlError(f"{name} runs")
        self._haproxy.take_out(name)  # it may have died, and will listen elsewhere
        self._cluster.configure(instance, self._target.options, self._target.environment)
        self._told_to_stop.discard(name)
        self._runs[name] = self._target
        instance.launch_again()

    def put_back(self, name: str) -> None:
        """Let HAProxy send it clients, to where it listens now."""
        self._haproxy.put_back(name, self._find(name).port)

    def was_told_to_stop(self, instance: Daemon) -> bool:
        """Whether its end is no surprise."""
        return self._cluster.name_of(instance) in self._told_to_stop

    @property
    def _unfinished(self) -> bool:
        return any(release != self._target for release in self._runs.values())

    @property
    def _haproxy(self) -> HAProxy:
        if self._cluster.haproxy is None:
            raise ControlError(
                "the cluster has no HAProxy in front, so clients of an instance that stops would be refused: start it"
                f" without --no-proxy ({HOW_TO_INSTALL})"
            )
        return self._cluster.haproxy

    def _names(self) -> list[str]:
        return [self._cluster.name_of(instance) for instance in self._cluster.instances]

    def _find(self, name: str) -> Daemon:
        for instance in self._cluster.instances:
            if self._cluster.name_of(instance) == name:
                return instance
        raise ControlError(f"there is no {name}")

    def _state_of(self, name: str) -> dict[str, Any]:
        instance, release = self._find(name), self._runs[name]
        runs, haproxy = instance.runs, self._cluster.haproxy
        return {
            "name": name,
            "port": instance.find_port() if runs else 0,
            "runs": runs,
            "stopping": runs and name in self._told_to_stop,
            "release": release.label,
            "current": release == self._target,
            "in_balancer": haproxy is not None and haproxy.sends_to(name),
            "note": "" if runs else _end_of(instance),
        }


def _end_of(instance: Daemon) -> str:
    status = instance.process.poll()
    if status is None:
        return "still runs"
    if status == 0:
        found = re.findall(r"drained (\d+ clients and \d+ messages) in", instance.output())
        return found[-1] if found else "ended with status 0"
    if status < 0:
        return f"was killed by {signal.Signals(-status).name}"
    said = instance.errors().strip().splitlines() or [f"see {instance.directory}/stdout"]
    return f"ended with status {status}: {said[-1][:_MAX_NOTE_CHARACTERS]}"


def _unpack(wheel: str, directory: Path) -> str:
    """The version of a wheel, which is unpacked there."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--no-index", "--no-compile", "--upgrade", "--target", str(directory), wheel]
    ended = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if ended.returncode:
        said = ended.stderr.strip().splitlines() or [f"pip ended with status {ended.returncode}"]
        raise ControlError(f"{wheel} cannot be installed: {said[-1].removeprefix('ERROR: ')}")
    with contextlib.suppress(StopIteration):
        return next(iter(metadata.distributions(name="chatflow", path=[str(directory)]))).version
    raise ControlError(f"{wheel} is no wheel of ChatFlow")
