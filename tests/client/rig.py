"""A client whose server, network and clock the test plays: Twisted's reactor in memory, and frames as bytes."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import txaio
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure

from chatflow.client import ChatClient, Message, State
from chatflow.edge.frames import take_text_frames, text_frame
from tests.support.transport import Transport

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 1.3
_OPCODES = {0x88: "close", 0x89: "ping", 0x8A: "pong"}
_MASKED_BYTES = 6


class Server:
    """The other end of one connection. What the client sent is read with :meth:`messages` and :meth:`controls`."""

    def __init__(self, factory: Any) -> None:
        self.protocol = factory.buildProtocol(None)
        self.transport = Transport()
        self.protocol.makeConnection(self.transport)
        self.request = self.transport.value().decode()
        self.transport.clear()
        self._controls: list[str] = []

    @property
    def address(self) -> str:
        """What the client asked for."""
        return str(self.request.split()[1])

    def answer(self, status: str, body: dict[str, Any]) -> None:
        """Refuse the handshake."""
        self.protocol.dataReceived(f"HTTP/1.1 {status}\r\n\r\n".encode() + json.dumps(body).encode())
        self.lose()

    def accept(self, *, v2: bool = True) -> None:
        """The handshake succeeds."""
        found = re.search("Sec-WebSocket-Key: (.*)\r\n", self.request)
        assert found is not None
        accept = base64.b64encode(hashlib.sha1(found[1].encode() + _GUID).digest()).decode()
        lines = ["HTTP/1.1 101 Ok", "Upgrade: websocket", "Connection: Upgrade", f"Sec-WebSocket-Accept: {accept}"]
        if v2:
            lines.append("Sec-WebSocket-Protocol: chatflow.v2")
        self.protocol.dataReceived("\r\n".join([*lines, "", ""]).encode())

    def welcome(self, head: int = 0, *, max_frame_bytes: int = 16384) -> None:
        """Accept, and greet as chatflow.v2 does."""
        self.accept()
        self.deliver({"type": "welcome", "head": head, "limits": {"maxFrameBytes": max_frame_bytes}})

    def deliver(self, *frames: dict[str, Any]) -> None:
        """Send frames, in one piece."""
        self.protocol.dataReceived(b"".join(text_frame(json.dumps(frame).encode()) for frame in frames))

    def broadcast(self, *seqs: int, message_id: str | None = None) -> None:
        """Send messages with these numbers, in one piece."""
        self.deliver(*[broadcast(seq, message_id or f"id {seq}") for seq in seqs])

    def acknowledge(self, *messages: dict[str, Any]) -> None:
        """Say that these are durable."""
        self.deliver(*[acknowledgement(message) for message in messages])

    def refuse(self, *codes: str, **more: Any) -> None:
        """Answer with errors. :param more: fields of them."""
        self.deliver(*[{"status": "ERROR", "code": code, "errorMessage": f"{code} it is", **more} for code in codes])

    def messages(self) -> list[dict[str, Any]]:
        """What the client sent since the last call."""
        data, found = self.transport.value(), []
        while data:
            payloads, taken = take_text_frames(data, 1 << 20)
            found += [json.loads(payload) for payload in payloads]
            data = data[taken:]
            if data:
                self._controls.append(_OPCODES[data[0]])
                data = data[_MASKED_BYTES + (data[1] & 0x7F) :]
        self.transport.clear()
        return found

    def controls(self) -> list[str]:
        """The control frames since the last call."""
        assert self.messages() == []
        found, self._controls = self._controls, []
        return found

    @property
    def is_read(self) -> bool:
        """Whether the client takes what is sent."""
        return self.transport.producerState == "producing"

    def lose(self, *, cleanly: bool = False) -> None:
        """The connection is gone."""
        self.protocol.connectionLost(Failure(ConnectionDone() if cleanly else ConnectionLost()))

    def close(self, code: int, reason: str) -> None:
        """Send a close frame, and end the connection once the client has answered it."""
        payload = code.to_bytes(2, "big") + reason.encode()
        self.protocol.dataReceived(bytes([0x88, len(payload)]) + payload)
        self.lose(cleanly=True)

    def ping(self) -> None:
        """Ask whether it lives."""
        self.protocol.dataReceived(b"\x89\x00")


class ClientRig:
    """Clients and their servers. Pauses are as long as they may be."""

    def __init__(self) -> None:
        self.reactor = MemoryReactorClock()
        self.states: list[State] = []

    def client(self, **options: Any) -> ChatClient:
        """One that has begun to connect."""
        given: dict[str, Any] = {"user_id": 7, "username": "ann", "uniform": lambda least, most: most} | options
        given.setdefault("on_state", self.states.append)
        return ChatClient(self.reactor, "ws://127.0.0.1:80", 1, now=self.reactor.seconds, **given).start()

    def server(self) -> Server:
        """The newest connection's other end."""
        assert self.reactor.tcpClients, "nobody connects"
        server = Server(self.reactor.tcpClients[-1][2])
        self.reactor.tcpClients.clear()
        return server

    @property
    def connects(self) -> bool:
        """Whether a connection was asked for since :meth:`server`."""
        return bool(self.reactor.tcpClients)

    def advance(self, seconds: float) -> None:
        """Time passes."""
        self.reactor.pump([0.25] * round(seconds * 4))  # exact in binary


@contextmanager
def rigged() -> Iterator[ClientRig]:
    """A rig whose clock Autobahn's timers follow meanwhile."""
    rig = ClientRig()
    config: Any = txaio.config  # type: ignore[attr-defined]
    before, config.loop = config.loop, rig.reactor
    try:
        yield rig
    finally:
        config.loop = before


class Outcome:
    """What became of a call."""

    def __init__(self, coroutine: Any) -> None:
        self.result: Any = None
        self.error: Exception | None = None
        Deferred.fromCoroutine(coroutine).addCallbacks(self._done, self._failed)

    @property
    def is_open(self) -> bool:
        return self.result is None and self.error is None

    def _done(self, result: Any) -> None:
        self.result = result

    def _failed(self, failure: Failure) -> None:
        assert isinstance(failure.value, Exception)
        self.error = failure.value


class Taker:
    """Takes what a client hands on."""

    def __init__(self, client: ChatClient) -> None:
        self.seqs: list[int] = []
        self.end = Outcome(self._take(client))

    async def _take(self, client: ChatClient) -> bool:
        async for event in client:
            if isinstance(event, Message):
                self.seqs.append(event.seq)
        return True


def broadcast(seq: int, message_id: str, user_id: str = "7") -> dict[str, Any]:
    """A message of the room."""
    return {
        "messageId": message_id, "roomId": "1", "seq": seq, "userId": user_id, "username": "ann", "message": "Hello",
        "timestamp": "2026-11-23T10:30:00Z", "messageType": "TEXT", "serverId": "s",
    }  # fmt: skip


def acknowledgement(message: dict[str, Any]) -> dict[str, Any]:
    """Of what a client sent; the message's id tells its text."""
    return {"status": "SUCCESS", "messageId": f"of {message['message']}", "originalMessage": message}
