"""The decoders under a fuzzer that is guided by coverage: ``python -m tests.fuzz.guided NAME -max_total_time=60``.

Needs ``pip install atheris``, which has wheels for Linux and CPython; further arguments are libFuzzer's. What crashes
is written to a file ``crash-…``; with its name as a further argument that is tried again.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from typing import Any


def message(data: bytes) -> None:
    """A client's frame."""
    from chatflow.errors import Refused
    from chatflow.rooms.messages import decode

    with suppress(Refused):
        decode(data)


def envelope(data: bytes) -> None:
    """A body of a room queue; what is packed in it, too."""
    import base64
    import zlib

    from chatflow.codec.envelopes import BadEnvelope, decode

    for body in (data.decode("latin-1"), base64.urlsafe_b64encode(zlib.compress(data, 1)).decode()):
        with suppress(BadEnvelope):
            decode(body)


def frames(data: bytes) -> None:
    """The beginning of a stream."""
    from chatflow.edge.frames import is_incomplete_text_frame, take_text_frames

    payloads, taken = take_text_frames(data, 1000)
    assert taken <= len(data) and all(len(payload) <= 1000 for payload in payloads)
    is_incomplete_text_frame(data[taken:], 1000)


def query(data: bytes) -> None:
    """The query of a WebSocket address."""
    from chatflow.edge.connect_parameters import parse_connect_parameters
    from chatflow.errors import Refused

    with suppress(Refused):
        parse_connect_parameters("?" + data.decode("latin-1"))


def network(data: bytes) -> None:
    """An address as operators write it."""
    from chatflow.networks import network_meant

    with suppress(ValueError):
        network_meant(data.decode("latin-1"))


_TARGETS: dict[str, Callable[[bytes], None]] = {
    each.__name__: each for each in (message, envelope, frames, query, network)
}


def main() -> None:
    """Run the one that is named."""
    if len(sys.argv) < 2 or sys.argv[1] not in _TARGETS:
        sys.exit(f"usage: python -m tests.fuzz.guided {{{','.join(_TARGETS)}}} [libFuzzer's arguments]")
    target = _TARGETS[sys.argv.pop(1)]
    atheris: Any = import_module("atheris")
    with atheris.instrument_imports(include=["chatflow"]):
        target(b"")
    atheris.Setup(sys.argv, target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
