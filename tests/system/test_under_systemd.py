"""The daemon under systemd, whose part is played here: notifications, a socket that is handed over, a watchdog."""

from __future__ import annotations

import queue
import signal
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed.daemon import TWISTD, clean_environment
from testbed.waiting import eventually

_SECONDS = 60.0


class Systemd:
    """Holds the listening socket and starts the daemon with it, as ``chatflow@.service`` does."""

    def __init__(self, directory: Path, database_url: str) -> None:
        self.directory = directory
        (directory / "credentials").mkdir()
        (directory / "credentials/chatflow.database").write_text(f"{database_url}\n")
        (directory / "chatflow.ini").write_text("[chatflow]\n")
        self.port_socket = socket.create_server(("127.0.0.1", 0), backlog=1000)
        self.port: int = self.port_socket.getsockname()[1]
        self.notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notify.bind(str(directory / "notify"))
        self.answer_timeout_seconds = _SECONDS
        self._messages: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        # As systemd does, or a daemon would soon wait a second with each message.
        threading.Thread(target=self._listen_in_thread, name="notifications").start()
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *options: str, watchdog_seconds: float = 0.0) -> None:
        """Fork, hand over, execute; the number of the process is known in it only."""
        # Descriptor 3 is the first one that is handed over; the shell, which becomes the daemon, knows its own number.
        command = 'exec 3<&"$FD" env LISTEN_PID=$$ "$@"'
        self.process = subprocess.Popen(
            [
                *("bash", "-c", command, "bash", str(TWISTD), "-n", "--pidfile=", "chatflow"),
                *("--config", "chatflow.ini", "--listen", "systemd:chatflow", *options),
            ],
            cwd=self.directory,
            env={
                **clean_environment(),
                "FD": str(self.port_socket.fileno()),
                "LISTEN_FDS": "1",
                "LISTEN_FDNAMES": "chatflow",
                "NOTIFY_SOCKET": str(self.directory / "notify"),
                "CREDENTIALS_DIRECTORY": str(self.directory / "credentials"),
                **({"WATCHDOG_USEC": str(int(watchdog_seconds * 1e6))} if watchdog_seconds else {}),
            },
            pass_fds=[self.port_socket.fileno()],
            stdout=(self.directory / "log").open("ab"),
            stderr=subprocess.STDOUT,
        )

    def hear(self, word: str) -> dict[str, str]:
        """The next message that says ``word``."""
        while True:
            message = self.message()
            if word in message:
                return message

    def message(self) -> dict[str, str]:
        """The next one.

        :raises queue.Empty: there is none for ``answer_timeout_seconds``.
        """
        text = self._messages.get(timeout=self.answer_timeout_seconds).decode()
        return dict(line.split("=", 1) for line in text.splitlines())

    def _listen_in_thread(self) -> None:
        while message := self.notify.recv(4096):
            self._messages.put(message)

    def stop(self) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(_SECONDS)

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.port_socket.close()
        self.notify.shutdown(socket.SHUT_RD)
        self.notify.close()


@pytest.fixture
def systemd(tmp_path: Path, module_database_url: str) -> Iterator[Systemd]:
    played = Systemd(tmp_path, module_database_url)
    yield played
    played.close()


def get(port: int, path: str) -> int:
    """The status of one request on a connection of its own."""
    with socket.create_connection(("127.0.0.1", port), timeout=_SECONDS) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        return int(connection.recv(1000)[9:12])


