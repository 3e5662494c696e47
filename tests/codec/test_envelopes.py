"""An envelope arrives as it was sent, in a body of one billing unit; whatever else is in a queue is found out."""

from __future__ import annotations

import base64
import contextlib
import json
import random
import uuid
import zlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatflow.codec.envelopes import BadEnvelope, decode, encode
from chatflow.codec.packing import MAX_BODY_BYTES
from chatflow.contracts.envelopes import MAX_CONTENT_BYTES, Envelope, content_bytes
from chatflow.contracts.messages import MAX_TEXT_CHARACTERS, Message
from tests.support.chat import legal_envelopes, legal_messages, make_envelope, make_message

# The longest that each field gets.
_LONGEST: dict[str, Any] = {
    "user_id": 100_000,
    "username": "x" * 20,
    "message_type": "LEAVE",
    "client_timestamp": "9999-12-31T23:59:59.999999999+15:59",
    "client_ip": "ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255",
}

#: Texts by what they cost: in JSON, in UTF-8, and in what zlib cannot save.
ALPHABETS = {
    "letters and digits": "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789",
    "printable ASCII": "".join(map(chr, range(0x20, 0x7F))),
    "ASCII": "".join(map(chr, range(1, 0x80))),
    "control characters": "".join(map(chr, range(1, 0x20))) + "\x7f",
    "quotes and backslashes": '"\\',
    "two bytes": "".join(map(chr, range(0x80, 0x800))),
    "three bytes": "".join(map(chr, [*range(0x800, 0xD800), *range(0xE000, 0x10000)])),
    "four bytes": "".join(map(chr, range(0x10000, 0x110000))),
    "all of Unicode": "".join(map(chr, [*range(1, 0xD800), *range(0xE000, 0x110000)])),
    "emoji and quotes": "😀😁😂🤣😃😄😅😆" + '"\\' * 8,
}


def pack(content: Any) -> str:
    """A body as ours are, of any JSON."""
    return base64.urlsafe_b64encode(zlib.compress(json.dumps(content).encode())).decode()


class TestRoundTrip:
    @given(legal_envelopes())
    def test_an_envelope_arrives_as_it_was_sent(self, envelope: Envelope) -> None:
        assert decode(encode(envelope)) == envelope

    @given(legal_envelopes(2))
    def test_a_body_passes_percent_encoding_unchanged(self, envelope: Envelope) -> None:
        body = encode(envelope)
        assert body.isascii()
        assert not set(body) - set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_=")


class TestSize:
    @given(legal_messages())
    def test_the_bound_of_a_message_is_one(self, message: Message) -> None:
        one, two = make_envelope(messages=(message,)), make_envelope(messages=(message, message))
        assert inflated_bytes(two) - inflated_bytes(one) <= content_bytes(message)

    @pytest.mark.parametrize("alphabet", ALPHABETS.values(), ids=ALPHABETS)
    @pytest.mark.parametrize("characters", [1, 40, MAX_TEXT_CHARACTERS])
    @pytest.mark.parametrize("own_id", [False, True])
    def test_the_longest_fields_are_within_the_bound(self, alphabet: str, characters: int, own_id: bool) -> None:
        choose = random.Random(1)
        message = make_message(
            "".join(choose.choices(alphabet, k=characters)),
            client_message_id="".join(choose.choices(alphabet, k=64)) if own_id else None,
            **_LONGEST,
        )
        one, two = make_envelope(messages=(message,)), make_envelope(messages=(message, message))
        assert inflated_bytes(two) - inflated_bytes(one) <= content_bytes(message)

    @pytest.mark.parametrize("alphabet", ALPHABETS.values(), ids=ALPHABETS)
    @pytest.mark.parametrize("characters", [1, 12, 125, MAX_TEXT_CHARACTERS])
    @pytest.mark.parametrize("own_id", [False, True])
    def test_a_full_envelope_of_random_text_fits_one_billing_unit(
        self, alphabet: str, characters: int, own_id: bool
    ) -> None:
        choose = random.Random(characters)

        def message() -> Message:
            return make_message(
                "".join(choose.choices(alphabet, k=characters)),
                message_id=str(uuid.UUID(int=choose.getrandbits(128))),
                client_message_id="".join(choose.choices(alphabet, k=64)) if own_id else None,
                **_LONGEST,
            )

        body = encode(full_envelope(message))
        assert len(body) <= MAX_BODY_BYTES
        assert len(decode(body).messages) > 4

    def test_plain_text_takes_much_less(self) -> None:
        body = encode(full_envelope(lambda: make_message("The quick brown fox jumps over the lazy dog")))
        assert len(body) < MAX_BODY_BYTES / 4

    def test_bytes_that_do_not_compress_at_all_fit_too_that_do_not_compress_at_all(self) -> None:
        # No text of JSON is as bad as this.
        content = random.Random(1).randbytes(MAX_CONTENT_BYTES + 300)
        assert len(base64.urlsafe_b64encode(zlib.compress(content, 1))) <= MAX_BODY_BYTES


