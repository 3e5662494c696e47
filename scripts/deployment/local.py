"""The cluster of ``scripts/cluster`` on this machine, as a place to roll a release through."""

from __future__ import annotations

import http.client
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scripts.deployment.errors import Stopped
from scripts.deployment.fleet import Instance, State
from testbed import control

_ANSWER_SECONDS = 3.0


class LocalFleet:
    """A :class:`~scripts.deployment.fleet.Fleet`.

    :param port: that of its HAProxy; None for the only cluster that runs.
    :raises Stopped: there is none, or more than one.
    """

    #: HAProxy knows at once; a handshake that it has just passed on takes no longer than this.
    settle_seconds = 0.5

    def __init__(self, port: int | None = None) -> None:
        running = control.clusters()
        if port is None:
            if len(running) > 1:
                raise Stopped(
                    f"{len(running)} clusters run on this machine, on ports {', '.join(map(str, running))}",
                    f"say which: --local {running[0]}",
                )
            port = running[0] if running else None
        if port is None or port not in running:
            where = "" if port is None else f" on port {port}"
            raise Stopped(f"no cluster runs on this machine{where}", "start one in another terminal: scripts/cluster")
        self.port = port

    def set_release(self, wheel: Path | None = None, options: Sequence[str] | None = None) -> None:
        """Say what all instances are to run: this checkout or a wheel, with other options or those that they have."""
        if wheel is not None and not wheel.is_file():
            raise Stopped(f"--wheel {wheel}: there is no such file", "build one: pip wheel --no-deps .")
        path = "" if wheel is None else str(wheel.resolve())
        self._ask("release", wheel=path, options=None if options is None else list(options))

    def roll_back(self) -> None:
        """Say that all instances are to run what they ran before."""
        self._ask("rollback")

    @property
    def release(self) -> str:
        """What all are to run, and with which options."""
        state = self._ask("state")
        return " ".join([state["release"], *map(shlex.quote, state["options"])])

    def instances(self) -> Sequence[Instance]:
        return [_instance(each) for each in self._ask("state")["instances"]]

    def take_out(self, instance: Instance) -> None:
        self._ask("take_out", name=instance.name)

    def stop(self, instance: Instance) -> None:
        self._ask("stop", name=instance.name)

    def start(self, instance: Instance) -> None:
        self._ask("start", name=instance.name)

    def put_back(self, instance: Instance) -> None:
        self._ask("put_back", name=instance.name)

    def lag_seconds(self) -> float | None:
        known = [one.lag_seconds for one in self.instances() if one.lag_seconds is not None]
        return max(known, default=None)

    def _ask(self, what: str, **more: object) -> Any:
        try:
            return control.ask(self.port, what, **more)
        except control.ControlError as error:
            raise Stopped(str(error)) from error


def _instance(told: dict[str, Any]) -> Instance:
    """What the cluster tells of it, and what it tells itself."""
    clients = lag_seconds = None
    note = told["note"]
    if not told["runs"]:
        state = State.STOPPED
    elif told["stopping"]:
        state = State.STOPPING
    elif not told["port"]:
        state, note = State.STARTING, "does not listen yet"
    else:
        try:
            status, body = _get(told["port"], "/health/ready")
            state = State.READY if status == 200 else State.STARTING
            note = "" if status == 200 else f"answers {status} to /health/ready: {body.strip()[:200]}"
            clients, lag_seconds = _figures(_get(told["port"], "/metrics")[1])
        except (OSError, http.client.HTTPException) as error:
            state, note = State.STARTING, f"does not answer: {error}"
    return Instance(
        name=told["name"],
        release=told["release"],
        current=told["current"],
        state=state,
        in_balancer=told["in_balancer"],
        note=note,
        clients=clients,
        lag_seconds=lag_seconds,
    )


def _figures(text: str) -> tuple[int, float]:
    """Connections, and the age of the oldest envelope in any queue, of Prometheus' text."""
    clients = re.search(r"^chatflow_connections (\S+)$", text, re.MULTILINE)
    lags = re.findall(r"^chatflow_queue_lag_seconds\{[^}]*\} (\S+)$", text, re.MULTILINE)
    return int(float(clients[1])) if clients else 0, max(map(float, lags), default=0.0)


def _get(port: int, path: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_ANSWER_SECONDS)
    try:
        connection.request("GET", path, headers={"Accept": "text/plain"})
        answer = connection.getresponse()
        return answer.status, answer.read().decode(errors="replace")
    finally:
        connection.close()
