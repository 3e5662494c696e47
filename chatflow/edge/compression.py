"""permessage-deflate (RFC 7692) for those who pay for bytes: each message by itself, without context.

So a broadcast is compressed once for all who are in the room, nothing is kept for a connection, and what a client sends
is unpacked by Autobahn up to the size that a message may have. Frames that are for one client alone are not compressed.
"""

from __future__ import annotations

import re
import zlib
from collections import OrderedDict
from collections.abc import Sequence

from autobahn.websocket.compress import PerMessageDeflateOffer, PerMessageDeflateOfferAccept

from chatflow.edge.frames import frames_in, message_frame

#: What is answered to every client that may have it; both are allowed whether or not they were offered (7.1.1).
EXTENSION = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"

#: RFC 7692, 7.2.1: the end of what is compressed, which is not sent.
_TAIL = b"\x00\x00\xff\xff"
_LARGEST_WINDOW = 15
#: Blocks that were compressed lately: each is asked for by all members of its room, one after the other.
_KEPT_BLOCKS = 64

_PARAMETER = re.compile(r'([a-z_]+)(?:[ \t]*=[ \t]*"?([0-9]{1,2})"?)?')
_KNOWN = {f"{side}_{what}" for side in ("server", "client") for what in ("no_context_takeover", "max_window_bits")}


def is_acceptable(offers: Sequence[str]) -> bool:
    """Whether one of the elements of Sec-WebSocket-Extensions offers what is done here."""
    return any(_is_ours(offer) for offer in offers)


def _is_ours(offer: str) -> bool:
    name, *given = (part.strip(" \t") for part in offer.split(";"))
    if name.lower() != "permessage-deflate":
        return False
    seen: set[str] = set()
    for text in given:
        found = _PARAMETER.fullmatch(text)
        if found is None or found[1] not in _KNOWN or found[1] in seen:
            return False
        seen.add(found[1])
        bits = found[2]
        if found[1].endswith("takeover"):
            if bits is not None:
                return False
        elif bits is not None and not 8 <= int(bits) <= _LARGEST_WINDOW:
            return False
        # One window for all, so that all can share what was compressed.
        if found[1] == "server_max_window_bits" and bits != str(_LARGEST_WINDOW):
            return False
    return True


def accept(offers: Sequence[PerMessageDeflateOffer], max_message_bytes: int) -> PerMessageDeflateOfferAccept | None:
    """Autobahn's answer to :data:`EXTENSION`, the only offer that it is ever shown.

    :param max_message_bytes: beyond it unpacking stops, and the connection is closed with 1009.
    """
    if not offers:
        return None
    return PerMessageDeflateOfferAccept(
        offers[0], request_no_context_takeover=True, no_context_takeover=True, max_message_size=max_message_bytes
    )


class Compressor:
    """Compresses the blocks of rooms, each once. Runs on the reactor thread."""

    def __init__(self) -> None:
        # With the block itself, so that its identity is nobody else's.
        self._kept: OrderedDict[int, tuple[bytes, bytes]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def compressed(self, block: bytes) -> bytes:
        """The same text frames, compressed where that makes them shorter. The same object for the same block."""
        known = self._kept.get(id(block))
        if known is not None:
            return known[1]
        made = b"".join([_compress(payload) for payload in frames_in(block)])
        self._kept[id(block)] = block, made
        if len(self._kept) > _KEPT_BLOCKS:
            self._kept.popitem(last=False)
        return made


def _compress(payload: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-_LARGEST_WINDOW)
    data = compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH)
    assert data.endswith(_TAIL)
    data = data[: -len(_TAIL)]
    return message_frame(data, compressed=True) if len(data) < len(payload) else message_frame(payload)
