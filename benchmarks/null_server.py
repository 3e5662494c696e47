"""A server that does nothing but acknowledge and broadcast: what is measured against it is the client.

It keeps no promise: it validates nothing, stores nothing, and splices what it received into canned bytes. Everything
that arrived within a few milliseconds is answered in one write for each connection, as a server does that commits in
batches.

    python benchmarks/null_server.py [--port 0] [--linger-ms 4]

prints its port.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import uuid
from collections import defaultdict
from typing import Any

from twisted.internet.interfaces import ITCPTransport
from twisted.internet.protocol import Protocol, ServerFactory
from twisted.python.failure import Failure

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, section 1.3
_TIMESTAMP = b"2026-11-23T10:30:00.123456Z"


class NullServer(ServerFactory):
    """:param linger_seconds: how long answers are gathered.

    :ivar members: the connections of each room.
    :ivar received: how many messages came so far; within :meth:`ack` and :meth:`broadcast`, the number of theirs.
    """

    noisy = False

    def __init__(self, reactor: Any, linger_seconds: float = 0.004) -> None:
        self.members: dict[str, list[NullConnection]] = defaultdict(list)
        self.seqs: dict[str, int] = defaultdict(int)
        self.received = 0
        self.connections: set[NullConnection] = set()
        self._reactor = reactor
        self._linger_seconds = linger_seconds
        self._to_broadcast: dict[str, list[bytes]] = {}
        self._to_acknowledge: dict[NullConnection, list[bytes]] = {}
        # the end of a UUID counts up
        self._id_start = str(uuid.uuid4())[:24].encode()

    def buildProtocol(self, addr: object) -> NullConnection:  # type: ignore[override]
        connection = NullConnection()
        connection.factory = self
        return connection

    def response(self, accept: bytes) -> bytes:
        """The answer to a handshake. :param accept: what proves that its key was read."""
        return (
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: %s\r\n\r\n" % accept
        )

    def join(self, member: NullConnection) -> None:
        """The handshake of a member is done."""
        self.members[member.room].append(member)

    def take(self, sender: NullConnection, messages: list[bytes]) -> None:
        """Messages came, as JSON objects: to be acknowledged and broadcast with the others of this moment."""
        if not self._to_acknowledge:
            self._reactor.callLater(self._linger_seconds, self.flush)
        acks = self._to_acknowledge.setdefault(sender, [])
        frames = self._to_broadcast.setdefault(sender.room, [])
        for message in messages:
            self.received += 1
            message_id = b"%s%012x" % (self._id_start, self.received)
            self.seqs[sender.room] += 1
            acks.append(self.ack(message_id, message))
            frames.append(self.broadcast(sender.room, self.seqs[sender.room], message_id, message))

    def ack(self, message_id: bytes, message: bytes) -> bytes:
        return frame(
            b'{"status":"SUCCESS","messageId":"%s","timestamp":"%s","originalMessage":%s}'
            % (message_id, _TIMESTAMP, message)
        )

    def broadcast(self, room: str, seq: int, message_id: bytes, message: bytes) -> bytes:
        return frame(
            b'{"messageId":"%s","roomId":"%s","seq":%d,%s,"serverId":"null"}'
            % (message_id, room.encode(), seq, message[1:-1])
        )

    def flush(self) -> None:
        """Send everything that has gathered."""
        acknowledge, self._to_acknowledge = self._to_acknowledge, {}
        broadcast, self._to_broadcast = self._to_broadcast, {}
        for sender, acks in acknowledge.items():
            sender.transport.write(b"".join(acks))
        for room, frames in broadcast.items():
            self.deliver(room, frames)

    def deliver(self, room: str, frames: list[bytes]) -> None:
        """Broadcast frames to all members of the room."""
        block = b"".join(frames)
        for member in self.members[room]:
            member.transport.write(block)


class NullConnection(Protocol):
    """Understands just enough of RFC 6455: a handshake, masked text frames, and a close frame."""

    transport: ITCPTransport
    factory: NullServer

    def __init__(self) -> None:
        self.room = self.query = ""
        self._rest = b""

    def connectionMade(self) -> None:
        self.factory.connections.add(self)
        self.transport.setTcpNoDelay(True)

    def dataReceived(self, data: bytes) -> None:
        self._rest += data
        if not self.room and not self._shake():
            return
        messages = self._take_frames()
        if messages:
            self.factory.take(self, messages)

    def _shake(self) -> bool:
        head, end, self._rest = self._rest.partition(b"\r\n\r\n")
        if not end:
            self._rest = head
            return False
        request, *lines = head.decode("ascii").split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines)
        digest = hashlib.sha1(headers["Sec-WebSocket-Key"].encode() + _GUID).digest()
        self.transport.write(self.factory.response(base64.b64encode(digest)))
        self.room, _, self.query = request.split()[1].rpartition("/")[2].partition("?")
        self.factory.join(self)
        return True

    def _take_frames(self) -> list[bytes]:
        data, at, messages = self._rest, 0, []
        while len(data) - at >= 6:
            length, start = data[at + 1] & 0x7F, at + 2
            if length == 126:
                length, start = int.from_bytes(data[at + 2 : at + 4], "big"), at + 4
            end = start + 4 + length
            if len(data) < end:
                break
            payload = unmask(data[start : start + 4], data[start + 4 : end])
            if data[at] == 0x81:
                messages.append(payload)
            else:
                self.control_frame(data[at] & 0x0F, payload)
            at = end
        self._rest = data[at:]
        return messages

    def control_frame(self, opcode: int, payload: bytes) -> None:
        if opcode == 0x8:
            self.transport.write(frame(payload, opcode))
            self.transport.loseConnection()

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        self.factory.connections.discard(self)
        if self.room:
            self.factory.members[self.room].remove(self)


def frame(payload: bytes, opcode: int = 0x1) -> bytes:
    """A final frame, not masked."""
    length = len(payload)
    if length < 126:
        return b"%c%c" % (0x80 | opcode, length) + payload
    return b"%c~%c%c" % (0x80 | opcode, length >> 8, length & 255) + payload


def unmask(key: bytes, payload: bytes) -> bytes:
    """RFC 6455, 5.3."""
    length = len(payload)
    mask = int.from_bytes((key * (length // 4 + 1))[:length], "little")
    return (int.from_bytes(payload, "little") ^ mask).to_bytes(length, "little")


def main() -> None:
    """Serve until killed."""
    from twisted.internet import reactor as _reactor

    reactor: Any = _reactor
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--linger-ms", type=float, default=4.0)
    arguments = parser.parse_args()
    server = NullServer(reactor, arguments.linger_ms / 1000)
    port = reactor.listenTCP(arguments.port, server, backlog=1024, interface="127.0.0.1")
    print(port.getHost().port, flush=True)
    reactor.run()


if __name__ == "__main__":
    main()
