"""The client's side of WebSocket (RFC 6455), as pure functions: handshake, masked frames, frame headers.

Autobahn's client costs about 15 microseconds for each frame it parses, ten times what a load client may spend.
Only what a chat server sends is understood: no extensions, and no masked frames (section 5.1 forbids a server
to mask).
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Iterable
from urllib.parse import urlsplit

import attrs
import msgspec

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA

#: The close code for which nobody comes back.
BANNED = 4403
FINAL = 0x80

_UNAVAILABLE = ("502", "503", "504")
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, section 1.3


class WireError(Exception):
    """The peer broke RFC 6455, or refused the handshake. The text is one line that says how."""


class Unavailable(WireError):
    """An instance that stops refused the handshake, or a proxy that knows no other one: worth another try."""


@attrs.frozen
class Address:
    """Where a WebSocket server listens: the parts of a ``ws://`` or ``wss://`` URL."""

    secure: bool
    host: str
    port: int
    path: str

    @property
    def authority(self) -> str:
        """Host and port as the ``Host`` header wants them (RFC 9110, 7.2): an IPv6 address in brackets."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.secure else 80) else f"{host}:{self.port}"


def parse_url(url: str, room: int) -> Address:
    """:param url: ``ws://host:port[/path]``; without a path, ``/chat`` is meant. The room is appended to it.

    :raises ValueError: it is not a WebSocket URL.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("ws", "wss") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError(f"not a WebSocket URL such as ws://127.0.0.1:8080/chat: {url!r}")
    secure = parts.scheme == "wss"
    base = parts.path.rstrip("/") or "/chat"
    return Address(secure, parts.hostname, parts.port or (443 if secure else 80), f"{base}/{room}")


def new_key() -> str:
    """A fresh ``Sec-WebSocket-Key``."""
    return base64.b64encode(os.urandom(16)).decode()


def accept_for(key: str) -> str:
    """The ``Sec-WebSocket-Accept`` that proves the server read our key (section 4.2.2)."""
    return base64.b64encode(hashlib.sha1(key.encode() + _GUID).digest()).decode()


def handshake_request(address: Address, key: str, token: str | None = None) -> bytes:
    """:param token: who connects, if the server asks for that."""
    authorization = "" if token is None else f"Authorization: Bearer {token}\r\n"
    return (
        f"GET {address.path} HTTP/1.1\r\nHost: {address.authority}\r\nUpgrade: websocket\r\n"
        f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n"
        f"{authorization}\r\n"
    ).encode("ascii")


def check_handshake_response(head: bytes, key: str) -> None:
    """:param head: the response up to its empty line.

    :raises WireError: it is not the 101 that answers our key; :class:`Unavailable` if it is a 502, 503 or 504.
    """
    status, *lines = head.decode("latin-1").split("\r\n")
    words = status.split(" ", 2)
    if len(words) < 2 or not words[0].startswith("HTTP/1.1") or words[1] != "101":
        error = Unavailable if words[1:2] and words[1] in _UNAVAILABLE else WireError
        raise error(f"the server answered {status[:80]!r} to the handshake")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if headers.get("upgrade", "").lower() != "websocket" or "upgrade" not in headers.get("connection", "").lower():
        raise WireError("the server's 101 does not upgrade to websocket")
    if headers.get("sec-websocket-accept") != accept_for(key):
        raise WireError("the server's Sec-WebSocket-Accept does not answer our key")
    if "sec-websocket-extensions" in headers or "sec-websocket-protocol" in headers:
        raise WireError("the server chose an extension or a subprotocol that was not offered")


def frame_bounds(data: bytes, at: int) -> tuple[int, int] | None:
    """Where the payload of the server's frame that starts at *at* begins and ends; the end may lie beyond *data*.

    :return: None while the header is incomplete.
    :raises WireError: the frame is masked or has reserved bits.
    """
    if len(data) - at < 2:
        return None
    if data[at] & 0x70:
        raise WireError("the server sent a frame with reserved bits, but no extension was agreed on")
    length = data[at + 1]
    if length < 126:
        return at + 2, at + 2 + length
    if length > 127:
        raise WireError("the server sent a masked frame")
    start = at + (4 if length == 126 else 10)
    if len(data) < start:
        return None
    return start, start + int.from_bytes(data[at + 2 : start], "big")


# Multiplied by a 32-bit key, this repeats the key once in every 4 bytes: the mask as one integer. Messages have few
# different lengths, so the table stays small.
_ones: dict[int, int] = {}


def _ones_for(words: int) -> int:
    ones = _ones[words] = int.from_bytes(b"\1\0\0\0" * words, "little")
    return ones


def masked_frames(payloads: Iterable[bytes], opcode: int = TEXT) -> bytes:
    """Each payload as one final frame, masked with a key of its own (section 5.3), ready for one write.

    The keys come from the operating system's entropy: a mask that others can guess is no mask. The payload is
    XORed as one big integer, which is the fastest way that Python has.
    """
    payloads = tuple(payloads)
    keys = os.urandom(4 * len(payloads))
    out: list[bytes] = []
    for at, payload in enumerate(payloads):
        length = len(payload)
        words = (length + 3) // 4
        key = keys[4 * at : 4 * at + 4]
        mask = int.from_bytes(key, "little") * (_ones.get(words) or _ones_for(words))
        masked = (int.from_bytes(payload, "little") ^ mask).to_bytes(4 * words, "little")
        if length < 126:
            head = bytes((FINAL | opcode, 0x80 | length))
        elif length < 65536:
            head = b"%c\xfe%c%c" % (FINAL | opcode, length >> 8, length & 255)
        else:
            head = bytes((FINAL | opcode, 0xFF)) + length.to_bytes(8, "big")
        out += (head, key, masked[:length])
    return b"".join(out)


def text_frame(payload: bytes) -> bytes:
    """One final text frame as a server sends it: not masked."""
    length = len(payload)
    if length < 126:
        return bytes((FINAL | TEXT, length)) + payload
    if length < 65536:
        return b"%c~%c%c" % (FINAL | TEXT, length >> 8, length & 255) + payload
    return bytes((FINAL | TEXT, 127)) + length.to_bytes(8, "big") + payload


class Echo(msgspec.Struct, gc=False):
    """What an ack repeats of our message; its text names the message."""

    message: str = ""


class ServerFrame(msgspec.Struct, gc=False):
    """Ack, error or broadcast, as docs/protocol.rst has them; a field that is absent is empty.

    One type for all three: which of them it is, its content says, and it is decoded only once.
    """

    status: str = ""
    messageId: str = ""
    originalMessage: Echo | None = None
    code: str = ""
    roomId: str = ""
    seq: int = 0
    userId: str = ""
    username: str = ""
    message: str = ""
    timestamp: str = ""
    messageType: str = ""
    serverId: str = ""


decode_frame = msgspec.json.Decoder(ServerFrame).decode
"""bytes -> ServerFrame; raises :class:`msgspec.DecodeError` for anything else."""
