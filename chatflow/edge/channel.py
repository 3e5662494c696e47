"""One connection in both directions: what is read, what is sent, whether the client lives, and an orderly end.

Autobahn's protocol is the base of it; what it would send itself goes the way of all that waits for the client
(:mod:`chatflow.edge.outgoing`). Nothing of chat is known here.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from chatflow.edge.ending import Tally
from chatflow.edge.incoming import MessageReader
from chatflow.edge.outgoing import Outgoing

#: A client that has not taken its close frame by then is dropped.
CLOSE_HANDSHAKE_SECONDS = 5

_CLOSE_FINAL = 0x88
_PONG_FINAL = 0x8A


class MessageChannel(MessageReader):
    """A subclass is to be told :meth:`reads_too_slowly`.

    In ``onConnect`` it sets :attr:`_outgoing`, which calls that, too; it calls :meth:`_begin` once the handshake is
    done, and :meth:`onClose` at the end. Runs on the reactor thread.

    :param max_message_bytes: of a payload that comes in.
    :param clock: of its timers.
    """

    transport: Any
    _outgoing: Outgoing

    def __init__(self, max_message_bytes: int, clock: IReactorTime) -> None:
        super().__init__(max_message_bytes)
        self._clock = clock
        self._tally = Tally()
        self._end: IDelayedCall | None = None
        # Whether anything came since the last call of ping_unless_heard, and whether a ping was sent then.
        self._heard = True
        self._pinged = False

    def reads_too_slowly(self) -> None:
        """More waits for this client than may, or nothing of it is taken: it is to be closed."""
        raise NotImplementedError

    def _begin(self) -> None:
        """The handshake is done: from here on all goes through :attr:`_outgoing`."""
        self._outgoing.start()
        self._forget_handshake()
        self._tally.opened_at = self._clock.seconds()

    def _forget_handshake(self) -> None:
        # Kilobytes per connection that nobody reads again.
        self.http_request_data = b""
        self.http_headers = {}
        self.http_request_params = {}
        self.http_status_line = self.http_response_data = self._wskey = ""
        self._transport_details = None  # type: ignore[assignment]
        self.websocket_protocol_in_use = None  # it may be a token
        self.websocket_protocols = []
        del self.send_queue  # sendData below needs none

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        if self._end is not None and self._end.active():
            self._end.cancel()
        if self.opened_at is not None:
            self._outgoing.lost()

    @property
    def is_live(self) -> bool:
        """Whether its handshake is done and nobody has begun to close it."""
        return bool(self.state == self.STATE_OPEN)

    @property
    def opened_at(self) -> float | None:
        """When its handshake was done, in seconds of the clock; None before."""
        return self._tally.opened_at

    # Frames out

    def write(self, frame: bytes) -> None:
        """Send what is for this client alone, unless it is being closed."""
        if self.state == self.STATE_OPEN:
            self._tally.bytes_out += len(frame)
            if not self._outgoing.write(frame):
                self.reads_too_slowly()

    def answer(self, frame: bytes) -> None:
        """The same, ahead of what others are sent in this turn of the reactor: the client waits for it."""
        self.write(frame)
        self._outgoing.hurry()

    def sendData(self, data: bytes, sync: bool = False, chopsize: int | None = None) -> None:
        """What Autobahn sends: the answer to the handshake, pings, and the frame that closes."""
        if self.opened_at is None:
            super().sendData(data, sync, chopsize)
        elif data[0] == _CLOSE_FINAL:
            self._outgoing.finish(data)
        else:
            self._outgoing.write_control(data)

    # Signs of life

    def dataReceived(self, data: bytes) -> None:
        self._heard = True
        self._tally.bytes_in += len(data)
        super().dataReceived(data)

    def onPing(self, payload: bytes) -> None:
        self.fragment_received()
        if self.state == self.STATE_OPEN:
            self._outgoing.write_control(bytes([_PONG_FINAL, len(payload)]) + payload)

    def ping_unless_heard(self) -> bool:
        """Ping it if nothing was heard since the last call. False if it was pinged then already: it is silent.

        Only bytes received count as life.
        """
        if self._heard:
            self._heard = self._pinged = False
        elif self._pinged:
            return False
        else:
            self._pinged = True
            self.sendPing()
        return True

    # The end

    def leave(self, code: int, reason: str) -> None:
        """Send a close frame and take nothing more; if the client does not answer, the connection is dropped."""
        self.sendCloseFrame(code=code, reasonUtf8=reason.encode(), isReply=False)

    def drop(self, why: str) -> None:
        """End the connection at once."""
        self._tally.ended_by_us(why)
        self.dropConnection(abort=True)

    def sendCloseFrame(self, code: int | None = None, reasonUtf8: bytes | None = None, isReply: bool = False) -> None:
        # Whoever closes, it comes through here; and no data frame may follow a close frame (RFC 6455 5.5.1).
        if self.state != self.STATE_OPEN:
            return
        if not isReply:
            self._tally.ended_by_us(f"{code}, {(reasonUtf8 or b'').decode(errors='replace')}")
        super().sendCloseFrame(code, reasonUtf8, isReply)
        if isReply:
            # Autobahn closes the connection now, which waits until the client has taken everything.
            self._end = self._clock.callLater(CLOSE_HANDSHAKE_SECONDS, self.transport.abortConnection)

    def dropConnection(self, abort: bool = False) -> None:
        drop = partial(super().dropConnection, abort)
        if abort or self.opened_at is None:
            drop()
        else:
            self._outgoing.when_given(drop)  # the transport knows only of what it was given
