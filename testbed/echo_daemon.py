"""``twistd`` with a daemon whose WebSocket connections say everything again, for suites that judge conformance.

::

    python -m testbed.echo_daemon -n chatflow ...

What reads and writes frames, opens and closes is ChatFlow's own, with its own settings. Only what becomes of a message
is another thing, and the limits of size are lifted: such suites send up to 16 MB.
"""

from __future__ import annotations

from twisted.scripts.twistd import run

from chatflow.edge import factory
from chatflow.edge.frames import text_frame
from chatflow.edge.handshake import Handshake
from chatflow.edge.services import EdgeServices
from chatflow.edge.websocket import ChatProtocol

_MAX_MESSAGE_BYTES = 64 * 1024 * 1024
_BINARY_FINAL = 0x82


class EchoProtocol(ChatProtocol):
    """A connection to nobody: its client gets back what it sends, in one frame each."""

    max_skipped_bytes = _MAX_MESSAGE_BYTES
    max_fragments = 1_000_000

    def __init__(self, services: EdgeServices, handshake: Handshake) -> None:
        super().__init__(services, handshake)
        self._max_message_bytes = _MAX_MESSAGE_BYTES

    def text_received(self, payload: bytes) -> bool:
        """Send it back."""
        self._echo(payload, is_binary=False)
        return False

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        if self.state == self.STATE_OPEN:
            self._echo(payload, isBinary)

    def _echo(self, payload: bytes, is_binary: bool) -> None:
        if self._perMessageCompress is not None:
            self.sendMessage(payload, is_binary)
            return
        frame = text_frame(payload)
        self.write(bytes([_BINARY_FINAL]) + frame[1:] if is_binary else frame)


def main() -> None:
    """Run ``twistd`` with :class:`EchoProtocol` in the place of ChatFlow's."""
    factory.ChatProtocol = EchoProtocol  # type: ignore[misc]
    run()


if __name__ == "__main__":
    main()
