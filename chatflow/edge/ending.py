"""What a connection was good for, in one line of the log when it ends."""

from __future__ import annotations

from twisted.logger import Logger

_log = Logger()

_ABNORMAL = 1006
"""RFC 6455 7.4.1: the connection was lost without a close frame; never sent."""


class Tally:
    """Counts of one connection since its handshake.

    :ivar opened_at: seconds of the clock; None while the handshake is not done.
    """

    __slots__ = ("_by_us", "bytes_in", "bytes_out", "messages", "opened_at")

    def __init__(self) -> None:
        self.opened_at: float | None = None
        self.messages = 0
        self.bytes_in = 0
        self.bytes_out = 0
        self._by_us = ""

    def ended_by_us(self, why: str) -> None:
        """This instance ends the connection. Of several reasons the first one counts."""
        self._by_us = self._by_us or why

    def log_end(self, room: int, client: str | None, now_seconds: float, code: int | None, reason: str | None) -> None:
        """Write the line.

        :param now_seconds: of the clock that gave :attr:`opened_at`.
        :param code: of the close frame that ended it.
        :param reason: the text that came with it, which a stranger may have written.
        """
        if self._by_us:
            why = self._by_us
        elif code in (None, _ABNORMAL):
            why = "lost without a close frame"
        else:
            why = f"closed by the client with {code}" + (f", {reason}" if reason else "")
        _log.info(
            "connection of {client} in room {room} ended after {seconds:.1f} s: {why}; {messages} messages and "
            "{bytes_in} bytes came in, {bytes_out} bytes went out",
            client=client,
            room=room,
            seconds=round(now_seconds - (self.opened_at or now_seconds), 3),
            why=why,
            code=code,
            messages=self.messages,
            bytes_in=self.bytes_in,
            bytes_out=self.bytes_out,
        )
