"""Instances die, stand still, run out of files, live at another time, or make room for a new release."""

from __future__ import annotations

import contextlib
import resource
import signal
import socket
import threading
from collections.abc import Iterator

import psutil

from benchmarks.faults.fault import Fault, Scene, fault
from benchmarks.faults.hosts import Host
from benchmarks.faults.laboratory import BALANCER, CLOCK, READY_SECONDS
from testbed.fault_points import POINTS
from testbed.haproxy import HAProxy
from testbed.waiting import eventually

_REACH_SECONDS = 30.0
_RESUMES = "its clients come back elsewhere, where they were; other rooms do not notice"
_HOUR = 3600.0
_SPARE_FILES = 8


def _killed_at(point: str) -> Fault:
    def act(scene: Scene) -> Iterator[None]:
        victim = scene.random.choice(scene.laboratory.victims)
        victim.arm(point)
        try:
            eventually(lambda: victim.died_at(point), f"{point} is reached", _REACH_SECONDS)
            yield
        finally:
            scene.laboratory.bring_back(victim)

    return fault(f"kill-{point}", f"kill -9 {point.replace('-', ' ')}: {POINTS[point]}", _RESUMES)(act)


KILLED_AT = tuple(map(_killed_at, POINTS))


@fault("kill", "kill -9 at any moment", _RESUMES)
def killed(scene: Scene) -> Iterator[None]:
    victim = scene.random.choice(scene.laboratory.victims)
    victim.kill()
    try:
        yield
    finally:
        scene.laboratory.bring_back(victim)


@fault("pause", "an instance is paused (SIGSTOP) and resumed", "as after a kill", hold_seconds=60)
def paused(scene: Scene) -> Iterator[None]:
    victim = scene.random.choice(scene.laboratory.victims)
    victim.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        victim.send_signal(signal.SIGCONT)
        eventually(victim.is_ready, "it is ready again", READY_SECONDS)


@fault(
    "clock",
    "the clock of one instance is an hour ahead, then an hour behind",
    "its clients are sent elsewhere",
    needs=CLOCK,
    may_refuse=("unavailable",),
)
def stepped_clock(scene: Scene) -> Iterator[None]:
    clock = scene.laboratory.host_clock
    assert clock is not None
    first = scene.random.choice((_HOUR, -_HOUR))
    try:
        clock.set(first)
        threading.Event().wait(scene.hold_seconds / 2)
        clock.set(-first)
        yield
    finally:
        clock.set(0)
        eventually(scene.laboratory.clocked.is_ready, "it is ready", READY_SECONDS)


@fault("files", "an instance has no file descriptor left", "who is connected does not notice; others come elsewhere")
def out_of_files(scene: Scene) -> Iterator[None]:
    victim = scene.random.choice(scene.laboratory.victims)
    process = psutil.Process(victim.process.pid)
    usual = process.rlimit(psutil.RLIMIT_NOFILE)
    opened: list[socket.socket] = []
    try:
        process.rlimit(psutil.RLIMIT_NOFILE, (process.num_fds() + _SPARE_FILES, usual[1]))
        for _ in range(4 * _SPARE_FILES):
            with contextlib.suppress(OSError):
                opened.append(socket.create_connection(("127.0.0.1", victim.port), timeout=1.0))
        scene.expect(not _answers(victim), "it has descriptors left")
        yield
        scene.expect(victim.runs, "it ended")
    finally:
        for one in opened:
            one.close()
        process.rlimit(psutil.RLIMIT_NOFILE, usual)
        eventually(lambda: _answers(victim), "it takes connections again", READY_SECONDS)


def _answers(victim: Host) -> bool:
    """Whether it takes a connection and answers within two seconds."""
    try:
        with socket.create_connection(("127.0.0.1", victim.port), timeout=2.0) as connection:
            connection.sendall(b"GET /health/ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            return connection.recv(100).startswith(b"HTTP/1.1 200")
    except OSError:
        return False


@fault(
    "deploy",
    "every instance stops (SIGTERM) and starts in turn, behind a balancer that looks as seldom as this is held",
    "clients are told to come back, and do, elsewhere",
    needs=BALANCER,
    hold_seconds=10,
    more_seconds=90,
    spares_witness=False,
)
def deployed(scene: Scene) -> Iterator[None]:
    laboratory = scene.laboratory
    hosts = [laboratory.witness, *laboratory.victims]
    balancer = HAProxy(check_seconds=scene.hold_seconds)
    refused = tried = 0
    try:
        balancer.serve({laboratory.name_of(host): host.port for host in hosts})
        for host in hosts:
            over = threading.Event()
            stopping = threading.Thread(target=lambda host=host, over=over: (host.stop(), over.set()), daemon=True)
            stopping.start()
            while not over.wait(0.2):
                tried += 1
                refused += not _is_served(balancer.port)
            scene.expect(host.wait(0) == 0, f"{laboratory.name_of(host)} ended with {host.process.returncode}")
            laboratory.bring_back(host)
        yield
    finally:
        balancer.stop()
    scene.figures["handshakes through the balancer meanwhile"] = tried
    scene.figures["of them refused"] = refused


def _is_served(port: int) -> bool:
    """Whether a request through the balancer gets to an instance."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5.0) as connection:
            connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            return connection.recv(100).startswith(b"HTTP/1.1 200")
    except OSError:
        return False


def allow_many_files() -> None:
    """As many as the hard limit of this process says: laboratories have thousands of clients."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


FAULTS = (killed, *KILLED_AT, paused, stepped_clock, out_of_files, deployed)
