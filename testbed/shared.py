"""What the processes of one test run share: the first that asks has it made, in the process that began the run.

A question is a name on a Unix socket, the answer a line. Where no run has begun this way, everybody makes their own.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

_ADDRESS = "TESTBED_SHARED"

# Addresses at which this process answers: it asks nobody.
_own: set[str] = set()


def share(directory: Path, makers: Mapping[str, Callable[[], str]]) -> None:
    """Answer, in a thread, what processes ask that this one starts from now on.

    :param directory: for the socket.
    :param makers: by name; each is asked once at a time, and remembers by itself what it has made.
    """
    listener = socket.socket(socket.AF_UNIX)
    address = str(directory / "shared")
    listener.bind(address)
    listener.listen(64)
    _own.add(address)
    os.environ[_ADDRESS] = address

    def answer_in_thread() -> None:
        while True:
            connection, _ = listener.accept()
            with connection, contextlib.suppress(OSError):  # who asked has gone
                name = connection.recv(100).decode()
                try:
                    answer = makers[name]()
                except Exception as failure:  # told to who asked, whose test then fails
                    answer = f"!{failure!r}"
                connection.sendall(answer.encode())

    threading.Thread(target=answer_in_thread, name="shared servers", daemon=True).start()


def shared(name: str) -> str | None:
    """What is answered; None where nothing is shared.

    :raises RuntimeError: it could not be made.
    """
    address = os.environ.get(_ADDRESS)
    if address is None or address in _own:
        return None
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(address)
        connection.sendall(name.encode())
        answer = b"".join(iter(lambda: connection.recv(65_536), b"")).decode()
    if answer.startswith("!"):
        raise RuntimeError(f"{name}: {answer[1:]}")
    return answer
