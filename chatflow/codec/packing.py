"""JSON as a queue body: base64url(zlib(JSON)). Pure functions.

SNS is called with percent-encoded parameters: plain JSON would grow by half there, and cost 7 ms of processor time per
45 KB; this alphabet passes unchanged.
"""

from __future__ import annotations

import base64
import binascii
import zlib

from chatflow.contracts.envelopes import MAX_CONTENT_BYTES

#: One billing unit of SQS and SNS: 64 KB of body. MAX_CONTENT_BYTES of even incompressible text stay within it: base64
#: makes 4 bytes of 3, and zlib adds at most 11 bytes and 5 per 16 KB.
MAX_BODY_BYTES = 65_536


class UnpackError(ValueError):
    """A body is not one that :func:`pack` made."""


def pack(content: bytes) -> str:
    """JSON in UTF-8 as a queue body."""
    return base64.urlsafe_b64encode(zlib.compress(content, 1)).decode("ascii")


def unpack(body: str, max_bytes: int = 2 * MAX_CONTENT_BYTES) -> bytes:
    """The JSON in a body. A body of 64 KB could inflate to 64 MB; ours never hold more than ``max_bytes``.

    :raises UnpackError: whatever else the body is.
    """
    try:
        inflate = zlib.decompressobj()
        content = inflate.decompress(base64.urlsafe_b64decode(body.encode("ascii")), max_bytes)
    except (UnicodeError, binascii.Error, zlib.error) as error:
        raise UnpackError(str(error)) from error
    if not inflate.eof:
        raise UnpackError("it is cut short or too large")
    return content
