"""How each system is spoken to: just enough of its protocol to send prebuilt bytes and to count what comes back.

Every message is the same JSON object for all of them, with ``MARK`` in its text. An acknowledgement is told by a
string that is in nothing else that comes, a delivery by the mark.
"""

from __future__ import annotations

import base64
import os
import random

import attrs

#: In the text of every message. The longer and the rarer its letters, the less it costs to search for it.
MARK = b"QVWXYKJ.QVWXYKJ."
TEXT, BINARY = 0x81, 0x82


@attrs.frozen
class Wire:
    """A protocol over WebSocket.

    :ivar path: of the handshake. Here and below ``{room}`` stands for the room, ``{member}`` for the connection.
    :ivar greetings: what is sent after the handshake, each with what is waited for before the next one.
    :ivar before: of a message: what stands before its JSON object, of so many ``{bytes}``; ``{id}`` is its number.
    :ivar after: and behind it.
    :ivar ack: what only an acknowledgement has.
    :ivar echoes: whether an acknowledgement repeats the message, and so the mark.
    :ivar first_byte: of a frame: FIN and the opcode.
    """

    path: str
    ack: bytes
    greetings: tuple[tuple[str, bytes], ...] = ()
    before: str = ""
    after: str = ""
    echoes: bool = False
    first_byte: int = TEXT

    def handshake(self, port: int, room: int, query: str = "") -> bytes:
        """The request that opens the WebSocket."""
        key = base64.b64encode(os.urandom(16)).decode()
        return (
            f"GET {self.path.format(room=room)}{query} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n"
        ).encode()

    def frame(self, text: str) -> bytes:
        """A masked frame of at most 64 KB."""
        payload = text.encode()
        key, length = os.urandom(4), len(payload)
        head = bytes([self.first_byte, 0x80 | length]) if length < 126 else bytes([self.first_byte, 0xFE])
        size = b"" if length < 126 else length.to_bytes(2, "big")
        mask = int.from_bytes((key * (length // 4 + 1))[:length], "big")
        return head + size + key + (int.from_bytes(payload, "big") ^ mask).to_bytes(length, "big")

    def greeting(self, payload: str, room: int, member: str) -> bytes:
        """A frame of :attr:`greetings`."""
        return self.frame(payload.replace("{room}", str(room)).replace("{member}", member))

    def message(self, room: int, member: str, number: int) -> bytes:
        """A frame with a message of some user."""
        user = random.randint(10_000, 99_999)
        body = (
            f'{{"userId":"{user}","username":"user{user}","message":"Shall we ship it? {MARK.decode()} {number:06}",'
            '"timestamp":"2026-11-23T10:30:00.123456789Z","messageType":"TEXT"}'
        )
        names = {"{room}": str(room), "{member}": member, "{id}": str(number + 10), "{bytes}": str(len(body))}
        before, after = self.before, self.after
        for name, value in names.items():
            before, after = before.replace(name, value), after.replace(name, value)
        return self.frame(before + body + after)


CHATFLOW = Wire(path="/chat/{room}", ack=b'"status":"SUCCESS"', echoes=True)

#: Its acknowledgement is an option of its protocol: +OK for everything that it has taken.
_NATS_CONNECT = (
    'CONNECT {"verbose":%s,"pedantic":false,"echo":true,"lang":"bytes","version":"1","protocol":1}\r\n'
    "SUB room.{room} 1\r\nSUB acks.{member} 2\r\nPING\r\n"
)
NATS = Wire(
    path="/",
    greetings=(("", b"INFO"), (_NATS_CONNECT % "true", b"PONG")),
    before="PUB room.{room} {bytes}\r\n",
    after="\r\n",
    ack=b"+OK\r\n",
    first_byte=BINARY,
)
JETSTREAM = attrs.evolve(
    NATS,
    greetings=(("", b"INFO"), (_NATS_CONNECT % "false", b"PONG")),
    before="PUB room.{room} acks.{member} {bytes}\r\n",
    ack=b'{"stream":"',
)
CENTRIFUGO = Wire(
    path="/connection/websocket",
    greetings=(
        ('{"id":1,"connect":{}}', b'"id":1'),
        ('{"id":2,"subscribe":{"channel":"room:{room}"}}', b'"id":2'),
    ),
    before='{"id":{id},"publish":{"channel":"room:{room}","data":',
    after="}}",
    ack=b'"publish":{}',
)
SOCKET_IO = Wire(
    path="/socket.io/?EIO=4&transport=websocket&room={room}",
    greetings=(("", b'0{"sid"'), ("40", b'40{"sid"')),
    before='42{id}["message",',
    after="]",
    ack=b'["ACKNOWLEDGED"]',
)

WIRES = {"chatflow": CHATFLOW, "nats": NATS, "jetstream": JETSTREAM, "centrifugo": CENTRIFUGO, "socket.io": SOCKET_IO}