def full_envelope(make: Callable[[], Message]) -> Envelope:
    """As many messages as ingress takes."""
    messages: list[Message] = []
    total_bytes = 0
    while total_bytes + content_bytes(message := make()) <= MAX_CONTENT_BYTES:
        total_bytes += content_bytes(message)
        messages.append(message)
    return make_envelope(messages=tuple(messages), server_id="s" * 64)


def inflated_bytes(envelope: Envelope) -> int:
    return len(zlib.decompress(base64.urlsafe_b64decode(encode(envelope))))


GOOD_ID = "0190a7b0-0000-7000-8000-000000000000"
GOOD_MESSAGE = [GOOD_ID, 1, 1, "ann", "Hello", "TEXT", "2026-11-23T10:30:00Z"]
GOOD = [GOOD_ID, 1, "s1", [GOOD_MESSAGE]]


class TestBadBodies:
    @given(st.text())
    def test_any_text_is_an_envelope_or_raises_only_bad_envelope(self, body: str) -> None:
        refuse_or_decode(body)

    @given(st.binary())
    def test_so_is_any_compressed_content(self, content: bytes) -> None:
        refuse_or_decode(base64.urlsafe_b64encode(zlib.compress(content)).decode())

    @given(legal_envelopes(2), st.data())
    def test_so_is_an_envelope_with_bytes_changed(self, envelope: Envelope, data: st.DataObject) -> None:
        body = list(encode(envelope))
        for _ in range(data.draw(st.integers(1, 3))):
            body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.characters())
        refuse_or_decode("".join(body))

    @given(legal_envelopes(2), st.data())
    def test_a_body_cut_short_is_refused(self, envelope: Envelope, data: st.DataObject) -> None:
        body = encode(envelope)
        length = data.draw(st.integers(0, (len(body.rstrip("=")) // 4 - 1) * 4))
        with pytest.raises(BadEnvelope):
            decode(body[:length])

    @pytest.mark.parametrize(
        "content",
        [b" " * 10**7 + json.dumps(GOOD).encode(), b"[" * 10**7, json.dumps(GOOD).encode() + b" " * 10**7],
        ids=["spaces before", "brackets", "spaces after"],
    )
    def test_a_bomb_is_refused(self, content: bytes) -> None:
        body = base64.urlsafe_b64encode(zlib.compress(content)).decode()
        assert len(body) < 100_000
        with pytest.raises(BadEnvelope):
            decode(body)

    @pytest.mark.parametrize(
        "before", [b"", json.dumps(GOOD).encode()[:-1] + b","], ids=["alone", "beside an envelope"]
    )
    def test_a_nest_of_brackets_is_refused(self, before: bytes) -> None:
        with pytest.raises(BadEnvelope):
            decode(base64.urlsafe_b64encode(zlib.compress(before + b"[" * 90_000)).decode())

    def test_the_pattern_of_these_tests_is_an_envelope(self) -> None:
        assert decode(pack(GOOD)).messages == (Message(*GOOD_MESSAGE),)  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        "content",
        [
            {},
            [],
            GOOD[:-1],
            [GOOD_ID, 1, "s1", []],  # nothing to store, hence no place in the room
            [GOOD_ID, 1, "s1", None],
            [GOOD_ID, 1, "s1", [GOOD_MESSAGE[:-1]]],
            [GOOD_ID, 1, "s1", [[*GOOD_MESSAGE[:5], "SHOUT", GOOD_MESSAGE[6]]]],
            [GOOD_ID, 1, "s1", [[GOOD_ID, -1, *GOOD_MESSAGE[2:]]]],
            [GOOD_ID, 1, "s1", [[GOOD_ID, 10**18, *GOOD_MESSAGE[2:]]]],  # after the year 9999
            [GOOD_ID, 1, "s1", [[GOOD_ID, 10**4000, *GOOD_MESSAGE[2:]]]],
            [GOOD_ID, 1, 5, [GOOD_MESSAGE]],
            # What could not be set aside among the dead letters either, and would block its room.
            ["not-a-uuid", 1, "s1", [GOOD_MESSAGE]],
            [GOOD_ID.upper(), 1, "s1", [GOOD_MESSAGE]],  # a head would not recognise it
            [GOOD_ID + "\n", 1, "s1", [GOOD_MESSAGE]],
            [GOOD_ID, 0, "s1", [GOOD_MESSAGE]],
            [GOOD_ID, 2**31, "s1", [GOOD_MESSAGE]],
            [GOOD_ID, "1", "s1", [GOOD_MESSAGE]],
        ],
    )
    def test_json_that_is_no_envelope_is_refused(self, content: Any) -> None:
        with pytest.raises(BadEnvelope):
            decode(pack(content))


def refuse_or_decode(body: str) -> None:
    with contextlib.suppress(BadEnvelope):
        assert isinstance(decode(body), Envelope)
