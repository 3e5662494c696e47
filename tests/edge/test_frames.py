"""Client frames are taken as RFC 6455 reads them, and only those that are plain; frames sent are read by others.

The encoder and the decoder here share nothing with the code under test. Which frames a client may send is checked by
:mod:`websockets` too.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator
from itertools import pairwise

import msgspec
import pytest
from attrs import frozen
from hypothesis import given
from hypothesis import strategies as st
from websockets.exceptions import WebSocketException
from websockets.frames import Frame as TheirFrame
from websockets.frames import Opcode

from chatflow.edge.frames import (
    broadcast_block,
    is_incomplete_text_frame,
    json_frames,
    take_text_frames,
    text_frame,
)
from tests.support.chat import legal_texts, make_stored

_TEXT = 0x1
_NO_LIMIT = 1 << 20
_KEY = b"\x11\x22\x33\x44"


@frozen
class Frame:
    """A frame as RFC 6455, 5.2 draws it; ``extra`` makes its length field one size longer than it has to be."""

    payload: bytes
    opcode: int = _TEXT
    fin: bool = True
    rsv: int = 0
    key: bytes | None = _KEY
    extra: int = 0

    def encode(self) -> bytes:
        header = bytearray([self.fin << 7 | self.rsv << 4 | self.opcode])
        masked = 0 if self.key is None else 0x80
        size = (0 if len(self.payload) < 126 else 2 if len(self.payload) < 1 << 16 else 8) + self.extra
        if size == 0:
            header.append(masked | len(self.payload))
        elif size <= 2:
            header += bytes([masked | 126]) + len(self.payload).to_bytes(2, "big")
        else:
            header += bytes([masked | 127]) + len(self.payload).to_bytes(8, "big")
        if self.key is None:
            return bytes(header) + self.payload
        return bytes(header) + self.key + bytes(byte ^ self.key[i % 4] for i, byte in enumerate(self.payload))

    def is_plain(self, max_payload_bytes: int = _NO_LIMIT) -> bool:
        """Whether it is one of those that may be taken."""
        return (
            (self.opcode, self.fin, self.rsv, self.extra) == (_TEXT, True, 0, 0)
            and self.key is not None
            and len(self.payload) <= min(max_payload_bytes, 0xFFFF)
        )


def decode_frames(data: bytes) -> Iterator[tuple[Frame, int]]:
    """The complete frames of a stream, each with where it ends: byte by byte, as the RFC tells it."""
    position = 0
    while len(data) - position >= 2:
        first, second = data[position], data[position + 1]
        length, start = second & 0x7F, position + 2
        size = {126: 2, 127: 8}.get(length, 0)
        if len(data) < start + size:
            return
        if size:
            length, start = int.from_bytes(data[start : start + size], "big"), start + size
        least = 0 if length < 126 else 2 if length < 1 << 16 else 8
        key = data[start : start + 4] if second & 0x80 else None
        start += 0 if key is None else 4
        if len(data) < start + length:
            return
        payload = data[start : start + length]
        if key is not None:
            payload = bytes(byte ^ key[i % 4] for i, byte in enumerate(payload))
        position = start + length
        yield Frame(payload, first & 0xF, bool(first & 0x80), first >> 4 & 0x7, key, size - least), position


def taken_by_the_rfc(data: bytes, max_payload_bytes: int) -> tuple[list[bytes], int]:
    """What may be taken from the beginning of ``data``."""
    payloads, position = [], 0
    for frame, end in decode_frames(data):
        if not frame.is_plain(max_payload_bytes):
            break
        payloads.append(frame.payload)
        position = end
    return payloads, position


_LENGTHS = st.sampled_from([0, 1, 3, 4, 5, 124, 125, 126, 127, 128, 255, 256, 700])
_REPEATED = st.builds(lambda length, byte: bytes([byte]) * length, _LENGTHS, st.integers(0, 255))
_PAYLOADS = st.binary(max_size=12) | _REPEATED
_KEYS = st.binary(min_size=4, max_size=4)
_PLAIN = st.builds(Frame, _PAYLOADS, key=_KEYS)
_LIMITS = st.sampled_from([0, 1, 4, 100, 125, 126, 127, 300, _NO_LIMIT])


# Bytes that often begin as a plain frame does.
_ANY_BYTES = st.builds(
    bytes.__add__, st.sampled_from([b"", b"\x81", b"\x81\x85", b"\x81\xfe", b"\x81\xfe\x00"]), st.binary()
)


#: Whatever else a client may send, or must not.
_OTHER = st.one_of(
    st.builds(Frame, _PAYLOADS, key=_KEYS, fin=st.just(False)),
    st.builds(Frame, _PAYLOADS, key=_KEYS, rsv=st.integers(1, 7)),
    st.builds(Frame, _PAYLOADS, key=_KEYS, opcode=st.integers(0, 15).filter(lambda opcode: opcode != _TEXT)),
    st.builds(Frame, _PAYLOADS, key=st.none()),
    st.builds(
        lambda frame, size: Frame(frame.payload, key=frame.key, extra=size if len(frame.payload) < 126 else 6),
        _PLAIN,
        st.sampled_from([2, 8]),
    ),
)


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    """Frames of any kind one after the other, mostly plain ones, perhaps cut short."""
    frames = draw(st.lists(st.one_of(_PLAIN, _PLAIN, _PLAIN, _OTHER), max_size=8))
    stream = b"".join(frame.encode() for frame in frames)
    return stream[: draw(st.integers(0, len(stream)))] if draw(st.booleans()) else stream


class TestTaking:
    @given(streams(), _LIMITS)
    def test_what_is_taken_is_what_the_rfc_reads_up_to_the_first_other_frame(self, stream: bytes, limit: int) -> None:
        assert take_text_frames(stream, limit) == taken_by_the_rfc(stream, limit)

    @given(_ANY_BYTES, _LIMITS)
    def test_so_it_is_with_any_bytes(self, data: bytes, limit: int) -> None:
        assert take_text_frames(data, limit) == taken_by_the_rfc(data, limit)

    @given(st.lists(_PLAIN, max_size=6), st.lists(st.integers(0, 2000), max_size=8))
    def test_however_a_stream_is_cut_into_reads_the_same_is_taken(self, frames: list[Frame], cuts: list[int]) -> None:
        stream = b"".join(frame.encode() for frame in frames)
        ends = sorted({0, len(stream), *(cut % (len(stream) + 1) for cut in cuts)})
        payloads: list[bytes] = []
        kept = b""
        for begin, end in pairwise(ends):
            kept += stream[begin:end]
            taken, position = take_text_frames(kept, _NO_LIMIT)
            payloads += taken
            kept = kept[position:]
            assert is_incomplete_text_frame(kept, _NO_LIMIT) == bool(kept)
        assert payloads == [frame.payload for frame in frames]
        assert kept == b""

    @pytest.mark.parametrize("length", [0, 1, 125, 126, 127, 65_534, 65_535])
    def test_lengths_up_to_16_bits_are_taken_and_no_larger_than_the_limit(self, length: int) -> None:
        payload = bytes(i % 251 for i in range(length))
        data = Frame(payload).encode()
        assert take_text_frames(data, length) == ([payload], len(data))
        if length:
            assert take_text_frames(data, length - 1) == ([], 0)
            assert take_text_frames(data[:-1], length) == ([], 0)

    def test_a_length_of_64_bits_is_left(self) -> None:
        assert take_text_frames(Frame(bytes(65_536)).encode(), _NO_LIMIT) == ([], 0)

    @given(_PLAIN, _OTHER, _PLAIN)
    def test_what_comes_after_another_frame_is_left_too(self, first: Frame, other: Frame, last: Frame) -> None:
        data = first.encode() + other.encode() + last.encode()
        assert take_text_frames(data, _NO_LIMIT) == ([first.payload], len(first.encode()))


class TestIncomplete:
    @given(_PLAIN)
    def test_the_beginning_of_a_frame_that_will_be_taken_is_waited_for(self, frame: Frame) -> None:
        encoded = frame.encode()
        for length in range(1, len(encoded)):
            assert is_incomplete_text_frame(encoded[:length], _NO_LIMIT)
            assert is_incomplete_text_frame(encoded[:length], len(frame.payload))
        assert not is_incomplete_text_frame(encoded, _NO_LIMIT)

    @given(_OTHER)
    def test_of_another_frame_nothing_is_waited_for_once_its_length_is_there(self, frame: Frame) -> None:
        encoded = frame.encode()
        for length in range(min(4, len(encoded)), len(encoded) + 1):
            assert not is_incomplete_text_frame(encoded[:length], _NO_LIMIT)

    @given(_PLAIN.filter(lambda frame: len(frame.payload) > 0))
    def test_nor_is_one_that_is_too_long(self, frame: Frame) -> None:
        encoded = frame.encode()
        for length in range(4, len(encoded) + 1):
            assert not is_incomplete_text_frame(encoded[:length], len(frame.payload) - 1)

    @given(_ANY_BYTES)
    def test_what_is_waited_for_can_still_become_a_frame_that_is_taken(self, data: bytes) -> None:
        if is_incomplete_text_frame(data, _NO_LIMIT):
            assert len(take_text_frames(completed(data), _NO_LIMIT)[0]) == 1

    def test_nothing_is_not_the_beginning_of_a_frame(self) -> None:
        assert not is_incomplete_text_frame(b"", _NO_LIMIT)


def completed(data: bytes) -> bytes:
    """The shortest plain frame that begins so."""
    data += b"\x81\x80"[len(data) :]
    length, start = data[1] & 0x7F, 2
    if length == 126:
        data += (b"\x7e" if data[2:3] == b"\x00" else b"\x00\x7e")[: 4 - len(data)] if len(data) < 4 else b""
        length, start = int.from_bytes(data[2:4], "big"), 4
    return data + bytes(start + 4 + length - len(data))


class _Value(msgspec.Struct):
    text_of_the_value: str


class TestSending:
    @pytest.mark.parametrize("length", [0, 1, 125, 126, 127, 65_535, 65_536, 100_000])
    def test_a_frame_is_what_the_rfc_asks_of_a_server(self, length: int) -> None:
        payload = b"x" * length
        data = text_frame(payload)
        assert list(decode_frames(data)) == [(Frame(payload, key=None), len(data))]
        assert data == TheirFrame(Opcode.TEXT, payload).serialize(mask=False)

    @given(st.lists(legal_texts(30), min_size=1, max_size=5))
    def test_a_block_is_a_frame_for_each_message(self, texts: list[str]) -> None:
        messages = [make_stored(seq, text=text) for seq, text in enumerate(texts, 1)]
        frames = [frame for frame, _ in decode_frames(broadcast_block(messages))]
        assert all(frame.is_plain() or frame.key is None for frame in frames)
        told = [json.loads(frame.payload) for frame in frames]
        assert [(one["seq"], one["message"]) for one in told] == list(enumerate(texts, 1))

    @given(st.lists(st.sampled_from([0, 1, 101, 102, 103, 65_511, 65_512, 70_000]), max_size=5))
    def test_values_of_any_size_are_framed_one_behind_the_other(self, lengths: list[int]) -> None:
        values = [_Value("x" * length) for length in lengths]
        block = json_frames(values)
        assert block == b"".join(text_frame(msgspec.json.encode(value)) for value in values)

    def test_nothing_makes_an_empty_block(self) -> None:
        assert broadcast_block([]) == b""


class TestEncoderOfTheseTests:
    @given(_PLAIN)
    def test_it_writes_what_others_read(self, frame: Frame) -> None:
        theirs = parse(frame.encode())
        assert (theirs.opcode, theirs.fin, bytes(theirs.data)) == (Opcode.TEXT, True, frame.payload)

    @given(_PLAIN, _OTHER)
    def test_its_decoder_reads_what_it_writes(self, plain: Frame, other: Frame) -> None:
        data = other.encode() + plain.encode()
        assert [frame for frame, _ in decode_frames(data)] == [other, plain]

    @given(_OTHER)
    def test_what_is_not_plain_is_refused_by_others_or_is_no_final_text(self, frame: Frame) -> None:
        try:
            theirs = parse(frame.encode())
        except WebSocketException:
            return
        # They do not mind a length that could be shorter.
        assert frame.extra or theirs.opcode is not Opcode.TEXT or not theirs.fin


def parse(data: bytes) -> TheirFrame:
    """A client's frame as :mod:`websockets` reads it."""
    rest = bytearray(data)

    def read_exact(count: int) -> Generator[None, None, bytes | bytearray]:
        taken = rest[:count]
        del rest[:count]
        return taken
        yield

    parser = TheirFrame.parse(read_exact, mask=True)
    try:
        next(parser)
    except StopIteration as stop:
        frame: TheirFrame = stop.value
        return frame
    raise AssertionError("it wants more")
