"""The client's side of RFC 6455."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.null_server import frame, unmask
from chatflow.load import wire

# RFC 6455, section 1.3
_KEY = "dGhlIHNhbXBsZSBub25jZQ=="
_RESPONSE = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
)


@pytest.mark.parametrize(
    ("url", "authority", "path"),
    [
        ("ws://chat.example:8080", "chat.example:8080", "/chat/7"),
        ("ws://chat.example:8080/", "chat.example:8080", "/chat/7"),
        ("ws://chat.example/chat/", "chat.example", "/chat/7"),
        ("wss://chat.example/some/where", "chat.example", "/some/where/7"),
        ("wss://chat.example:80/chat", "chat.example:80", "/chat/7"),
        ("ws://[::1]:9000/chat", "[::1]:9000", "/chat/7"),
    ],
)
def test_the_room_is_appended_to_the_url(url: str, authority: str, path: str) -> None:
    address = wire.parse_url(url, 7)
    assert (address.authority, address.path) == (authority, path)


@pytest.mark.parametrize("url", ["http://chat.example", "chat.example:8080", "ws://", "ws://chat.example/chat?room=1"])
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match="not a WebSocket URL"):
        wire.parse_url(url, 1)


def test_the_handshake_of_the_rfc_is_accepted() -> None:
    wire.check_handshake_response(_RESPONSE, _KEY)


@pytest.mark.parametrize(
    ("was", "is_now", "complaint"),
    [
        (b"101 Switching Protocols", b"404 Not Found", "404"),
        (b"HTTP/1.1 101 Switching Protocols", b"nonsense", "nonsense"),
        (b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", b"AAAALMBiTxaQ9kYGzzhZRbK+xOo=", "does not answer our key"),
        (b"Upgrade: websocket", b"Upgrade: h2c", "does not upgrade"),
        (b"Connection: Upgrade", b"Connection: close", "does not upgrade"),
        (b"Upgrade: websocket", b"Upgrade: websocket\r\nSec-WebSocket-Extensions: permessage-deflate", "not offered"),
        (b"Upgrade: websocket", b"Upgrade: websocket\r\nSec-WebSocket-Protocol: chat", "not offered"),
    ],
)
def test_a_wrong_answer_to_the_handshake_is_refused(was: bytes, is_now: bytes, complaint: str) -> None:
    with pytest.raises(wire.WireError, match=complaint):
        wire.check_handshake_response(_RESPONSE.replace(was, is_now), _KEY)


def test_every_handshake_has_a_key_of_its_own() -> None:
    assert wire.new_key() != wire.new_key()


@given(st.lists(st.binary(max_size=300), max_size=5))
def test_masked_frames_are_what_a_server_unmasks(payloads: list[bytes]) -> None:
    assert _unmasked(wire.masked_frames(payloads)) == payloads


@pytest.mark.parametrize("length", [0, 1, 125, 126, 127, 65535, 65536])
def test_lengths_are_written_in_the_three_forms_of_the_rfc(length: int) -> None:
    payload = bytes(index % 251 for index in range(length))
    assert _unmasked(wire.masked_frames([payload])) == [payload]


def test_every_frame_has_a_mask_of_its_own() -> None:
    sent = wire.masked_frames([b"x" * 100] * 50)
    keys = {sent[at + 2 : at + 6] for at in range(0, len(sent), 106)}
    assert len(keys) == 50


def _unmasked(data: bytes) -> list[bytes]:
    """By the letter of section 5.2, for clients."""
    payloads = []
    while data:
        assert data[0] == 0x81
        assert data[1] & 0x80, "a client masks"
        length, start = data[1] & 0x7F, 2
        if length == 126:
            length, start = int.from_bytes(data[2:4], "big"), 4
        elif length == 127:
            length, start = int.from_bytes(data[2:10], "big"), 10
        payloads.append(unmask(data[start : start + 4], data[start + 4 : start + 4 + length]))
        data = data[start + 4 + length :]
    return payloads


@pytest.mark.parametrize("length", [0, 1, 125, 126, 127, 65535, 65536])
def test_the_bounds_of_a_servers_frame_are_found_whatever_its_length(length: int) -> None:
    payload = bytes(length)
    sent = b"before" + wire.text_frame(payload) + b"behind"
    bounds = wire.frame_bounds(sent, 6)
    assert bounds is not None
    assert bounds[1] == len(sent) - 6
    assert bounds[1] - bounds[0] == length


def test_bounds_may_end_behind_the_data_but_not_start_there() -> None:
    sent = frame(b"x" * 300)
    assert wire.frame_bounds(sent[:4], 0) == (4, 304)
    for short in (0, 1, 2, 3):
        assert wire.frame_bounds(sent[:short], 0) is None


@pytest.mark.parametrize(("sent", "complaint"), [(b"\x81\x85abcdhello", "masked"), (b"\xc1\x05hello", "reserved bits")])
def test_a_frame_that_no_server_may_send_is_refused(sent: bytes, complaint: str) -> None:
    with pytest.raises(wire.WireError, match=complaint):
        wire.frame_bounds(sent, 0)
