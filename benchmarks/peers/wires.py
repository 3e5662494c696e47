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

    :ivar path: of the handshake; ``{room}`` stands for the room.
    :ivar greetings: what is sent after the handshake, each with what is waited for before the next one.
    :ivar before: of a message: what stands before its JSON object; ``{id}`` is its number.
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

    def message(self, room: int, number: int) -> bytes:
        """A frame with a message of some user."""
        user = random.randint(10_000, 99_999)
        body = (
            f'{{"userId":"{user}","username":"user{user}","message":"Shall we ship it? {MARK.decode()} {number:06}",'
            '"timestamp":"2026-11-23T10:30:00.123456789Z","messageType":"TEXT"}'
        )
        before, after = (
            part.replace("{id}", str(number + 10)).replace("{room}", str(room)).replace("{bytes}", str(len(body)))
            for part in (self.before, self.after)
        )
        return self.frame(before + body + after)


CHATFLOW = Wire(path="/chat/{room}", ack=b'"status":"SUCCESS"', echoes=True)

WIRES = {"chatflow": CHATFLOW}
