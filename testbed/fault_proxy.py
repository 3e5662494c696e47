"""A proxy in front of an SQS and SNS emulator that makes calls fail as networks and AWS make them fail.

Run it with ``python -m testbed.fault_proxy --to http://127.0.0.1:4566 --port 4577 --seed 7 'Send*:drop=0.05'``,
or in a thread of a test::

    with FaultProxy(emulator.url) as proxy:
        proxy.set_rules("SendMessageBatch:drop=1,times=1")

What happens to calls is in :mod:`testbed.faults`. While it runs, ``curl URL/_faults`` shows the rules and what
they did, and ``curl -X PUT --data-binary '*:fail=0.1' URL/_faults?seed=7`` replaces them, one rule a line.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import socket
import struct
import threading
from collections.abc import Iterable
from urllib.parse import parse_qs, urlsplit

from attrs import frozen

from testbed.aws_wire import Call
from testbed.faults import KINDS, Faults

_CONTROL_PATH = "/_faults"
_MAX_HEAD_BYTES = 65_536


class FaultProxy:
    """Listens on loopback, in a thread between ``start`` and ``stop``, or in the foreground in :meth:`run`.

    Each connection of a client has one of its own to the emulator, so that closing one closes the other.

    :ivar faults: what it does and did.
    """

    def __init__(self, upstream_url: str, *, rules: Iterable[str] = (), seed: int = 0, port: int = 0):
        upstream = urlsplit(upstream_url)
        self._upstream = (upstream.hostname or "127.0.0.1", upstream.port or 80)
        self.port = port
        self.faults = Faults()
        self.faults.set_rules(rules, seed)
        self._listening = threading.Event()
        self._thread: threading.Thread | None = None
        self._loop = asyncio.new_event_loop()
        self._stopped: asyncio.Event | None = None

    def __enter__(self) -> FaultProxy:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def set_rules(self, *rules: str, seed: int | None = None) -> None:
        """See :meth:`Faults.set_rules`; without any, calls pass unharmed."""
        self.faults.set_rules(rules, seed)

    def injected(self, operation: str, kind: str) -> int:
        """How often that happened."""
        return self.faults.injected[operation, kind]

    def start(self) -> None:
        """Listen, in a thread."""
        self._thread = threading.Thread(target=self._run_in_thread, name="fault proxy", daemon=True)
        self._thread.start()
        if not self._listening.wait(30):
            raise RuntimeError("the fault proxy cannot listen")

    def stop(self) -> None:
        """Close every connection and end the thread."""
        if self._thread is not None and self._stopped is not None:
            self._loop.call_soon_threadsafe(self._stopped.set)
            self._thread.join()

    def _run_in_thread(self) -> None:
        with contextlib.closing(self._loop):
            self._loop.run_until_complete(self.run())

    async def run(self) -> None:
        """Serve until :meth:`stop`, or for ever."""
        self._stopped = asyncio.Event()
        connections: set[asyncio.Task[None]] = set()

        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            connections.add(task)
            try:
                await _Connection(self.faults, self._upstream, reader, writer).serve()
            finally:
                connections.discard(task)

        server = await asyncio.start_server(connected, "127.0.0.1", self.port, limit=_MAX_HEAD_BYTES)
        self.port = server.sockets[0].getsockname()[1]
        self._listening.set()
        await self._stopped.wait()
        server.close()
        for task in connections:
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)


@frozen
class _Message:
    """A request or an answer. ``start``: its first line; ``headers``: as they came; names in lower case by ``get``."""

    start: str
    headers: tuple[tuple[str, str], ...]
    body: bytes = b""

    @classmethod
    async def read(cls, reader: asyncio.StreamReader) -> _Message:
        """The next one; both sides state the length of every body.

        :raises EOFError: the connection was closed first.
        """
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        start, *lines = head.rstrip("\r\n").split("\r\n")
        headers = tuple((name, value.strip()) for name, _, value in (line.partition(":") for line in lines))
        message = cls(start, headers)
        length = int(message.get().get("content-length", "0"))
        return cls(start, headers, await reader.readexactly(length))

    def get(self) -> dict[str, str]:
        return {name.lower(): value for name, value in self.headers}

    def with_body(self, body: bytes) -> _Message:
        headers = tuple((name, value) for name, value in self.headers if name.lower() != "content-length")
        return _Message(self.start, (*headers, ("Content-Length", str(len(body)))), body)

    def encoded(self) -> bytes:
        lines = [self.start, *(f"{name}: {value}" for name, value in self.headers), "", ""]
        return "\r\n".join(lines).encode("latin-1") + self.body


def _answer(status: int, content_type: str, body: bytes) -> _Message:
    return _Message(f"HTTP/1.1 {status} Injected", (("Content-Type", content_type),)).with_body(body)


class _Connection:
    """One client's connection and its own to the emulator."""

    def __init__(
        self,
        faults: Faults,
        upstream: tuple[str, int],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._faults = faults
        self._upstream = upstream
        self._reader = reader
        self._writer = writer
        self._onward: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def serve(self) -> None:
        """Answer requests until either side closes."""
        try:
            while True:
                request = await _Message.read(self._reader)
                if request.start.split(" ")[1].startswith(_CONTROL_PATH):
                    answer: _Message | None = self._control(request)
                else:
                    answer = await self._pass_on(request)
                if answer is None:
                    return
                self._writer.write(answer.encoded())
                await self._writer.drain()
        except (EOFError, OSError, asyncio.CancelledError):
            pass  # closed by a side, or by the end of the proxy
        finally:
            self._writer.close()
            if self._onward is not None:
                self._onward[1].close()

    async def _pass_on(self, request: _Message) -> _Message | None:
        """The answer to a call, or None where there shall be none."""
        call = Call.of(request.get(), request.body)
        fate = self._faults.fate(call.operation, call.queue)
        if fate.delay_seconds:
            await asyncio.sleep(fate.delay_seconds)
        answer = await self._carry_out(request, call, fate.kind)
        if fate.answer_seconds:
            await asyncio.sleep(fate.answer_seconds)
        return answer

    async def _carry_out(self, request: _Message, call: Call, kind: str | None) -> _Message | None:
        if kind == "reset":
            # Closing with this option sends RST, see socket(7), SO_LINGER.
            transport = self._writer.get_extra_info("socket")
            transport.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return None
        if kind == "fail":
            status, body = call.server_error()
            return _answer(status, call.content_type, body)
        if kind == "throttle":
            status, body = call.throttled()
            return _answer(status, call.content_type, body)
        if kind == "partial":
            return await self._pass_on_in_part(request, call)
        answer = await self._ask(request)
        return None if kind == "drop" else answer

    async def _pass_on_in_part(self, request: _Message, call: Call) -> _Message:
        left, failed = call.without_every_second_entry()
        if left is None:
            return _answer(200, call.content_type, call.with_failed(None, failed))
        answer = await self._ask(request.with_body(left.body))
        if not failed or " 200 " not in answer.start:
            return answer
        return answer.with_body(call.with_failed(answer.body, failed))

    async def _ask(self, request: _Message) -> _Message:
        if self._onward is None or self._onward[0].at_eof():
            self._onward = await asyncio.open_connection(*self._upstream, limit=_MAX_HEAD_BYTES)
        reader, writer = self._onward
        writer.write(request.encoded())
        return await _Message.read(reader)

    def _control(self, request: _Message) -> _Message:
        method, target, _ = request.start.split(" ")
        if method == "PUT":
            seed = parse_qs(urlsplit(target).query).get("seed")
            try:
                self._faults.set_rules(filter(None, request.body.decode().split()), int(seed[0]) if seed else None)
            except ValueError as error:
                return _answer(400, "text/plain", f"{error}\n".encode())
        state = {
            "rules": [str(rule) for rule in self._faults.rules],
            "seed": self._faults.seed,
            "calls": dict(self._faults.calls),
            "injected": {f"{operation} {kind}": count for (operation, kind), count in self._faults.injected.items()},
        }
        return _answer(200, "application/json", json.dumps(state, indent=1).encode() + b"\n")


def main() -> None:
    """Serve in the foreground until interrupted."""
    parser = argparse.ArgumentParser(
        description="Pass calls on to an SQS and SNS emulator, and let some of them fail.",
        epilog="A rule is OPERATION:NAME=VALUE,...; names are delay_ms, times, and probabilities of: "
        + "; ".join(f"{kind} ({meaning})" for kind, meaning in KINDS.items()),
    )
    parser.add_argument("--to", required=True, metavar="URL", help="the emulator")
    parser.add_argument("--port", type=int, default=0, help="where to listen on loopback; 0: any free port")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("rules", nargs="*", metavar="RULE", help="for example '*MessageBatch:drop=0.05,delay_ms=500'")
    arguments = parser.parse_args()
    proxy = FaultProxy(arguments.to, rules=arguments.rules, seed=arguments.seed, port=arguments.port)
    proxy.start()
    print(f"listening on {proxy.url}", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        threading.Event().wait()
    proxy.stop()


if __name__ == "__main__":
    main()
