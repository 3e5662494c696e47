"""A room of virtual clients in memory: what they write is read here, what they are to receive is handed to them."""

from __future__ import annotations

import json
from typing import Any

from twisted.internet.defer import fail
from twisted.internet.testing import StringTransportWithDisconnection

from benchmarks.null_server import frame, unmask
from chatflow.load import wire
from chatflow.load.client import LoadClient
from chatflow.load.client_session import Session
from chatflow.load.connection import LoadConnection
from chatflow.load.output import KeptAcks
from chatflow.load.recorder import Recorder
from chatflow.load.roomlog import RoomLog
from chatflow.load.scenario import Settings, VirtualClient, kinds
from chatflow.load.wall_clock import Clock

RUN = "run"


class Transport(StringTransportWithDisconnection):
    """As a TCP connection's, as far as the client uses it."""

    def setTcpNoDelay(self, enabled: bool) -> None:
        pass


class Room:
    """Room 7, with as many virtual clients as *shares*, each of which sends so many messages.

    :param first_client: the number of the first one.

    :ivar now_us: the time; tests move it.
    """

    def __init__(
        self,
        *shares: int,
        in_flight: int = 50,
        rate: float | None = None,
        handshake: bool = True,
        begun: bool = True,
        first_client: int = 0,
    ) -> None:
        self.now_us = 1_000_000
        settings = Settings(run=RUN, in_flight=in_flight, rate=rate)
        plans = [
            VirtualClient(first_client + index, "ws://127.0.0.1:9/chat", 7, share) for index, share in enumerate(shares)
        ]
        table = kinds(settings.mix)
        self.kept = KeptAcks(ids=True, lines=True)
        self.recorder = Recorder("main", Clock(lambda: self.now_us, 0), table, self.kept)
        if begun:
            self.recorder.begin(self.now_us)
        self.tally = self.recorder.tally
        self.log = RoomLog(7, RUN, plans, first_client, table, self.tally)
        self.clients = [
            LoadClient(Session(plan, settings, self.log, self.recorder, table), lambda _: fail(NotImplementedError()))
            for plan in plans
        ]
        self.connections = [client.connection for client in self.clients]
        self.sessions = [client.session for client in self.clients]
        for connection in self.connections:
            transport = Transport()
            transport.protocol = connection
            connection.makeConnection(transport)
            if handshake:
                connection.dataReceived(handshake_response(connection))
                transport.clear()

    def sent(self, index: int = 0) -> list[bytes]:
        """The messages that this connection wrote since it was asked last."""
        return [payload for opcode, payload in self.frames(index) if opcode == wire.TEXT]

    def frames(self, index: int = 0) -> list[tuple[int, bytes]]:
        """Opcode and payload of all it wrote since it was asked last."""
        transport: Any = self.connections[index].transport
        data = transport.value()
        transport.clear()
        return unmasked_frames(data)


def handshake_response(connection: LoadConnection) -> bytes:
    """What a server answers to the request that the connection wrote."""
    request: bytes = connection.transport.value()  # type: ignore[attr-defined]
    key = request.decode().split("Sec-WebSocket-Key: ")[1].split("\r\n")[0]
    return (
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Accept: {wire.accept_for(key)}\r\n\r\n"
    ).encode()


def unmasked_frames(data: bytes) -> list[tuple[int, bytes]]:
    """Opcode and payload of each of a client's frames."""
    found = []
    while data:
        length, start = data[1] & 0x7F, 2
        if length == 126:
            length, start = int.from_bytes(data[2:4], "big"), 4
        end = start + 4 + length
        found.append((data[0] & 0x0F, unmask(data[start : start + 4], data[start + 4 : end])))
        data = data[end:]
    return found


def message_id(number: int) -> str:
    return f"018f3c5e-7b1a-7c3d-9e4f-{number:012x}"


def ack(number: int, message: bytes) -> bytes:
    """The ack of a message. :param number: of its id."""
    return frame(
        json.dumps(
            {
                "status": "SUCCESS",
                "messageId": message_id(number),
                "timestamp": "2026-11-23T10:30:00Z",
                "originalMessage": json.loads(message),
            },
            separators=(",", ":"),
        ).encode()
    )


def broadcast(seq: int, number: int, sent: bytes, /, **changed: object) -> bytes:
    """The broadcast of a message. :param changed: fields that are not as they should be."""
    fields = {"messageId": message_id(number), "roomId": "7", "seq": seq, **json.loads(sent), "serverId": "s"}
    return frame(json.dumps({**fields, **changed}, separators=(",", ":")).encode())