def test_it_says_how_it_goes_from_start_to_end(systemd: Systemd) -> None:
    systemd.start()
    steps = []
    while "READY" not in (message := systemd.message()):
        steps.append(message)
    assert all(set(step) == {"STATUS", "EXTEND_TIMEOUT_USEC"} for step in steps)
    assert steps[-1]["STATUS"].startswith("starting: sockets of systemd")
    assert message["STATUS"] == "0 clients, 0 messages unanswered"
    assert "listening on" in (systemd.directory / "log").read_text(), "ready is said after the ports listen"
    assert get(systemd.port, "/health/ready") == 200

    assert systemd.process is not None
    (systemd.directory / "chatflow.ini").write_text("[chatflow]\nlog-level = warn\n")
    systemd.process.send_signal(signal.SIGHUP)
    before_microseconds = int(systemd.hear("RELOADING")["MONOTONIC_USEC"])
    assert before_microseconds <= time.monotonic() * 1e6
    assert systemd.hear("READY")["STATUS"] == "reloaded: 1 applied"

    assert systemd.stop() == 0
    stopping = systemd.hear("STOPPING")
    assert int(stopping["EXTEND_TIMEOUT_USEC"]) == 40_000_000
    assert systemd.hear("STATUS")["STATUS"].startswith("stopping: sockets of systemd"), "these are left alone first"


def test_a_reactor_that_hangs_is_silent_and_can_be_started_again(systemd: Systemd) -> None:
    systemd.start(watchdog_seconds=1.0)
    systemd.hear("READY")
    for _ in range(3):
        systemd.hear("WATCHDOG")
    assert systemd.process is not None
    systemd.process.send_signal(signal.SIGSTOP)
    systemd.answer_timeout_seconds = 2.0
    with pytest.raises(queue.Empty):
        while True:
            systemd.message()
    systemd.answer_timeout_seconds = _SECONDS
    systemd.process.send_signal(signal.SIGABRT)  # what systemd does then
    systemd.process.send_signal(signal.SIGCONT)
    assert systemd.process.wait(_SECONDS) == -signal.SIGABRT
    assert "Fatal Python error: Aborted" in (systemd.directory / "log").read_text(), "where it was is in the log"
    systemd.start()
    systemd.hear("READY")
    assert get(systemd.port, "/health/ready") == 200
    assert systemd.stop() == 0


def test_a_restart_under_load_refuses_nobody(systemd: Systemd) -> None:
    systemd.start()
    systemd.hear("READY")
    outcomes: Counter[object] = Counter()
    is_over = threading.Event()

    def come_and_go() -> None:
        while not is_over.is_set():
            try:
                outcomes[get(systemd.port, "/health/live")] += 1
            except OSError as error:
                outcomes[repr(error)] += 1
            except ValueError:
                outcomes["no answer"] += 1

    threads = [threading.Thread(target=come_and_go) for _ in range(4)]
    for thread in threads:
        thread.start()

    def served() -> None:
        enough = outcomes[200] + 50
        eventually(lambda: outcomes[200] > enough, "answers")

    try:
        for _ in range(2):
            served()
            assert systemd.stop() == 0
            systemd.start()
            systemd.hear("READY")
        served()
    finally:
        is_over.set()
        for thread in threads:
            thread.join(_SECONDS)
    assert set(outcomes) == {200}, outcomes


@pytest.mark.parametrize(
    ("listen", "reason"),
    [
        ("systemd:other", "systemd has handed over no such socket (chatflow)"),
        ("systemd:domain=INET:index=7", "systemd has handed over no such socket"),
    ],
)
def test_a_socket_that_is_not_there_is_told_in_one_line(systemd: Systemd, listen: str, reason: str) -> None:
    systemd.start("--listen", listen)
    assert systemd.process is not None
    assert systemd.process.wait(_SECONDS) == 1
    lines = [line for line in (systemd.directory / "log").read_text().splitlines() if line.startswith("chatflow: ")]
    assert len(lines) == 1
    assert reason in lines[0]


def test_the_databases_url_is_seen_by_nobody(systemd: Systemd) -> None:
    systemd.start()
    systemd.hear("READY")
    assert systemd.process is not None
    proc = Path("/proc") / str(systemd.process.pid)
    for file in ("cmdline", "environ"):
        assert b"postgresql://" not in (proc / file).read_bytes()
    assert systemd.stop() == 0
