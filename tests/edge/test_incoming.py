"""A client's bytes are read into messages, however they are cut and whatever is too large; without a socket."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import txaio
from autobahn.twisted.websocket import WebSocketServerFactory
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock

from chatflow.edge.incoming import MessageReader
from chatflow.errors import Refused
from testbed.client import CLOSE, TEXT, client_frame
from tests.edge.test_frames import Frame
from tests.support.transport import Transport

_BINARY, _CONTINUATION, _PING = 0x2, 0x0, 0x9
_MAX_BYTES = 200
_HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


class Reader(MessageReader):
    """Keeps what it is told, in order: payloads, and codes of what was refused."""

    def __init__(self) -> None:
        super().__init__(_MAX_BYTES)
        self.told: list[bytes | str] = []
        self.leaves_at: bytes | None = None
        self.factory = WebSocketServerFactory(reactor=Clock())
        self.factory.setProtocolOptions(failByDrop=False)
        self.sent = Transport()
        self.makeConnection(self.sent)
        self.dataReceived(_HANDSHAKE)
        self.sent.clear()

    def text_received(self, payload: bytes) -> bool:
        self.told.append(payload)
        if payload == self.leaves_at:
            self.sendCloseFrame(1012)
        return False

    def message_unreadable(self, refused: Refused) -> None:
        self.told.append(refused.code)

    @property
    def close_code(self) -> int | None:
        """What it was closed with, if it was."""
        sent = self.sent.value()
        return int.from_bytes(sent[2:4], "big") if sent[:1] == b"\x88" else None


@pytest.fixture(autouse=True)
def _own_time() -> Iterator[None]:
    """Autobahn's timers are on no reactor meanwhile."""
    config: Any = txaio.config  # type: ignore[attr-defined]
    before, config.loop = config.loop, Clock()
    yield
    config.loop = before


@pytest.fixture
def reader() -> Reader:
    return Reader()


def text(payload: bytes, fin: bool = True) -> bytes:
    return Frame(payload, fin=fin).encode()


def more(payload: bytes, fin: bool = True) -> bytes:
    return Frame(payload, _CONTINUATION, fin).encode()


_MESSAGES = st.sampled_from(
    [
        (text(b"a"), b"a"),
        (text(b""), b""),
        (text(b"b" * 130), b"b" * 130),
        (text(b"c" * _MAX_BYTES), b"c" * _MAX_BYTES),
        (text(b"d" * (_MAX_BYTES + 1)), "too_large"),
        (text(b"e" * 70_000), "too_large"),
        (text(b"f", fin=False) + more(b"g"), b"fg"),
        (text(b"h", fin=False) + Frame(b"", _PING).encode() + more(b"", fin=False) + more(b"i"), b"hi"),
        (text(b"j" * 150, fin=False) + more(b"k" * 150), "too_large"),
        (Frame(b"l", _BINARY).encode(), "binary_frame"),
        (Frame(b"m" * 300, _BINARY).encode(), "too_large"),
        (Frame(b"n", _PING).encode(), None),
    ]
)


@given(st.lists(_MESSAGES, max_size=6), st.data())
def test_however_the_bytes_are_cut_each_message_is_told_once_and_in_order(
    sent: list[tuple[bytes, bytes | str | None]], data: st.DataObject
) -> None:
    stream = b"".join(frames for frames, _ in sent)
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=5).map(sorted))
    reader = Reader()
    for begin, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        reader.dataReceived(stream[begin:end])
    assert reader.told == [told for _, told in sent if told is not None]


def test_one_byte_at_a_time_is_as_good_as_all_at_once(reader: Reader) -> None:
    for byte in text(b"a" * 130) + text(b"b"):
        reader.dataReceived(bytes([byte]))
    assert reader.told == [b"a" * 130, b"b"]


def test_of_a_message_that_is_too_large_nothing_is_kept(reader: Reader) -> None:
    reader.dataReceived(text(b"x" * 100, fin=False))
    for _ in range(50):
        reader.dataReceived(more(b"x" * 60_000, fin=False))
        assert sum(map(len, [*reader.message_data, *(reader.frame_data or ()), reader.data])) <= _MAX_BYTES
    reader.dataReceived(more(b"x") + text(b"next"))
    assert reader.told == ["too_large", b"next"]


def test_one_that_is_far_too_large_ends_the_connection_before_it_has_come(reader: Reader) -> None:
    reader.dataReceived(Frame(b"", TEXT).encode()[:1] + b"\xff" + (5_000_000).to_bytes(8, "big") + b"\0\0\0\0")
    assert (reader.told, reader.close_code) == ([], 1009)


def test_so_does_one_that_gets_there_in_fragments(reader: Reader) -> None:
    reader.dataReceived(text(b"x", fin=False))
    for _ in range(100):
        reader.dataReceived(more(b"x" * 60_000, fin=False))
    assert (reader.told, reader.close_code) == ([], 1009)


def test_fragments_are_counted_even_if_they_are_empty(reader: Reader) -> None:
    reader.dataReceived(text(b"", fin=False) + more(b"", fin=False) * 1100 + more(b"x") + text(b"next"))
    assert reader.told == ["too_large", b"next"]


def test_as_many_fragments_as_are_allowed_are_a_message_each_time(reader: Reader) -> None:
    for _ in range(3):
        reader.dataReceived(text(b"x", fin=False) + more(b"", fin=False) * 1022 + more(b"y"))
    assert reader.told == [b"xy"] * 3


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (Frame(b"x", key=None).encode(), 1002),
        (Frame(b"x", rsv=4).encode(), 1002),
        (Frame(b"x", opcode=3).encode(), 1002),
        (more(b"x"), 1002),
        (text(b"x", fin=False) + text(b"y"), 1002),
        (text(b"\xff", fin=False) + more(b"x"), 1007),
    ],
    ids=["unmasked", "reserved bit", "unknown", "continues nothing", "interrupted", "no UTF-8 in fragments"],
)
def test_what_the_rfc_forbids_ends_the_connection_and_what_came_ahead_of_it_is_told(
    reader: Reader, bad: bytes, code: int
) -> None:
    reader.dataReceived(text(b"before") + bad + text(b"behind"))
    assert (reader.told, reader.close_code) == ([b"before"], code)


def test_behind_the_message_at_which_the_connection_is_closed_nothing_is_told(reader: Reader) -> None:
    reader.leaves_at = b"2"
    reader.dataReceived(text(b"1") + text(b"2") + text(b"3"))
    reader.dataReceived(text(b"4"))
    assert reader.told == [b"1", b"2"]


def test_the_answer_to_a_close_frame_is_found_behind_messages(reader: Reader) -> None:
    reader.leaves_at = b"2"
    reader.dataReceived(text(b"1") + text(b"2") + text(b"3") + client_frame(CLOSE, (1012).to_bytes(2, "big")))
    assert (reader.told, reader.wasClean) == ([b"1", b"2"], True)
