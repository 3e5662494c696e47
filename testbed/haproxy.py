"""HAProxy in front of several instances, on loopback, set up as an Application Load Balancer of AWS behaves.

It comes from the system, not from pip: ``apt install haproxy``.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from chatflow.dualstack import Both, bind_both
from testbed.http_client import request
from testbed.waiting import eventually

HOW_TO_INSTALL = "HAProxy is not installed: apt install haproxy"

_STOP_SECONDS = 10.0

# What stands for which setting of an ALB and its target group (facts: Elastic Load Balancing user guide):
#   leastconn          least_outstanding_requests: a WebSocket counts for as long as it is open
#   AWSALB             stickiness by the balancer's cookie; a client without it goes anywhere
#   timeout tunnel     an open WebSocket outlives the idle timeout, which our pings keep from expiring
#   check              HTTP on /health/ready: a draining instance gets no new clients, and keeps those that it has
#   fall, rise         sooner than a target group's 30 s interval, so that tests need not wait
#   state maint        deregistration: no new clients, whatever their cookie says; open connections stay
_CONFIGURATION = """\
global
    nbthread 1
    stats socket "${RUNTIME}" mode 600 level admin
defaults
    mode http
    timeout connect 3s
    timeout client 60s
    timeout server 60s
    timeout tunnel 1h
    option forwardfor
    option redispatch 1
    option httpchk GET /health/ready
    http-check expect status 200
    default-server check inter ${CHECK_MS}ms fall 2 rise 1
listen chat
    balance leastconn
    cookie AWSALB insert indirect nocache httponly
"""


def find_haproxy() -> str | None:
    """The program's path, or None where it is not installed."""
    return shutil.which("haproxy") or shutil.which("/usr/sbin/haproxy")


class HAProxy:
    """One address for several instances.

    :param port: to listen on; 0 for a free one.
    :param check_seconds: between two looks at an instance.
    """

    def __init__(self, port: int = 0, *, check_seconds: float = 0.5) -> None:
        self._check_ms = f"{check_seconds * 1000:.0f}"
        self._directory = Path(tempfile.mkdtemp(prefix="chatflow-haproxy-"))
        # Ours and handed down, so that a reload never closes it, and no other process takes a free port first.
        self._listeners = bind_both(Both(port, loopback=True)).sockets
        self._processes: list[subprocess.Popen[bytes]] = []
        self._out: set[str] = set()
        self.port: int = self._listeners[0].getsockname()[1]

    def serve(self, instances: Mapping[str, int]) -> None:
        """Send new connections to these instances from now on; open ones stay where they are.

        :param instances: server id → port. Blocks until a new process has taken over.
        """
        configuration = self._directory / "haproxy.cfg"
        servers = [
            f"    server {name} 127.0.0.1:{port} cookie {name}{' disabled' if name in self._out else ''}\n"
            for name, port in instances.items()
        ]
        binds = [f"    bind fd@{one.fileno()}\n" for one in self._listeners]
        configuration.write_text(_CONFIGURATION + "".join(binds + servers))
        program = find_haproxy()
        if program is None:
            raise RuntimeError(HOW_TO_INSTALL)
        command = [program, "-db", "-f", str(configuration)]
        if self._processes:
            command += ["-sf", *(str(process.pid) for process in self._processes if process.poll() is None)]
        with (self._directory / "output").open("ab") as output:
            process = subprocess.Popen(
                command,
                env={**os.environ, "RUNTIME": str(self._runtime), "CHECK_MS": self._check_ms},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=[one.fileno() for one in self._listeners],
                start_new_session=True,  # an interrupt from the terminal is for who started us
            )
        self._processes.append(process)
        eventually(lambda: process.poll() is not None or self._answers(), "HAProxy answers")
        if process.poll() is not None:
            raise RuntimeError(f"HAProxy does not start: {(self._directory / 'output').read_text()}")

    def take_out(self, name: str) -> None:
        """Send this instance no new connections, from when this returns; open ones stay."""
        self._command(f"set server chat/{name} state maint")
        self._out.add(name)

    def put_back(self, name: str, port: int) -> None:
        """Send it new connections again, to where it listens now."""
        self._command(f"set server chat/{name} addr 127.0.0.1 port {port}")
        self._command(f"set server chat/{name} state ready")
        self._out.discard(name)

    def sends_to(self, name: str) -> bool:
        """Whether it is not taken out."""
        return name not in self._out

    def stop(self) -> None:
        """End it, and with it every connection through it."""
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._processes.clear()
        for one in self._listeners:
            one.close()
        shutil.rmtree(self._directory, ignore_errors=True)

    @property
    def _runtime(self) -> Path:
        return self._directory / "runtime.socket"

    def _command(self, command: str) -> str:
        """What its runtime API says to one command (HAProxy's management guide, 9.3)."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(_STOP_SECONDS)
            connection.connect(str(self._runtime))
            connection.sendall(command.encode() + b"\n")
            with connection.makefile() as stream:
                said = stream.read().strip()
        if said and not said.startswith(("IP changed", "no need to change", "port changed")):
            raise RuntimeError(f"HAProxy: {command}: {said}")
        return said

    def _answers(self) -> bool:
        try:
            return request(self.port, "GET", "/health/live").status == 200
        except OSError:
            return False
