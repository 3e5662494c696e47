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


def derived_id(room: int, user_id: int, client_message_id: str) -> str:
    """The identifier of a message that its client has named: the same on every instance, without asking anybody.

    :param client_message_id: without NUL, which separates the parts.
    """
    name = f"{room}\0{user_id}\0{client_message_id}".encode()
    bits = int.from_bytes(blake2b(name, digest_size=16, person=b"chatflow").digest(), "big")
    return _text(bits & ~(0xF << 76 | 0b11 << 62) | _VERSION_8 | _VARIANT)


def _text(value: int) -> str:
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
