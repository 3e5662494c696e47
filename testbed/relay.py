"""A connection's way through somebody between: it can stand still in one direction, be slow, lose packets, or be cut.

::

    with Relay(listen("127.0.0.1", None), lambda: dial_unix(path)) as relay:
        relay.stall(to_target=True)     # half-open: nobody is told
        relay.heal()
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Self

from testbed.namespaces import inside

_CHUNK_BYTES = 1 << 16
# How long TCP waits before it sends again what was lost: Linux' least retransmission timeout, tcp(7).
_RETRANSMISSION_SECONDS = 0.2
_POLL_SECONDS = 0.02


class Relay:
    """Runs in a thread of its own while it is a context. Its methods may be called from any thread.

    :param listener: where clients come; it is closed in the end.
    :param dial: makes a connected socket to the target; called in the relay's thread.
    :param seed: of the loss.
    :ivar port: where clients come. :ivar connections: that are open now.
    """

    def __init__(self, listener: socket.socket, dial: Callable[[], socket.socket], *, seed: int = 0) -> None:
        self.port: int = listener.getsockname()[1]
        self.connections = 0
        self._listener = listener
        self._dial = dial
        self._random = random.Random(seed)
        self._stalled = {True: False, False: False}  # by whether it is the way to the target
        self._delay_seconds = self._loss = 0.0
        self._refuses = False
        self._pairs: set[tuple[socket.socket, socket.socket]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=[self._serve()], daemon=True)
        self._stopped = asyncio.Event()

    def __enter__(self) -> Self:
        self._listener.setblocking(False)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join()
        self._loop.close()
        self._listener.close()

    def stall(self, *, to_target: bool = False, from_target: bool = False) -> None:
        """Nothing goes that way any more, and nobody is told."""
        self._stalled[True] |= to_target
        self._stalled[False] |= from_target

    def disturb(self, delay_seconds: float, loss: float) -> None:
        """Everything is late by so much, and a share of it by another retransmission timeout."""
        self._delay_seconds, self._loss = delay_seconds, loss

    def cut(self) -> None:
        """No connection lives, and new ones are closed at once."""
        self._refuses = True
        self._loop.call_soon_threadsafe(self._close_all)

    def heal(self) -> None:
        """End of all that."""
        self._stalled = {True: False, False: False}
        self._delay_seconds = self._loss = 0.0
        self._refuses = False

    def _close_all(self) -> None:
        for pair in tuple(self._pairs):
            for end in pair:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    async def _serve(self) -> None:
        accepting = asyncio.create_task(self._accept())
        await self._stopped.wait()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        accepting.cancel()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _accept(self) -> None:
        tasks: set[asyncio.Task[None]] = set()
        while True:
            client, _ = await self._loop.sock_accept(self._listener)
            task = asyncio.create_task(self._connected(client))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    async def _connected(self, client: socket.socket) -> None:
        with client:
            if self._refuses:
                return
            try:
                target = await self._loop.run_in_executor(None, self._dial)
            except OSError:
                return
            with target:
                for end in (client, target):
                    end.setblocking(False)
                self._pairs.add((client, target))
                self.connections += 1
                try:
                    await asyncio.gather(self._pass_on(client, target, True), self._pass_on(target, client, False))
                finally:
                    self.connections -= 1
                    self._pairs.discard((client, target))

    async def _pass_on(self, source: socket.socket, sink: socket.socket, to_target: bool) -> None:
        """Each piece in turn; a piece that is late keeps those behind it waiting from its own time on only."""
        pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(64)
        writing = asyncio.create_task(self._write(pieces, sink, to_target))
        try:
            with contextlib.suppress(OSError):
                while data := await self._loop.sock_recv(source, _CHUNK_BYTES):
                    late_seconds = self._delay_seconds
                    while self._loss and self._random.random() < self._loss:
                        late_seconds += _RETRANSMISSION_SECONDS
                    await pieces.put((self._loop.time() + late_seconds, data))
            await pieces.put((0.0, b""))
            await writing
        finally:
            writing.cancel()

    async def _write(self, pieces: asyncio.Queue[tuple[float, bytes]], sink: socket.socket, to_target: bool) -> None:
        with contextlib.suppress(OSError):
            while True:
                due, data = await pieces.get()
                await asyncio.sleep(max(0.0, due - self._loop.time()))
                while self._stalled[to_target]:
                    await asyncio.sleep(_POLL_SECONDS)
                if not data:
                    sink.shutdown(socket.SHUT_WR)
                    return
                await self._loop.sock_sendall(sink, data)
        with contextlib.suppress(asyncio.CancelledError):
            while (await pieces.get())[1]:  # nobody takes it any more
                pass


def dial_tcp(address: str, port: int, namespace: Path | None = None) -> socket.socket:
    """Connect from there."""
    with inside(namespace):
        one = socket.socket()
    one.settimeout(10.0)
    try:
        one.connect((address, port))
    except OSError:
        one.close()
        raise
    return one


def dial_unix(path: str) -> socket.socket:
    """Connect to a socket in the file system."""
    one = socket.socket(socket.AF_UNIX)
    try:
        one.connect(path)
    except OSError:
        one.close()
        raise
    return one
