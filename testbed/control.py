"""How other programs steer a cluster that runs: ``scripts/deploy --local``, by a socket that only its user can open.

A request is one line of JSON, ``{"do": NAME, ...}``, and so is the answer: ``{"answer": ...}`` or ``{"error": TEXT}``.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import socketserver
import stat
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

#: A wheel may have to be unpacked meanwhile.
_ANSWER_SECONDS = 120.0
_REQUEST_SECONDS = 5.0
_MAX_REQUEST_BYTES = 65_536


class ControlError(Exception):
    """A cluster cannot do, or cannot be asked. The text is one line."""


class ControlSocket:
    """Answers requests in a thread of its own, one after the other, until it is closed.

    :param number: tells clusters on this machine apart; who is already called so is gone.
    :param answer: what a request asks, in that thread; what it raises of :class:`ControlError` is told.
    :raises ControlError: there cannot be a socket.
    """

    def __init__(self, number: int, answer: Callable[[dict[str, Any]], object]) -> None:
        directory = _directory()
        with contextlib.suppress(FileExistsError):
            directory.mkdir(mode=0o700)
        found = directory.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
            raise ControlError(f"{directory} is not a directory of this user alone: remove it")
        self._path = directory / f"{number}.socket"
        self._path.unlink(missing_ok=True)

        class Handler(socketserver.StreamRequestHandler):
            timeout = _REQUEST_SECONDS

            def handle(self) -> None:
                try:
                    line = self.rfile.readline(_MAX_REQUEST_BYTES)
                    if not line:  # who only looks whether anybody listens
                        return
                    reply = {"answer": answer(json.loads(line))}
                except (ControlError, ValueError) as error:
                    reply = {"error": str(error)}
                except OSError:
                    return
                with contextlib.suppress(OSError):  # who asked has gone
                    self.wfile.write(json.dumps(reply).encode() + b"\n")

        try:
            self._server = socketserver.UnixStreamServer(str(self._path), Handler)
        except OSError as error:
            raise ControlError(f"{self._path}: {error}") from error
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="control", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Finish the request under way, and remove the socket."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self._path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # of other clusters
            self._path.parent.rmdir()


def clusters() -> list[int]:
    """The numbers of this user's clusters that run on this machine."""
    found = []
    for path in sorted(_directory().glob("*.socket")):
        with socket.socket(socket.AF_UNIX) as probe, contextlib.suppress(OSError):
            probe.connect(str(path))
            found.append(int(path.stem))
    return found


def ask(number: int, what: str, **more: object) -> Any:
    """What a cluster answers.

    :raises ControlError: it refuses, or is gone.
    """
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(_ANSWER_SECONDS)
            connection.connect(str(_directory() / f"{number}.socket"))
            connection.sendall(json.dumps({"do": what, **more}).encode() + b"\n")
            with connection.makefile("rb") as stream:
                reply = json.loads(stream.readline())
    except (OSError, ValueError) as error:
        raise ControlError(f"the cluster on port {number} does not answer: {error}") from error
    if "error" in reply:
        raise ControlError(reply["error"])
    return reply["answer"]


def _directory() -> Path:
    return Path(tempfile.gettempdir()) / f"chatflow-clusters-{os.getuid()}"
