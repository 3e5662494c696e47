"""Identifiers are UUIDs of version 7, and sort by their time."""

from __future__ import annotations

import uuid

from hypothesis import example, given
from hypothesis import strategies as st

from chatflow.rooms.identifiers import derived_id, same_name, uuid7

_TIMES = st.integers(0, 2**48 - 1)
_BITS = st.integers(0, 2**74 - 1)


@given(_TIMES, _BITS)
@example(2**48 - 1, 2**74 - 1)
def test_an_identifier_is_a_uuid_of_version_7_that_holds_time_and_random_bits(milliseconds: int, bits: int) -> None:
    text = uuid7(milliseconds, bits)
    parsed = uuid.UUID(text)
    assert str(parsed) == text, "as PostgreSQL writes it"
    assert (parsed.version, parsed.variant) == (7, uuid.RFC_4122)
    assert parsed.int >> 80 == milliseconds
    assert ((parsed.int >> 64 & 0xFFF) << 62) | (parsed.int & (1 << 62) - 1) == bits


def test_the_example_of_the_rfc_is_made_bit_by_bit() -> None:
    # RFC 9562 appendix A.6
    bits = 0xCC3 << 62 | 0x18C4DC0C0C07398F
    assert uuid7(0x017F22E279B0, bits) == "017f22e2-79b0-7cc3-98c4-dc0c0c07398f"


@given(_TIMES, _TIMES, _BITS, _BITS)
def test_identifiers_sort_by_time(one: int, other: int, one_bits: int, other_bits: int) -> None:
    if one != other:
        assert (uuid7(one, one_bits) < uuid7(other, other_bits)) == (one < other)


def test_identifiers_of_the_same_millisecond_differ() -> None:
    assert len({uuid7(1_795_429_800_123) for _ in range(10_000)}) == 10_000


def test_what_a_client_has_named_has_one_id_of_version_8() -> None:
    text = derived_id(1, 42, "mine ü", "a")
    parsed = uuid.UUID(text)
    assert str(parsed) == text, "as PostgreSQL writes it"
    assert (parsed.version, parsed.variant) == (8, uuid.RFC_4122)
    assert text == derived_id(1, 42, "mine ü", "a")


@given(*[st.tuples(st.integers(1, 200), st.integers(1, 200), st.text("0123456789a", min_size=1, max_size=4))] * 2)
@example((1, 11, "1"), (11, 1, "1"))
@example((1, 1, "11"), (1, 11, "1"))
def test_different_names_have_different_ids(one: tuple[int, int, str], other: tuple[int, int, str]) -> None:
    assert (derived_id(*one, "a") == derived_id(*other, "a")) == (one == other)


@given(
    *[st.tuples(st.integers(1, 9), st.integers(1, 9), st.text("ab", min_size=1, max_size=2))] * 2, st.text(max_size=3)
)
def test_those_of_one_name_lie_together_and_differ_by_their_content(
    one: tuple[int, int, str], other: tuple[int, int, str], content: str
) -> None:
    first, second = derived_id(*one, "a"), derived_id(*other, f"b{content}")
    low, high = same_name(first)
    assert first != second
    assert low <= first <= high
    assert (low <= second <= high) == (one == other)
