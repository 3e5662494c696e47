"""UUIDv7 (RFC 9562 5.7): identifiers that sort by time. About 1 µs each."""

from __future__ import annotations

from random import getrandbits

_VERSION_7 = 0x7 << 76
_VARIANT = 0b10 << 62


def uuid7(milliseconds: int, random_bits: int | None = None) -> str:
    """An identifier of the given time: 48 bits of milliseconds since 1970, then 74 random ones.

    Not a secret: whoever holds many of them may guess others.
    """
    bits = getrandbits(74) if random_bits is None else random_bits
    value = (milliseconds & 0xFFFF_FFFF_FFFF) << 80 | _VERSION_7 | (bits >> 62) << 64 | _VARIANT | bits & (1 << 62) - 1
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
