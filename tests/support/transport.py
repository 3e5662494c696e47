"""A transport without a socket, for protocols whose bytes a test reads itself."""

from __future__ import annotations

from twisted.internet.testing import StringTransport


class Transport(StringTransport):
    """Says when it is given up, and as the real one does not mind that nobody produces."""

    aborted = False

    def unregisterProducer(self) -> None:
        self.producer = None

    def abortConnection(self) -> None:
        self.aborted = True
