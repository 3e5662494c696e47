"""Whatever strangers write, it stays on its line and controls nothing."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatflow.text import visible

_BIDI = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("plain äöü 日本語", "plain äöü 日本語"),
        ("one\ntwo\r\nthree\tfour", r"one\ntwo\r\nthree\tfour"),
        ("\x1b[2J\x1b]0;title\x07", r"\x1b[2J\x1b]0;title\x07"),
        ("\x9b31m and \x85", r"\x9b31m and \x85"),
        ("\x00 \x7f", r"\x00 \x7f"),
        ("a\u2028b\u2029c", r"a\u2028b\u2029c"),
        ("user\u202egpj.exe\u202c", r"user\u202egpj.exe\u202c"),
        ("\u2066x\u2069 \u200f\u061c", r"\u2066x\u2069 \u200f\u061c"),
        ("\ud800 and \udfff", r"\ud800 and \udfff"),
        ("\ufeffmark", r"\ufeffmark"),
        ("👩‍👩‍👧 🏴󠁧󠁢󠁥󠁮󠁧󠁿 می‌خواهم", "👩‍👩‍👧 🏴󠁧󠁢󠁥󠁮󠁧󠁿 می‌خواهم"),
        (r"C:\new", r"C:\new"),
        ("", ""),
    ],
)
def test_what_would_act_is_shown(text: str, seen: str) -> None:
    assert visible(text) == seen


@given(st.text(st.characters(codec=None)))
def test_nothing_that_acts_is_left(text: str) -> None:
    seen = visible(text)
    assert len(seen.splitlines()) <= 1
    seen.encode()
    for character in seen:
        assert unicodedata.category(character) not in {"Cc", "Cs", "Zl", "Zp"}
        assert unicodedata.bidirectional(character) not in _BIDI


def test_what_is_visible_stays_as_it_is() -> None:
    everything = "".join(map(chr, [*range(0x20, 0x7F), *range(0xA0, 0x200E), *range(0x3000, 0xD800), 0x1F600]))
    assert visible(everything.replace("\u061c", "")) == everything.replace("\u061c", "")
