"""What one client sends, read into messages: the usual ones quickly, those that are too large not at all.

Autobahn reads what :mod:`chatflow.edge.frames` leaves to it: control frames, fragments, whatever is not allowed.
"""

from __future__ import annotations

from autobahn.twisted.websocket import WebSocketServerProtocol

from chatflow.edge.frames import TEXT_FINAL, is_incomplete_text_frame, take_text_frames
from chatflow.errors import Refused


class MessageReader(WebSocketServerProtocol):
    """Autobahn's protocol; a subclass is told messages by :meth:`text_received` and :meth:`message_unreadable`.

    :param max_message_bytes: of a payload; Autobahn's own limits are to be off.
    :cvar max_skipped_bytes: a message over the limit is read over and answered, so that the connection lives on; beyond
        this it is closed with 1009.
    :cvar max_fragments: of one message. They cost memory even when they are empty.
    """

    max_skipped_bytes = 4 * 1024 * 1024
    max_fragments = 1024

    def __init__(self, max_message_bytes: int) -> None:
        super().__init__()
        self._max_message_bytes = max_message_bytes
        # What came together with a message behind which there was to be a rest: messages, the last one first, and the
        # bytes behind them.
        self._later: list[bytes] = []
        self._later_data = b""
        # Of the message that is read in fragments.
        self._fragments = 0
        self._oversized = False

    def text_received(self, payload: bytes) -> bool:
        """A text message has come, in UTF-8.

        :return: whether to rest: then what came together with it waits for :meth:`read_on`.
        """
        raise NotImplementedError

    def message_unreadable(self, refused: Refused) -> None:
        """A message has come that is none for :meth:`text_received`; it is to be answered."""
        raise NotImplementedError

    def may_look(self) -> bool:
        """Whether what came may be looked at now; else it is to rest, and :meth:`read_on` asks again."""
        return True

    def fragment_received(self) -> None:
        """Another frame of a message has come, which may be empty."""

    def dataReceived(self, data: bytes) -> None:
        self._read(data)

    def _read(self, data: bytes) -> None:
        if self._later or self._later_data:
            self._later_data += data
            return
        # Autobahn's own formats a log line for each chunk, whether or not it is logged.
        if self.state != self.STATE_OPEN or self.current_frame is not None or self.inside_message:
            self._dataReceived(data)
            return
        if self.data:
            data = self.data + data
            self.data = b""
        if data and data[0] == TEXT_FINAL and not self.may_look():
            self._later_data = data
            return
        limit = self._max_message_bytes
        payloads, taken = take_text_frames(data, limit)
        rest = data[taken:]
        for at, payload in enumerate(payloads, 1):
            if self.state != self.STATE_OPEN:
                break  # it is being closed: of what came with these messages only the client's close frame counts
            if self._read_text(payload) and self.state == self.STATE_OPEN:
                self._later = payloads[at:]
                self._later.reverse()
                self._later_data = rest
                return
        if is_incomplete_text_frame(rest, limit):
            self.data = rest
        elif rest:
            self._dataReceived(rest)

    def read_on(self) -> None:
        """The rest is over; or the connection is being closed, and only the client's close frame counts."""
        while self._later and self.state == self.STATE_OPEN:
            if self._read_text(self._later.pop()) and self.state == self.STATE_OPEN:
                return
        self._later.clear()
        data, self._later_data = self._later_data, b""
        if data:
            self._read(data)

    def _read_text(self, payload: bytes) -> bool:
        if not payload.isascii():
            try:
                payload.decode()
            except UnicodeDecodeError:
                self._invalid_payload("a text frame must be UTF-8")  # RFC 6455 8.1: close with 1007
                return False
        return self.text_received(payload)

    def onMessageFrameBegin(self, length: int) -> None:
        super().onMessageFrameBegin(length)
        self._fragments += 1
        if self._fragments > 1:
            self.fragment_received()
        if self.message_data_total_length > self._max_message_bytes or self._fragments > self.max_fragments:
            self._oversized = True
            self.message_data = []
            if self.message_data_total_length > self.max_skipped_bytes:
                self._max_message_size_exceeded(
                    self.message_data_total_length, self.max_skipped_bytes, "the message is far too large"
                )

    def onMessageFrameData(self, payload: bytes) -> None:
        if not self._oversized:
            super().onMessageFrameData(payload)

    def onMessageEnd(self) -> None:
        oversized, self._oversized, self._fragments = self._oversized, False, 0
        if not oversized:
            super().onMessageEnd()
            return
        self.message_data = []
        if not self.failedByMe:
            self.message_unreadable(
                Refused("too_large", f"the message must be at most {self._max_message_bytes} bytes")
            )

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        if isBinary:
            self.message_unreadable(Refused("binary_frame", "messages are JSON in text frames, not binary frames"))
        elif self.state == self.STATE_OPEN:
            self.text_received(payload)
