"""permessage-deflate: what is offered and answered, what clients are sent, and how little a bomb costs."""

from __future__ import annotations

import json
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatflow.edge.compression import Compressor, is_acceptable
from chatflow.edge.frames import frames_in, text_frame
from testbed.client import TEXT, client_frame, message
from tests.edge.rig import EdgeRig, Peer, rigged


def unpacked(frame: bytes) -> bytes:
    """The message in one compressed frame."""
    (payload,) = frames_in(frame)
    return zlib.decompress(payload + b"\x00\x00\xff\xff\x01\x00\x00\xff\xff", wbits=-15)


def packed(data: bytes) -> bytes:
    """What a client sends of a message."""
    compressor = zlib.compressobj(wbits=-15)
    return (compressor.compress(data) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]


def compressed_frame(payload: bytes) -> bytes:
    """As a client sends it: masked, with the first reserved bit set."""
    frame = client_frame(TEXT, payload)
    return bytes([frame[0] | 0x40]) + frame[1:]


def talking(rig: EdgeRig) -> Peer:
    """Somebody who has permessage-deflate."""
    return rig.peer(v2=False, compresses=True)


@pytest.mark.parametrize(
    ("offers", "ours"),
    [
        (["permessage-deflate"], True),
        (["permessage-deflate; client_max_window_bits"], True),
        (["permessage-deflate; client_max_window_bits=10; server_no_context_takeover"], True),
        (['Permessage-Deflate; client_no_context_takeover ;server_max_window_bits="15"'], True),
        (["x-webkit-deflate-frame", "permessage-deflate"], True),
        (["permessage-deflate; server_max_window_bits=10", "permessage-deflate"], True),
        (["permessage-deflate; server_max_window_bits=10"], False),
        (["permessage-deflate; server_max_window_bits"], False),
        (["permessage-deflate; client_max_window_bits=7"], False),
        (["permessage-deflate; client_max_window_bits=16"], False),
        (["permessage-deflate; client_no_context_takeover=1"], False),
        (["permessage-deflate; client_no_context_takeover; client_no_context_takeover"], False),
        (["permessage-deflate; what"], False),
        (["permessage-bzip2"], False),
        ([], False),
    ],
)
def test_an_offer_is_taken_if_all_of_it_is_known_and_the_window_is_the_usual_one(offers: list[str], ours: bool) -> None:
    assert is_acceptable(offers) is ours


@given(st.lists(st.binary(max_size=300) | st.integers(0, 70_000).map(bytes), max_size=8))
def test_what_is_compressed_is_what_was_given_frame_by_frame(payloads: list[bytes]) -> None:
    block = b"".join(map(text_frame, payloads))
    compressed = Compressor().compressed(block)
    position, found = 0, []
    while position < len(compressed):
        payload = next(frames_in(compressed[position:]))
        end = position + len(text_frame(payload))
        frame = compressed[position:end]
        found.append(unpacked(frame) if frame[0] & 0x40 else payload)
        position = end
    assert found == payloads
    assert len(compressed) <= len(block)


def test_a_block_is_compressed_once_for_all_and_few_are_kept() -> None:
    compressor = Compressor()
    block = text_frame(b"x" * 500)
    assert compressor.compressed(block) is compressor.compressed(block)
    for number in range(200):
        compressor.compressed(text_frame(bytes([number]) * 100))
    assert len(compressor) == 64


def test_who_has_it_gets_broadcasts_compressed_and_others_do_not() -> None:
    with rigged() as rig:
        having, other = talking(rig), rig.peer(v2=False)
        rig.deliver(1, 1)
        sent, plain = having.sent(), other.sent()
        assert sent[0] == 0xC1
        assert unpacked(sent) == b"".join(frames_in(plain))
        assert len(sent) < len(plain)


def test_what_a_client_sends_compressed_is_a_message_like_any_other() -> None:
    with rigged() as rig:
        peer = talking(rig)
        payload = json.dumps(message("compressed")).encode()
        for _ in range(3):  # each by itself, without context
            peer.protocol.dataReceived(compressed_frame(packed(payload)))
        peer.protocol.dataReceived(client_frame(TEXT, payload))
        assert rig.edge.ingress.accepted == 4


def test_exactly_as_much_as_a_message_may_have_is_unpacked_and_a_byte_more_is_closed_with_1009() -> None:
    with rigged() as rig:
        limit = rig.edge.limits.max_frame_bytes
        peer = talking(rig)
        peer.protocol.dataReceived(compressed_frame(packed(b" " * limit)))
        assert peer.frames()[0]["code"] == "invalid_json"
        peer.protocol.dataReceived(compressed_frame(packed(b" " * (limit + 1))))
        assert peer.frames() == [{"closed": 1009}]


def test_a_bomb_is_answered_without_being_unpacked() -> None:
    with rigged() as rig:
        peer = talking(rig)
        bomb = zlib.compressobj(level=9, wbits=-15)
        data = b"".join(bomb.compress(bytes(1 << 20)) for _ in range(100)) + bomb.flush(zlib.Z_SYNC_FLUSH)
        peer.protocol.dataReceived(compressed_frame(data[:60_000]))
        assert peer.frames() == [{"closed": 1009}]


@pytest.mark.parametrize("data", [b"\xff\xff\xff", b"\x07", packed(b"x" * 500)[:-3]])
def test_what_cannot_be_unpacked_ends_the_connection_and_nothing_else(data: bytes) -> None:
    with rigged() as rig:
        peer = talking(rig)
        peer.protocol.dataReceived(compressed_frame(data))
        assert [frame.get("closed") or frame["code"] for frame in peer.frames()] in ([1007], ["invalid_json"])
        rig.peer(v2=False).say("others go on")
        assert rig.edge.ingress.accepted == 1


def test_a_compressed_frame_without_having_it_is_a_fault() -> None:
    with rigged() as rig:
        peer = rig.peer(v2=False)
        peer.protocol.dataReceived(compressed_frame(packed(b"{}")))
        assert peer.frames() == [{"closed": 1002}]
