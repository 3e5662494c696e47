"""One Autobahn protocol per connection: frames in, frames out. No rules of chat here.

Whether a client may connect was decided by :mod:`chatflow.edge.handshake` before its protocol is made; what waits to be
sent to it is the part of :mod:`chatflow.edge.outgoing`. All of it runs on the reactor thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from autobahn.twisted.websocket import WebSocketServerProtocol
from autobahn.websocket.types import ConnectionRequest
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from chatflow.contracts.members import Accepted, IResumingMember, ISender, Reset, Resumed
from chatflow.edge import v2
from chatflow.edge.addresses import client_ip
from chatflow.edge.ending import Tally
from chatflow.edge.frames import is_incomplete_text_frame, take_text_frames, text_frame
from chatflow.edge.handshake import Handshake
from chatflow.edge.outgoing import Outgoing
from chatflow.errors import ErrorCode, Refused
from chatflow.rooms.messages import decode, encode_ack, encode_error

if TYPE_CHECKING:
    from chatflow.edge.connections import ChatFactory

# RFC 6455 7.4.1 and the IANA registry of close codes. Autobahn's sendClose refuses these, sendCloseFrame sends them.
CLOSE_RESTART = 1012
CLOSE_TRY_AGAIN_LATER = 1013

#: A client that has not taken its close frame by then is dropped.
CLOSE_HANDSHAKE_SECONDS = 5

# A message over the limit is read over and answered, so that the connection lives on; beyond this it is closed.
_SKIPPED_BYTES = 4 * 1024 * 1024
_PONG_FINAL = 0x8A

# What a client without chatflow.v2 is told when the history that it asked for is not there.
_RESET: dict[str, tuple[ErrorCode, str]] = {
    "beyond_head": (
        "since_beyond_head",
        "since is beyond the room's last message: what comes now are the new ones, from seq {first} on",
    ),
    "expired": (
        "since_expired",
        "messages behind since are no longer held: what comes now begins with seq {first}",
    ),
}

# Fragments cost memory even when they are empty.
_MAX_FRAGMENTS = 1024


@implementer(ISender, IResumingMember)
class ChatProtocol(WebSocketServerProtocol):
    """A connection to one room: a sender of messages and a member."""

    _log = Logger()
    factory: ChatFactory
    transport: Any
    _outgoing: Outgoing

    def __init__(self, handshake: Handshake) -> None:
        super().__init__()
        self._room = handshake.room
        self._ip: str | None = None
        self._wish = handshake.wish
        self._speaks_v2 = handshake.speaks_v2
        # Until the welcome is written, which what is written meanwhile waits for.
        self._greeting: Deferred[None] | None = None
        self._head = 0
        self._joined = False
        # While history is read for this client, which joins the hub at its end.
        self._resume: Deferred[None] | None = None
        # What was accepted from here and is not answered yet; beyond the limit this connection is not read.
        self._pending = 0
        self._reading_paused = False
        self._end: IDelayedCall | None = None
        self._oversized = False
        self._fragments = 0
        self._tally = Tally()
        #: Whether anything came since the heartbeat looked last.
        self.heard = True
        #: Whether the heartbeat sent a ping since then.
        self.pinged = False

    # Opening and closing

    def onConnect(self, request: ConnectionRequest) -> str | None:
        self._ip = client_ip(self.transport.getPeer())
        self._outgoing = Outgoing(
            self.transport, self.factory.limits.max_client_buffer_bytes, self.factory.clock.seconds
        )
        return v2.SUBPROTOCOL if self._speaks_v2 else None

    def onOpen(self) -> None:
        factory = self.factory
        if factory.draining:
            self.leave(CLOSE_RESTART, "the server restarts")
            return
        factory.opened(self)
        self._joined = True
        factory.presence.joined(self._room, self._wish.who)
        self._outgoing.start()
        self._forget_handshake()
        self._tally.opened_at = factory.clock.seconds()
        # Before the welcome, whose head is of this moment: all that is beyond it follows.
        self._head = factory.hub.head(self._room)
        if not self._wish.resumes:
            factory.hub.join(self._room, self, self._head if self._speaks_v2 else 0)
        if self._speaks_v2:
            self._outgoing.hold()
            self._greeting = Deferred.fromCoroutine(self._greet())
            self._greeting.addErrback(self._greeting_failed)
        elif self._wish.resumes:
            self._begin_to_resume()

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        self._leave_room()
        if self._end is not None and self._end.active():
            self._end.cancel()
        self.factory.closed(self)
        if self._tally.opened_at is not None:
            self._tally.log_end(self._room, self._ip, self.factory.clock.seconds(), code, reason)

    def leave(self, code: int, reason: str) -> None:
        """Send a close frame and take nothing more; if the client does not answer, the connection is dropped."""
        self._tally.ended_by_us(f"{code}, {reason}")
        self.sendCloseFrame(code=code, reasonUtf8=reason.encode(), isReply=False)

    def drop(self, why: str = "dropped") -> None:
        """End the connection at once."""
        self._tally.ended_by_us(why)
        self.dropConnection(abort=True)

    def sendCloseFrame(self, code: int | None = None, reasonUtf8: bytes | None = None, isReply: bool = False) -> None:
        # Whoever closes, it comes through here; and no data frame may follow a close frame (RFC 6455 5.5.1).
        if self.state != self.STATE_OPEN:
            return
        if self._outgoing.holds:
            self._welcome(1)  # it is not known now, and nobody resumes here; but no answer nor goodbye may be lost
        self._leave_room()
        # A producer that is paused would keep the connection from closing.
        self.transport.unregisterProducer()
        super().sendCloseFrame(code, reasonUtf8, isReply)
        if isReply:
            # Autobahn closes the connection now, which waits until the client has taken everything.
            self._end = self.factory.clock.callLater(CLOSE_HANDSHAKE_SECONDS, self.transport.abortConnection)
        self._resume_reading()

    async def _greet(self) -> None:
        """Welcome the client; what else is written meanwhile waits, so that the welcome comes first."""
        factory, room, wish = self.factory, self._room, self._wish
        self._welcome(await factory.resumer.first_seq(room))
        if wish.resumes:
            self._begin_to_resume()
        if wish.presence:
            factory.presence.watch(room, self)

    def _welcome(self, first: int) -> None:
        self._outgoing.release(self.factory.welcome(self._room, self._head, first))

    def _greeting_failed(self, failure: Failure) -> None:
        if not failure.check(CancelledError):
            self._log.failure("a welcome to room {room} failed", failure, room=self._room)
            self.drop()

    def _begin_to_resume(self) -> None:
        """It becomes a member at the end of that."""
        wish = self._wish
        self._resume = self.factory.resumer.start(self._room, self, since=wish.since, last=wish.last)
        self._resume.addErrback(self._resume_failed)

    def _leave_room(self) -> None:
        if self._joined:
            self._joined = False
            factory, room = self.factory, self._room
            if self._greeting is not None:
                self._greeting.cancel()
                factory.presence.unwatch(room, self)
                factory.stored.forget(self)
            factory.presence.left(room, self._wish.who)
            factory.hub.leave(room, self)
            if self._resume is not None and not self._resume.called:
                # It may be the resume itself that has just written too much, and what runs cannot be cancelled; nor is
                # it certain that it does not join before it ends.
                factory.clock.callLater(0, self._resume.cancel)
                self._resume.addCallback(lambda _: factory.hub.leave(room, self))

    def _resume_failed(self, failure: Failure) -> None:
        if not failure.check(CancelledError):
            self._log.failure("resuming in room {room} failed", failure, room=self._room)
            self.leave(CLOSE_TRY_AGAIN_LATER, "history cannot be read now: reconnect and resume")

    def _forget_handshake(self) -> None:
        # Kilobytes per connection that nobody reads again.
        self.http_request_data = b""
        self.http_headers = {}
        self.http_request_params = {}

    # Frames in

    def dataReceived(self, data: bytes) -> None:
        # Autobahn's own formats a log line for each chunk, whether or not it is logged.
        self.heard = True
        self._tally.bytes_in += len(data)
        if self.state != self.STATE_OPEN or self.current_frame is not None or self.inside_message:
            self._dataReceived(data)
            return
        if self.data:
            data = self.data + data
            self.data = b""
        limit = self.factory.limits.max_frame_bytes
        payloads, taken = take_text_frames(data, limit)
        for payload in payloads:
            if self.state != self.STATE_OPEN:
                return
            self._text(payload)
        rest = data[taken:]
        if is_incomplete_text_frame(rest, limit):
            self.data = rest
        elif rest:
            self._dataReceived(rest)

    def onMessageFrameBegin(self, length: int) -> None:
        super().onMessageFrameBegin(length)
        self._fragments += 1
        if self.message_data_total_length > self.factory.limits.max_frame_bytes or self._fragments > _MAX_FRAGMENTS:
            self._oversized = True
            self.message_data = []
            if self.message_data_total_length > _SKIPPED_BYTES:
                self._max_message_size_exceeded(
                    self.message_data_total_length, _SKIPPED_BYTES, "the message is far too large"
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
            limit = self.factory.limits.max_frame_bytes
            self._refused(Refused("too_large", f"the message must be at most {limit} bytes"))

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        if isBinary:
            self._refused(Refused("binary_frame", "messages are JSON in text frames, not binary frames"))
        else:
            self._text(payload)

    def onPing(self, payload: bytes) -> None:
        # Not as Autobahn answers: who sends pings and reads nothing must meet the limit of what waits for a client.
        self._write(bytes([_PONG_FINAL, len(payload)]) + payload)

    def _text(self, payload: bytes) -> None:
        if self.state != self.STATE_OPEN:
            return
        factory = self.factory
        factory.counters.messages_received += 1
        self._tally.messages += 1
        if not payload.isascii():
            try:
                payload.decode()
            except UnicodeDecodeError:
                self._invalid_payload("a text frame must be UTF-8")  # RFC 6455 8.1: close with 1007
                return
        try:
            message = factory.ingress.accept(self._room, decode(payload), self, self._ip)
        except Refused as refused:
            self._refused(refused)
            return
        except Exception:
            self._log.failure("a message in room {room} failed", room=self._room)
            self._refused(Refused("internal_error", "the server failed on this message"))
            return
        if self._speaks_v2:
            factory.stored.sent(message, self)
        self._pending += 1
        if self._pending >= factory.limits.max_pending_per_connection:
            self._pause_reading()

    # Frames out

    def acknowledge(self, accepted: Sequence[Accepted]) -> None:
        self._pending -= len(accepted)
        if self._reading_paused:
            self._maybe_resume()
        if self.state == self.STATE_OPEN:
            self.factory.counters.acks_sent += len(accepted)
            self._write(b"".join([text_frame(encode_ack(message, original)) for message, original, _ in accepted]))
            if self._speaks_v2:
                for message, _, _ in accepted:
                    self.factory.stored.acknowledged(message, self)

    def refuse(self, refused: Refused, count: int) -> None:
        self._pending -= count
        if self._reading_paused:
            self._maybe_resume()
        for _ in range(count):
            self._refused(refused)

    def deliver(self, block: bytes) -> None:
        if self.state == self.STATE_OPEN and not self._outgoing.write(block):
            self._leave_as_slow()

    def resuming(self, result: Resumed | Reset) -> None:
        if self._speaks_v2:
            self._write(v2.encode(v2.resume_frame(result)))
        elif isinstance(result, Reset):
            code, text = _RESET[result.reason]
            self._error(Refused(code, text.format(first=result.first), "since"))

    def drained(self) -> Deferred[None]:
        return self._outgoing.drained()

    def _refused(self, refused: Refused) -> None:
        self.factory.counters.messages_refused += 1
        self._error(refused)

    def _error(self, refused: Refused) -> None:
        if self.state == self.STATE_OPEN:
            self._write(text_frame(encode_error(refused, int(self.factory.now() * 1e6))))

    def _write(self, frames: bytes) -> None:
        if self.state == self.STATE_OPEN:
            self._tally.bytes_out += len(frames)
            if not self._outgoing.write(frames):
                self._leave_as_slow()

    def _leave_as_slow(self) -> None:
        self.factory.counters.slow_clients_closed += 1
        self.leave(CLOSE_TRY_AGAIN_LATER, "this client reads too slowly: reconnect and resume")

    def leave_if_stalled(self) -> None:
        """Close it if something waits for the client, and for too long nothing of that was taken."""
        if self._outgoing.stalled_seconds() >= self.factory.limits.send_timeout_seconds:
            self._leave_as_slow()

    # Back-pressure

    def _pause_reading(self) -> None:
        if not self._reading_paused and self.state == self.STATE_OPEN:
            self._reading_paused = True
            self.factory.counters.reads_paused += 1
            self.transport.pauseProducing()

    def _maybe_resume(self) -> None:
        if self._pending <= self.factory.limits.max_pending_per_connection // 2 and not self.factory.draining:
            self._resume_reading()

    def _resume_reading(self) -> None:
        if self._reading_paused and self.state != self.STATE_CLOSED:
            self._reading_paused = False
            self.heard = True
            self.transport.resumeProducing()

    def stop_reading(self) -> None:
        """Leave what the client still sends in its socket: this instance will not answer it."""
        self._pause_reading()

    def tell_head(self) -> None:
        """If it speaks ``chatflow.v2``: what was delivered in its room, up to where it has everything."""
        if (
            self._speaks_v2
            and self._joined
            and not self._outgoing.holds
            and (self._resume is None or self._resume.called)
        ):
            self._write(v2.encode(v2.Heartbeat(self.factory.hub.last_seq(self._room))))

    def set_back(self, room: int, first: int) -> None:
        """The room, if it is this one's, has other messages from ``first`` on: begin anew there.

        A client that is told so nowhere else, or is given history just now, has to come back for it.
        """
        if room != self._room or not self._joined:
            return
        self._head = min(self._head, first - 1)
        if self._speaks_v2 and (self._resume is None or self._resume.called):
            self._write(v2.encode(v2.resume_frame(Reset("restored", first))))
        else:
            self.leave(CLOSE_RESTART, "the room was set back to an earlier state: reconnect")

    def say_goodbye(self, retry_after_ms: int) -> None:
        """If it speaks ``chatflow.v2``: when to come back. Call it before :meth:`leave`."""
        if self._speaks_v2:
            self._write(v2.encode(v2.Goodbye(retry_after_ms)))

    @property
    def reading_paused(self) -> bool:
        """Whether this client is not listened to, so that its silence means nothing."""
        return self._reading_paused
