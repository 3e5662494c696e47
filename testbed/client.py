"""Clients for tests: one on the public ``websockets`` library, another implementation than ours, and a raw socket.

Both are blocking, and give up after some seconds with an error instead of hanging.
"""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import socket
import struct
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple, Self

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from testbed.http_client import Answer, parse_head

_SECONDS = 20.0

Frame = dict[str, Any]
Kind = Literal["ack", "error", "broadcast"]


def message(text: str = "Hello", **fields: Any) -> Frame:
    """A message that a server must take, but for the ``fields`` that differ; ``None`` leaves one out."""
    whole = {
        "userId": "12345",
        "username": "user12345",
        "message": text,
        "timestamp": "2026-11-23T10:30:00.123456789Z",
        "messageType": "TEXT",
        **fields,
    }
    return {name: value for name, value in whole.items() if value is not None}


def kind(frame: Frame) -> Kind:
    """What a frame is to the reference's client, which counts anything else as an error."""
    if frame.get("status") == "SUCCESS":
        return "ack"
    if "messageId" in frame and "roomId" in frame:
        return "broadcast"
    assert frame.get("status") == "ERROR", f"neither acknowledgement nor error nor broadcast: {frame}"
    return "error"


class ChatClient:
    """A connection to a room.

    :param url: of the room.
    :param options: of :func:`websockets.sync.client.connect`.
    """

    def __init__(self, url: str, **options: Any) -> None:
        # Without a bound on what it queues it reads what comes at once; RawClient is for slow readers.
        usual = {"compression": None, "max_size": None, "max_queue": None, "ping_interval": None, "proxy": None}
        self._connection: contextlib.AbstractContextManager[ClientConnection] = connect(url, **{**usual, **options})
        self.socket = self._connection.__enter__()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.__exit__(None, None, None)

    def send(self, text: str = "Hello", **fields: Any) -> None:
        """Send a message; see :func:`message`."""
        self.send_frame(json.dumps(message(text, **fields)))

    def send_frame(self, frame: str | bytes | Iterable[str]) -> None:
        """Send anything: text, binary, or the fragments of one message."""
        self.socket.send(frame)

    def receive(self, seconds: float = _SECONDS) -> Frame:
        """The next frame.

        :raises TimeoutError: there is none.
        :raises websockets.exceptions.ConnectionClosed: there will be none.
        """
        text = self.socket.recv(seconds)
        assert isinstance(text, str), "a binary frame"
        frame = json.loads(text)
        assert isinstance(frame, dict), f"not an object: {text}"
        kind(frame)
        return frame

    def receive_kind(self, wanted: Kind) -> Frame:
        """The next frame of a kind; others are read over."""
        while kind(frame := self.receive()) != wanted:
            pass
        return frame

    def error_for(self, frame: str | bytes | Iterable[str]) -> Frame:
        """Send something that is refused: the one error that it gets, once the connection has proven to live on."""
        self.send_frame(frame)
        frames = self.frames_until_now()
        assert [kind(each) for each in frames] == ["error"], frames
        return frames[0]

    def frames_until_now(self) -> list[Frame]:
        """What comes up to a message of our own, which is not among them: everything that was under way."""
        marker = f"until now {os.urandom(8).hex()}"
        self.send(marker)
        frames: list[Frame] = []
        missing = {"ack", "broadcast"}
        while missing:
            frame = self.receive()
            if kind(frame) == "ack" and frame["originalMessage"]["message"] == marker:
                missing.discard("ack")
            elif kind(frame) == "broadcast" and frame["message"] == marker:
                missing.discard("broadcast")
            else:
                frames.append(frame)
        return frames

    def talk(self, texts: Iterable[str], window: int = 50) -> list[Frame]:
        """Send all, never more than ``window`` unanswered: every frame up to the last answer."""
        waiting = iter(texts)
        frames: list[Frame] = []
        unanswered = 0
        for text in itertools.islice(waiting, window):
            self.send(text)
            unanswered += 1
        while unanswered:
            frames.append(self.receive())
            if kind(frames[-1]) == "broadcast":
                continue
            unanswered -= 1
            for text in itertools.islice(waiting, 1):
                self.send(text)
                unanswered += 1
        return frames

    def wait_closed(self) -> int | None:
        """Read until the server closes: the close code, None when it came without one."""
        with contextlib.suppress(ConnectionClosed):
            while True:
                self.socket.recv(_SECONDS)
        received = self.socket.protocol.close_rcvd
        return received.code if received is not None else None


TEXT, BINARY, CLOSE, PING, PONG = 0x1, 0x2, 0x8, 0x9, 0xA
CONTINUATION = 0x0


