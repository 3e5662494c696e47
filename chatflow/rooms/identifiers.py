"""Identifiers (RFC 9562): UUIDv7, which sort by time, and UUIDv8, derived from what they name."""

from __future__ import annotations

import os
from hashlib import blake2b
from random import randbytes

_VERSION_8 = 0x8 << 76
_VARIANT = 0b10 << 62

# One of each message: the text of a time serves for all of its millisecond, and that of random bits is made for many.
_TAILS_AT_ONCE = 256
#: The two bits of the variant, in front of two random ones.
_VARIANT_DIGITS = {digit: "89ab"[int(digit, 16) % 4] for digit in "0123456789abcdef"}

_last_head = (0, "00000000-0000-7")
_tails: list[str] = []
os.register_at_fork(after_in_child=_tails.clear)  # or parent and child would use the same


def uuid7(milliseconds: int, random_bits: int | None = None) -> str:
    """An identifier of the given time: 48 bits of milliseconds since 1970, then 74 random ones.

    Not a secret: whoever holds many of them may guess others. In one thread at a time.
    """
    global _last_head
    known, head = _last_head
    if milliseconds != known:
        digits = f"{milliseconds & 0xFFFF_FFFF_FFFF:012x}"
        head = f"{digits[:8]}-{digits[8:]}-7"
        _last_head = milliseconds, head
    if random_bits is None:
        if not _tails:
            _make_tails()
        return head + _tails.pop()
    return head + _tail(f"{random_bits >> 62:03x}{random_bits >> 60 & 3:x}{random_bits & (1 << 60) - 1:015x}")


def _make_tails() -> None:
    digits = randbytes(10 * _TAILS_AT_ONCE).hex()
    _tails.extend([_tail(digits[at : at + 19]) for at in range(0, 20 * _TAILS_AT_ONCE, 20)])


def _tail(digits: str) -> str:
    """What follows the digit of the version, of 19 hexadecimal digits."""
    return f"{digits[:3]}-{_VARIANT_DIGITS[digits[3]]}{digits[4:7]}-{digits[7:]}"


def derived_id(room: int, user_id: int, client_message_id: str, content: str) -> str:
    """The identifier of a message that its client has named: the same on every instance, without asking anybody.

    Its first half stands for the name, its second for what is so called: who calls something else by the same name gets
    another identifier, next to the first (:func:`same_name`).

    :param client_message_id: without NUL, which separates the parts.
    :param content: what makes it the same message.
    """
    name = _digest(f"{room}\0{user_id}\0{client_message_id}") & ~(0xF << 76 | (1 << 64) - 1)
    return _text(name | _VERSION_8 | _VARIANT | _digest(content) & (1 << 62) - 1)


def same_name(derived: str) -> tuple[str, str]:
    """Between which identifiers, both included, all lie that are derived from the same name."""
    return f"{derived[:19]}0000-000000000000", f"{derived[:19]}ffff-ffffffffffff"


def _digest(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=16, person=b"chatflow").digest(), "big")


def _text(value: int) -> str:
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
