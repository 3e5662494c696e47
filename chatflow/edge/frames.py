"""WebSocket frames (RFC 6455, 5.2): a broadcast framed once and written many times, and client frames read quickly.

Autobahn's reader costs about 15 µs per frame, which is most of what a message costs. :func:`take_text_frames` reads
what clients nearly always send, small unfragmented text frames, in a tenth of that; the rest is left to Autobahn.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from chatflow.contracts.messages import StoredMessage
from chatflow.rooms.messages import broadcast

TEXT_FINAL = 0x81
_COMPRESSED = 0x40
_MASKED = 0x80
_LENGTH_16 = 126
_HEAD_16 = b"\x81\x7e\0\0"

_put_length = struct.Struct(">H").pack_into
_encode_into = msgspec.json.Encoder().encode_into


def message_frame(payload: bytes, compressed: bool = False) -> bytes:
    """One final, unmasked text frame, of which the payload may be compressed (RFC 7692, 6)."""
    frame = text_frame(payload)
    return bytes([frame[0] | _COMPRESSED]) + frame[1:] if compressed else frame


def frames_in(block: bytes) -> Iterator[bytes]:
    """The payloads of a block of whole, unmasked frames."""
    position = 0
    while position < len(block):
        length, start = block[position + 1], position + 2
        if length >= _LENGTH_16:
            start += 2 if length == _LENGTH_16 else 8
            length = int.from_bytes(block[position + 2 : start], "big")
        position = start + length
        yield block[start:position]


def text_frame(payload: bytes) -> bytes:
    """One final, unmasked text frame, as a server sends it."""
    length = len(payload)
    if length < _LENGTH_16:
        return b"\x81" + length.to_bytes(1, "big") + payload
    if length < 1 << 16:
        return b"\x81\x7e" + length.to_bytes(2, "big") + payload
    return b"\x81\x7f" + length.to_bytes(8, "big") + payload


def json_frames(values: Iterable[msgspec.Struct]) -> bytes:
    """A frame per value, in one piece: each is encoded where it is to stand."""
    block = bytearray()
    begin = 0
    for value in values:
        block += _HEAD_16
        _encode_into(value, block, -1)
        length = len(block) - begin - 4
        if _LENGTH_16 <= length < 1 << 16:  # nearly always: the names of the fields alone are more than 126 bytes
            _put_length(block, begin + 2, length)
        else:
            block[begin:] = text_frame(bytes(block[begin + 4 :]))
        begin = len(block)
    return bytes(block)


def broadcast_block(messages: Sequence[StoredMessage]) -> bytes:
    """A frame per message, in one piece: what every member of the room is given."""
    return json_frames(map(broadcast, messages))


def frame_end(block: bytes, position: int) -> int:
    """Where in a block of whole, unmasked frames the one ends that the byte at ``position`` belongs to.

    ``position`` itself if a frame begins there.
    """
    end = 0
    while end < position:
        length, start = block[end + 1], 2
        if length >= _LENGTH_16:
            start = 4 if length == _LENGTH_16 else 10
            length = int.from_bytes(block[end + 2 : end + start], "big")
        end += start + length
    return end


def take_text_frames(data: bytes, max_payload_bytes: int) -> tuple[list[bytes], int]:
    """The payloads of the complete client text frames that ``data`` begins with, and how many bytes they took.

    Stops at the first frame that is anything else: incomplete, fragmented, a control frame, unmasked, longer than
    ``max_payload_bytes``, or not encoded as RFC 6455 asks. Payloads are unmasked, but not checked to be UTF-8.
    """
    payloads = []
    integer = int.from_bytes  # looked up once: it is called twice for each frame
    position = 0
    available = len(data)
    while available - position >= 6 and data[position] == TEXT_FINAL:
        length = data[position + 1] - _MASKED
        start = position + 6
        if not 0 <= length < _LENGTH_16:
            if length != _LENGTH_16 or available - position < 8:
                break
            length = data[position + 2] << 8 | data[position + 3]
            if length < _LENGTH_16:
                break
            start = position + 8
        end = start + length
        if end > available or length > max_payload_bytes:
            break
        key = data[start - 4 : start]
        # XOR of the whole payload as one large integer; the key is repeated and cut to the payload's length.
        mask = integer((key * (length // 4 + 1))[:length], "little")
        payloads.append((integer(data[start:end], "little") ^ mask).to_bytes(length, "little"))
        position = end
    return payloads, position


def is_incomplete_text_frame(data: bytes, max_payload_bytes: int) -> bool:
    """Whether ``data`` is the beginning of a frame that :func:`take_text_frames` will take once it is whole."""
    if not data:
        return False
    if data[0] != TEXT_FINAL:
        return False
    if len(data) < 2:
        return True
    length = data[1] - _MASKED
    if 0 <= length < _LENGTH_16:
        return len(data) < 6 + length and length <= max_payload_bytes
    if length != _LENGTH_16:
        return False
    if len(data) < 4:
        return True
    length = data[2] << 8 | data[3]
    return _LENGTH_16 <= length <= max_payload_bytes and len(data) < 8 + length