class RawFrame(NamedTuple):
    """A frame as it came. ``first_byte`` has FIN and the reserved bits beside the opcode."""

    first_byte: int
    payload: bytes

    @property
    def opcode(self) -> int:
        return self.first_byte & 0xF

    @property
    def close_code(self) -> int | None:
        """Of a close frame."""
        assert self.opcode == CLOSE, f"not a close frame: {self}"
        return struct.unpack("!H", self.payload[:2])[0] if self.payload else None


def client_frame(
    opcode: int, payload: bytes = b"", *, fin: bool = True, masked: bool = True, claimed_bytes: int | None = None
) -> bytes:
    """A frame as RFC 6455, 5.2 has it, or as it must not be.

    :param claimed_bytes: the length in its header, if another one than that of the payload.
    """
    length = len(payload) if claimed_bytes is None else claimed_bytes
    mask_bit = 0x80 if masked else 0
    head = bytes([opcode | (0x80 if fin else 0)])
    if length < 126:
        head += bytes([mask_bit | length])
    elif length < 1 << 16:
        head += bytes([mask_bit | 126]) + struct.pack("!H", length)
    else:
        head += bytes([mask_bit | 127]) + struct.pack("!Q", length)
    if not masked:
        return head + payload
    key = b"\x12\x34\x56\x78"
    return head + key + bytes(byte ^ key[position % 4] for position, byte in enumerate(payload))


class RawClient:
    """A socket that did the handshake, and then sends and reads bytes as it is told.

    :param headers: of the handshake, beside the usual ones or instead of them; None leaves one out.
    :param receive_buffer_bytes: the size of the socket's own buffer, to be a slow reader sooner.
    :ivar answer: the server's answer to the handshake.
    """

    def __init__(
        self,
        port: int,
        path: str = "/chat/1",
        headers: Mapping[str, str | None] | None = None,
        receive_buffer_bytes: int | None = None,
    ) -> None:
        self.socket = socket.socket()
        self.socket.settimeout(_SECONDS)
        if receive_buffer_bytes is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        self._received = b""
        try:
            self.socket.connect(("127.0.0.1", port))
            self.socket.sendall(handshake(port, path, headers))
            while b"\r\n\r\n" not in self._received:
                self._receive_more()
        except BaseException:
            self.socket.close()
            raise
        head, _, self._received = self._received.partition(b"\r\n\r\n")
        self.answer: Answer = parse_head(head + b"\r\n\r\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self.socket.sendall(data)

    def send_message(self, text: str = "Hello", **fields: Any) -> None:
        """Send a message in a frame of its own; see :func:`message`."""
        self.send(client_frame(TEXT, json.dumps(message(text, **fields)).encode()))

    def receive(self) -> RawFrame:
        """The next frame.

        :raises EOFError: the server closed the connection.
        """
        length = self._peek(2)[1]
        assert not length & 0x80, "a server's frame must not be masked"
        start = 2
        if length == 126:
            start, (length,) = 4, struct.unpack("!H", self._peek(4)[2:])
        elif length == 127:
            start, (length,) = 10, struct.unpack("!Q", self._peek(10)[2:])
        whole = self._peek(start + length)
        self._received = self._received[start + length :]
        return RawFrame(whole[0], whole[start:])

    def receive_close(self) -> int | None:
        """Read up to the server's close frame: its code."""
        while (frame := self.receive()).opcode != CLOSE:
            pass
        return frame.close_code

    def wait_end(self) -> None:
        """Read until the server ends the connection, in whichever way."""
        try:
            while self.socket.recv(1 << 16):
                pass
        except ConnectionError:
            pass

    def read_faster(self) -> None:
        """End of being a slow reader."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)

    def reset(self) -> None:
        """End the connection with a reset (RST) instead of a FIN, and without a close frame."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def _peek(self, count: int) -> bytes:
        while len(self._received) < count:
            self._receive_more()
        return self._received[:count]

    def _receive_more(self) -> None:
        data = self.socket.recv(1 << 16)
        if not data:
            raise EOFError("the server closed the connection")
        self._received += data


def handshake(port: int, path: str = "/chat/1", headers: Mapping[str, str | None] | None = None) -> bytes:
    """The request that opens a WebSocket, as the reference's client sends it."""
    lines: dict[str, str | None] = {
        "Host": f"127.0.0.1:{port}",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(),
        "Sec-WebSocket-Version": "13",
        **(headers or {}),
    }
    text = "".join(f"{name}: {value}\r\n" for name, value in lines.items() if value is not None)
    return f"GET {path} HTTP/1.1\r\n{text}\r\n".encode("latin-1")
