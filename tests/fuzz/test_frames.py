"""Whatever bytes a client sends, in whatever pieces: they are read as Autobahn alone reads them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import pytest
import txaio
from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock

from chatflow.edge.incoming import MessageReader
from chatflow.errors import Refused
from tests.edge.test_frames import streams
from tests.support.transport import Transport

_MAX_BYTES = 100_000
_HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)

Told = list[bytes | str]


class Ours(MessageReader):
    """Reads as the daemon's connections do."""

    def __init__(self, told: Told) -> None:
        super().__init__(_MAX_BYTES)
        self._told = told

    def text_received(self, payload: bytes) -> bool:
        self._told.append(payload)
        return False

    def message_unreadable(self, refused: Refused) -> None:
        self._told.append(refused.code)


class Theirs(WebSocketServerProtocol):
    """Reads as Autobahn does."""

    def __init__(self, told: Told) -> None:
        super().__init__()
        self._told = told

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        self._told.append("binary_frame" if isBinary else payload)


@pytest.fixture(scope="module", autouse=True)
def _own_time() -> Iterator[None]:
    config: Any = txaio.config  # type: ignore[attr-defined]
    before, config.loop = config.loop, Clock()
    yield
    config.loop = before


#: Ends every frame that has begun, unless that says to be larger; and then is no frame that a client may send.
_END = bytes(66_000)


def read(make: Callable[[Told], Any], pieces: Sequence[bytes]) -> tuple[Told, bytes]:
    """The messages, and what was sent back; of a close frame its code."""
    told: Told = []
    protocol = make(told)
    protocol.factory = WebSocketServerFactory(reactor=Clock())
    protocol.factory.setProtocolOptions(failByDrop=False, utf8validateIncoming=True, echoCloseCodeReason=False)
    transport = Transport()
    protocol.makeConnection(transport)
    protocol.dataReceived(_HANDSHAKE)
    transport.clear()
    for piece in (*pieces, _END):
        protocol.dataReceived(piece)
    sent, closing, rest = transport.value().partition(b"\x88")
    return told, sent + closing + rest[1:3]


def cut(stream: bytes, places: Sequence[int]) -> list[bytes]:
    """The stream in pieces."""
    ends = sorted({0, len(stream), *(place % (len(stream) + 1) for place in places)})
    return [stream[begin:end] for begin, end in pairwise(ends)]


_PLACES = st.lists(st.integers(0, 3000), max_size=6)


@given(streams(), _PLACES)
def test_frames_of_every_kind(stream: bytes, places: list[int]) -> None:
    assert read(Ours, cut(stream, places)) == read(Theirs, [stream])


# Bytes that get far: headers of frames that say something, with whatever comes after.
_STARTS = st.sampled_from([b"\x81", b"\x01", b"\x80", b"\x82", b"\x88", b"\x89", b"\x8a", b"\xc1", b"\x00", b"\x83"])
_LENGTHS = st.sampled_from(
    [b"\x80", b"\x85", b"\xfd", b"\xfe\x00\x7e", b"\xfe\x00\x05", b"\xff" + bytes(7) + b"\x7e", b"\x05"]
)
_PIECES = st.builds(lambda start, length, rest: start + length + rest, _STARTS, _LENGTHS, st.binary(max_size=300))


@given(st.lists(_PIECES | st.binary(max_size=20), max_size=5).map(b"".join), _PLACES)
def test_any_bytes(stream: bytes, places: list[int]) -> None:
    assert read(Ours, cut(stream, places)) == read(Theirs, [stream])


def test_the_oracle_tells_messages_errors_and_ends_apart() -> None:
    """Or the two could agree on nothing."""
    masked = b"\x81\x82\0\0\0\0hi"
    broken, no_text = b"\x88\x03\xea", b"\x88\x03\xef"  # 1002 and 1007
    assert read(Theirs, [masked]) == ([b"hi"], broken)
    assert read(Theirs, [b"\x81\x82\0\0\0\0\xff\xff"]) == ([], no_text)
    assert read(Theirs, [b"\x82" + masked[1:], b"\x89\x80\0\0\0\0"]) == (["binary_frame"], b"\x8a\x00" + broken)
