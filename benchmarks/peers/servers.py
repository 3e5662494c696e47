"""The systems that are measured: each started for itself alone, on loopback, and taken down again."""

from __future__ import annotations

import shlex
import subprocess
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from benchmarks.usage import Roots
from testbed.daemon import Daemon
from testbed.postgres import copy_cluster

HERE = Path(__file__).parents[2]


class Server(Protocol):
    """One that runs. :ivar wire: how it is spoken to, of :data:`benchmarks.peers.wires.WIRES`."""

    wire: str
    port: int

    def roots(self) -> Roots:
        """Its processes; see :mod:`benchmarks.usage`."""

    def faults(self, sent: int) -> list[str]:
        """What is wrong after so many messages, all acknowledged, in all its runs."""

    def stop(self) -> None:
        """End it, and remove what it has written."""


class ChatFlow:
    """A checkout's daemon with its embedded PostgreSQL.

    :param checkout: a directory with a ``.venv`` in it.
    :param options: of the daemon.
    """

    wire = "chatflow"

    def __init__(self, checkout: Path, options: Sequence[str]) -> None:
        self._daemon = _CheckoutDaemon(checkout, options)
        try:
            copy_cluster(self._daemon.data_directory)
            self.port = self._daemon.start().port
        except BaseException:
            self.stop()
            raise

    def roots(self) -> Roots:
        return (("postgresql", self._daemon.postmaster().pid), ("daemon", self._daemon.process.pid))

    def faults(self, sent: int) -> list[str]:
        found = self._daemon.sql(
            "SELECT (SELECT count(*) FROM messages), (SELECT coalesce(sum(last_seq), 0)::bigint FROM rooms),"
            " (SELECT coalesce(sum(message_count), 0)::bigint FROM user_activity)"
        )[0]
        return [
            f"{sent} messages were acknowledged, {count} are {what}"
            for count, what in zip(found, ("stored", "numbered", "counted by the roll-ups"), strict=True)
            if count != sent
        ]

    def stop(self) -> None:
        self._daemon.__exit__()


class _CheckoutDaemon(Daemon):
    def __init__(self, checkout: Path, options: Sequence[str]) -> None:
        super().__init__(*options)
        self._twistd = _twistd(checkout)
        # the code must be the checkout's
        self.environment.pop("PYTHONPATH", None)

    def command(self) -> list[str]:
        return [str(self._twistd), *super().command()[1:]]


def checkouts(given: str, options: Sequence[str]) -> dict[str, tuple[Path, list[str]]]:
    """What ``--chatflow`` names: for each name of a column its directory and the options of its daemon.

    :param given: ``DIRECTORY[ OPTION…][,…]``.
    :param options: of all of them.
    :raises ValueError: there is no daemon in a directory.
    """
    found = {}
    for each in given.split(","):
        directory, *own = shlex.split(each)
        checkout = Path(directory).resolve()
        if not _twistd(checkout).exists():
            raise ValueError(
                f"--chatflow: no .venv/bin/twistd in {checkout}: run scripts/test or scripts/run there once"
            )
        name = " ".join((_name(checkout), *own))
        number = 2
        while name in found:
            name, number = f"{_name(checkout)} ({number})", number + 1
        found[name] = (checkout, [*options, *own])
    return found


def _twistd(checkout: Path) -> Path:
    scripts = Path(sysconfig.get_path("scripts")) if checkout == HERE else checkout / ".venv/bin"
    return scripts / "twistd"


def _name(checkout: Path) -> str:
    asked = subprocess.run(
        ["git", "-C", checkout, "describe", "--always", "--dirty=+"], capture_output=True, text=True, check=False
    )
    return f"{checkout.name}@{asked.stdout.strip() or 'unknown'}"
