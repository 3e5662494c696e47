"""Text of strangers, made fit for a terminal, a log and a table."""

from __future__ import annotations

import re

_ESCAPES = {"\t": r"\t", "\n": r"\n", "\r": r"\r"}

# What moves a terminal's cursor or begins a sequence that does (C0, DEL and C1 controls), what ends a line for any
# reader (also U+2028 and U+2029), what changes the direction of its neighbours (UAX 9: marks, embeddings, overrides,
# isolates), what is no character (lone surrogates, the byte order mark, interlinear annotation). Joiners and tags stay:
# emoji and whole scripts are written with them.
_HIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff\ufff9-\ufffb]")


def visible(text: str) -> str:
    r"""The same text on one line, with an escape such as ``\n``, ``\x1b`` or ``\u202e`` for each character that would
    do something instead of being seen.

    What it returns can be encoded, stays on its line, and reads from left to right as it was written. It is for eyes: a
    backslash stays as it is, so that the escapes cannot be told from the same characters typed.
    """
    return _HIDDEN.sub(_escape, text)


def _escape(found: re.Match[str]) -> str:
    character = found[0]
    code = ord(character)
    return _ESCAPES.get(character) or (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}")
