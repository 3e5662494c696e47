"""What systemd is told, by a real datagram socket in its place."""

from __future__ import annotations

import os
import socket
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from twisted.internet.task import Clock

from chatflow.lifecycle import ServiceManager, Supervision


@pytest.fixture(params=["path", "abstract"])
def listening(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, socket.socket]]:
    name = str(tmp_path / "notify") if request.param == "path" else f"@{uuid.uuid4()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(name if name.startswith("/") else "\0" + name[1:])
        systemd.settimeout(5)
        yield name, systemd


def received(systemd: socket.socket) -> list[str]:
    return systemd.recv(4096).decode().split("\n")


def test_each_message_is_one_datagram_of_lines(listening: tuple[str, socket.socket]) -> None:
    name, systemd = listening
    manager = ServiceManager.from_environment({"NOTIFY_SOCKET": name})
    assert manager.is_there
    manager.starting("starting: schema", 330)
    assert received(systemd) == ["STATUS=starting: schema", "EXTEND_TIMEOUT_USEC=330000000"]
    manager.ready("3 clients")
    assert received(systemd) == ["READY=1", "STATUS=3 clients"]
    manager.alive()
    assert received(systemd) == ["WATCHDOG=1"]
    manager.stopping("stopping", 40.5)
    assert received(systemd) == ["STOPPING=1", "STATUS=stopping", "EXTEND_TIMEOUT_USEC=40500000"]


def test_a_reload_has_the_time_of_the_monotonic_clock(listening: tuple[str, socket.socket]) -> None:
    name, systemd = listening
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    ServiceManager(name).reloading()
    first, second, _status = received(systemd)
    assert first == "RELOADING=1"
    assert before <= int(second.removeprefix("MONOTONIC_USEC=")) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000


def test_a_status_cannot_say_anything_else(listening: tuple[str, socket.socket]) -> None:
    name, systemd = listening
    ServiceManager(name).status("a\nSTOPPING=1")
    assert received(systemd) == [r"STATUS=a\nSTOPPING=1"]


def test_the_watchdog_is_ours_only_with_our_number() -> None:
    environ = {"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "30000000"}
    assert ServiceManager.from_environment({**environ}).watchdog_seconds == 30
    assert ServiceManager.from_environment({**environ, "WATCHDOG_PID": str(os.getpid())}).watchdog_seconds == 30
    assert ServiceManager.from_environment({**environ, "WATCHDOG_PID": "1"}).watchdog_seconds == 0


def test_children_do_not_inherit_it() -> None:
    environ = {"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1", "PATH": "/bin"}
    ServiceManager.from_environment(environ)
    assert environ == {"PATH": "/bin"}


@pytest.mark.parametrize("environ", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "vsock:2:1"}, {"WATCHDOG_USEC": "x"}])
def test_without_one_nothing_is_said(environ: dict[str, str]) -> None:
    manager = ServiceManager.from_environment(environ)
    assert not manager.is_there
    manager.ready("nobody hears")


def test_one_that_has_gone_disturbs_nothing(tmp_path: Path) -> None:
    ServiceManager(str(tmp_path / "nobody")).ready("nobody hears")


def test_one_that_does_not_read_does_not_block(listening: tuple[str, socket.socket]) -> None:
    manager = ServiceManager(listening[0])
    for _ in range(5000):
        manager.alive()


class _Reactor(Clock):
    pass


def test_the_watchdog_is_fed_at_half_its_time_by_the_reactors_clock(listening: tuple[str, socket.socket]) -> None:
    name, systemd = listening
    clock = _Reactor()
    status = iter(["1 client", "1 client", "2 clients", "2 clients"])
    supervision = Supervision(clock, ServiceManager(name, 20.0), lambda: next(status))
    supervision.started()
    assert received(systemd)[0] == "READY=1"
    assert received(systemd) == ["WATCHDOG=1"]
    clock.pump([5.0] * 3)
    assert [received(systemd) for _ in range(2)] == [["WATCHDOG=1"], ["STATUS=2 clients"]]
    systemd.setblocking(False)
    with pytest.raises(BlockingIOError):
        systemd.recv(100)


def test_a_reload_ends_with_ready_even_when_it_fails(listening: tuple[str, socket.socket]) -> None:
    name, systemd = listening
    supervision = Supervision(_Reactor(), ServiceManager(name))

    def fail() -> str:
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError):
        supervision.reload(fail)
    assert received(systemd)[0] == "RELOADING=1"
    assert received(systemd)[0] == "READY=1"
