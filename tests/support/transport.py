"""A transport without a socket, for protocols whose bytes a test reads itself."""

from __future__ import annotations

from twisted.internet.testing import StringTransport


class Transport(StringTransport):
    """Says when it is given up, and as the real one does not mind that nobody produces.

    What is written is there at once for the test, and still waits for the client once that :meth:`stalls`.
    """

    aborted = False
    bufferSize: int  # Twisted's own until somebody sets another
    dataBuffer = b""
    offset = 0
    _tempDataLen = 0  # what Twisted calls it: see chatflow.edge.transports
    _stalled = False

    def stalls(self) -> None:
        """From now on the client takes nothing."""
        self._stalled = True
        assert self.producer is not None
        self.producer.pauseProducing()

    def takes(self, size: int) -> None:
        """The client takes so much of what waits; whenever nothing does, the transport asks for more."""
        while self._stalled:
            taken = min(size, self._tempDataLen)
            size -= taken
            self._tempDataLen -= taken
            if self._tempDataLen:
                return
            if self.producer is not None:
                self.producer.resumeProducing()
            self._stalled = bool(self._tempDataLen)

    def write(self, data: bytes) -> None:
        super().write(data)
        if self._stalled:
            self._tempDataLen += len(data)
            if self.producer is not None:
                self.producer.pauseProducing()

    def unregisterProducer(self) -> None:
        self.producer = None

    def abortConnection(self) -> None:
        self.aborted = True
