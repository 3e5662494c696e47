"""What systemd wants to hear of a service: sd_notify(3) and sd_watchdog_enabled(3), without a library.

Datagrams of ``NAME=value`` lines to the socket that ``NOTIFY_SOCKET`` names. Podman, s6 and others listen for the same.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import MutableMapping

from chatflow.text import visible

_OURS = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
_MICROSECONDS = 1_000_000
_SEND_SECONDS = 1.0


class ServiceManager:
    """The one who started this process. Without one, nothing is said.

    Status and signs of life are lost if it does not take them at once, and are said again. For all else it is waited
    for, no longer than a second.

    :param address: ``NOTIFY_SOCKET``: a path, or a name in the abstract namespace behind ``@``.
    :ivar watchdog_seconds: it ends the process that was silent for so long; 0 if it does not watch.
    """

    def __init__(self, address: str = "", watchdog_seconds: float = 0.0) -> None:
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self.watchdog_seconds = watchdog_seconds if address else 0.0
        self._socket: socket.socket | None = None

    @classmethod
    def from_environment(cls, environ: MutableMapping[str, str]) -> ServiceManager:
        """The one that ``environ`` names, and not any more afterwards: PostgreSQL would report to it, too."""
        values = {name: environ.pop(name, "") for name in _OURS}
        address = values["NOTIFY_SOCKET"]
        if not address.startswith(("/", "@")):  # such as vsock:…, which is for virtual machines
            return cls()
        microseconds, for_pid = values["WATCHDOG_USEC"], values["WATCHDOG_PID"]
        is_watched = microseconds.isdecimal() and for_pid in ("", str(os.getpid()))
        return cls(address, int(microseconds) / _MICROSECONDS if is_watched else 0.0)

    @property
    def is_there(self) -> bool:
        """Whether anybody listens."""
        return bool(self._address)

    def ready(self, status: str) -> None:
        """The start, or a reload, is done."""
        self._say("READY=1", _status(status))

    def status(self, status: str) -> None:
        """One line for ``systemctl status``."""
        self._say(_status(status), wait_seconds=0)

    def starting(self, status: str, within_seconds: float) -> None:
        """A step of the start, and how long it may take, whatever ``TimeoutStartSec=`` says."""
        self._say(_status(status), _extend(within_seconds))

    def reloading(self) -> None:
        """Settings are read again; :meth:`ready` must follow. The stamp is for ``Type=notify-reload`` (systemd 253)."""
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._say("RELOADING=1", f"MONOTONIC_USEC={now}", _status("reading settings again"))

    def stopping(self, status: str, within_seconds: float) -> None:
        """The end has begun, and how long it may take, whatever ``TimeoutStopSec=`` says."""
        self._say("STOPPING=1", _status(status), _extend(within_seconds))

    def alive(self) -> None:
        """Tell the watchdog that the reactor turns."""
        self._say("WATCHDOG=1", wait_seconds=0)

    def _say(self, *lines: str, wait_seconds: float = _SEND_SECONDS) -> None:
        """Send one message.

        :param wait_seconds: for room in the manager's queue, which holds ten messages (net.unix.max_dgram_qlen,
            unix(7)). What is said again soon may be lost, but not that the start is done.
        """
        if not self._address:
            return
        with contextlib.suppress(OSError):
            if self._socket is None:
                self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._socket.settimeout(wait_seconds)
            # Anew each time, since a manager may have begun to listen anew. To poll(2) a socket that is not connected
            # always has room, and waiting for it would be spinning.
            self._socket.connect(self._address)
            self._socket.send("\n".join(lines).encode())


def _status(text: str) -> str:
    return f"STATUS={visible(text)}"


def _extend(seconds: float) -> str:
    return f"EXTEND_TIMEOUT_USEC={int(seconds * _MICROSECONDS)}"
