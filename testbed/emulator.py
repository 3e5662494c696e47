"""An SQS and SNS for tests and benchmarks on this machine: ministack, as a process of its own on loopback.

Started at first use; it ends with the process that started it, however that ends. Tests share it and do not see each
other, since each names its objects with a prefix of its own.

What it does not do as AWS does: it ignores ReceiveRequestAttemptId, never limits a rate, enforces no queue policy, and
wakes a long poll within 100 ms.
"""

from __future__ import annotations

import atexit
import functools
import itertools
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from http.client import HTTPConnection
from pathlib import Path

from testbed.leftovers import marks
from testbed.shared import shared
from testbed.waiting import eventually

_START_SECONDS = 30.0
_START_TRIES = 5

# Beside the server: a thread that waits for our end of stdin to close, which happens when we end or are killed.
_LAUNCHER = """
import os, sys, threading
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
from ministack.app import main
sys.argv[1:] = []
main()
"""

_serial = itertools.count(1)


class Emulator:
    """One server. ``start`` blocks until it answers.

    :param services: what it plays, as ``SERVICES`` of ministack; none for all that it knows.
    :param port: of one that another process has started, and ends.
    :ivar url: where it listens, for ``AWS_ENDPOINT_URL``.
    """

    def __init__(self, services: str = "sqs,sns", *, port: int = 0) -> None:
        self._services = services
        self._directory = Path(tempfile.mkdtemp(prefix="chatflow-emulator-"))
        self._process: subprocess.Popen[bytes] | None = None
        self.port = port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> Emulator:
        """Listen on a free port; another process may take the port first, so try several."""
        for _ in range(_START_TRIES):
            self._launch(_free_port())
            eventually(lambda: self._answers() or not self._runs, "the emulator answers or ends", _START_SECONDS)
            if self._runs:
                return self
        raise RuntimeError(f"ministack does not start: {(self._directory / 'output').read_text()}")

    def kill(self) -> None:
        """SIGKILL; all that it knew is lost."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()

    def start_again(self) -> None:
        """On the same port, knowing nothing."""
        self._launch(self.port)
        eventually(self._answers, "the emulator answers again", _START_SECONDS)

    def stop(self) -> None:
        """End the process and remove what it left. Harmless when it does not run."""
        self.kill()
        shutil.rmtree(self._directory, ignore_errors=True)

    def environment(self, url: str | None = None) -> dict[str, str]:
        """What makes boto3 of this or another process use it.

        :param url: of a proxy in front of it.
        """
        return aws_environment(url or self.url)

    def _launch(self, port: int) -> None:
        self.port = port
        with (self._directory / "output").open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _LAUNCHER],
                env={
                    **marks(),
                    "PATH": os.environ.get("PATH", ""),
                    "HOME": str(self._directory),
                    "TMPDIR": str(self._directory),
                    "BIND_HOST": "127.0.0.1",
                    "GATEWAY_PORT": str(port),
                    "SERVICES": self._services,
                    # An MQTT server that would listen on every interface.
                    "IOT_MTLS_ENABLED": "0",
                    "LOG_LEVEL": "WARNING",
                },
                cwd=self._directory,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    @property
    def _runs(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def _answers(self) -> bool:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=_START_SECONDS)
        try:
            connection.request("GET", "/_ministack/ready")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()


def aws_environment(url: str) -> dict[str, str]:
    """Variables for boto3: this endpoint, a region, and credentials that are worth nothing."""
    return {
        "AWS_ENDPOINT_URL": url,
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


@functools.cache
def shared_emulator() -> Emulator:
    """The emulator of this test run, whichever of its processes asks."""
    given = shared("emulator")
    emulator = Emulator(port=int(given or 0))
    atexit.register(emulator.stop)
    return emulator if given else emulator.start()


def fresh_prefix() -> str:
    """A queue prefix that no other test uses."""
    return f"test{os.getpid()}-{next(_serial)}"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
