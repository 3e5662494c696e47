"""Dead letters: JSON that SQS takes, whatever is in them, and an id for each."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from chatflow.codec import deadletters as letters
from chatflow.codec.deadletters import MAX_JSON_BYTES, envelope_in, failed_again
from chatflow.contracts.envelopes import Envelope
from tests.support.chat import legal_envelopes, legal_texts, make_envelope, make_message

NOW = 1_795_429_800.5
NOW_TEXT = "2026-11-23T10:30:00.500000Z"


@given(legal_envelopes(), legal_texts())
def test_an_envelope_comes_back_as_it_was_sent(envelope: Envelope, reason: str) -> None:
    letter = letters.decode(letters.encode(letters.of_envelope(envelope, reason, NOW)), 0)
    assert envelope_in(letter) == envelope
    assert (letter.id, letter.room, letter.attempts, letter.reason) == (envelope.envelope_id, envelope.room, 1, reason)
    assert letter.first_failed_at == letter.last_failed_at == NOW_TEXT


@given(st.text() | st.text("\uffff\x00😀\ud800"), st.text())
def test_whatever_lay_in_a_queue_fits_and_is_ascii(body: str, reason: str) -> None:
    letter = letters.of_body(body, reason, NOW)
    text = letters.encode(letter)
    assert text.isascii()
    assert text.isprintable()
    assert letter.room is None
    assert (len(letter.id), letter.id.isalnum()) == (32, True)


def test_the_names_in_json_are_those_of_the_documentation() -> None:
    assert set(json.loads(letters.encode(letters.of_body("x", "y", NOW)))) == {
        *("payload", "room", "envelopeId", "reason", "attempts", "firstFailedAt", "lastFailedAt")
    }


def test_of_a_body_that_does_not_fit_the_beginning_is_kept_and_the_reason_says_so() -> None:
    letter = letters.of_body("😀" * 500_000, "not an envelope", NOW)
    assert len(letters.encode(letter)) <= MAX_JSON_BYTES
    assert set(letter.payload) == {"😀"}
    assert len(letter.payload) > 80_000
    assert letter.reason == f"only {len(letter.payload)} of 500000 characters were kept; not an envelope"


def test_a_body_that_fits_is_kept_whole() -> None:
    body = "x" * 900_000
    assert letters.of_body(body, "no", NOW).payload == body


def test_a_long_reason_is_cut_and_a_nul_in_it_is_written_as_two_characters() -> None:
    assert letters.of_body("x", "a\0b", NOW).reason == r"a\0b"
    assert len(letters.of_body("x", "a" * 100_000, NOW).reason) == 2000


def test_an_envelope_whose_id_is_none_for_sqs_gets_another() -> None:
    strange = Envelope("no uuid, and much too long for SQS" * 10, 1, "s1", (make_message(),))
    letter = letters.of_envelope(strange, "refused", NOW)
    assert (len(letter.id), letter.id.isalnum()) == (32, True)


def test_two_bodies_have_two_ids() -> None:
    assert letters.of_body("a", "x", NOW).id != letters.of_body("b", "x", NOW).id


def test_another_failure_counts_and_has_the_new_reason_and_time() -> None:
    envelope = make_envelope()
    letter = failed_again(letters.of_envelope(envelope, "first", NOW), "second", NOW + 1)
    assert (letter.attempts, letter.reason) == (2, "second")
    assert (letter.first_failed_at, letter.last_failed_at) == (NOW_TEXT, "2026-11-23T10:30:01.500000Z")
    assert envelope_in(letter) == envelope


def test_what_is_no_dead_letter_becomes_one() -> None:
    for body in ("", "{}", '"x"', "[" * 100_000, '{"payload": "\ud800"}'):
        letter = letters.decode(body, NOW)
        assert (letter.payload, letter.room, letter.attempts) == (body, None, 1)
        assert letter.first_failed_at == NOW_TEXT
