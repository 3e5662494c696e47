"""Identifiers (RFC 9562): UUIDv7, which sort by time, and UUIDv8, derived from what they name. About 1 µs each."""

from __future__ import annotations

from hashlib import blake2b
from random import getrandbits

_VERSION_7 = 0x7 << 76
_VERSION_8 = 0x8 << 76
_VARIANT = 0b10 << 62


def uuid7(milliseconds: int, random_bits: int | None = None) -> str:
    """An identifier of the given time: 48 bits of milliseconds since 1970, then 74 random ones.

    Not a secret: whoever holds many of them may guess others.
    """
    bits = getrandbits(74) if random_bits is None else random_bits
    value = (milliseconds & 0xFFFF_FFFF_FFFF) << 80 | _VERSION_7 | (bits >> 62) << 64 | _VARIANT | bits & (1 << 62) - 1
    return _text(value)


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
