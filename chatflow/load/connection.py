"""One WebSocket connection: takes in what the server sends with as little work as possible. Made anew, not reused."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import repeat
from operator import sub

import msgspec
from twisted.internet.interfaces import ITCPTransport
from twisted.internet.protocol import Protocol
from twisted.python.failure import Failure

from chatflow.load import wire
from chatflow.load.client_session import Session
from chatflow.load.interfaces import IConnectionOwner
from chatflow.load.proof import SeqJump
from chatflow.load.roomlog import ACK_HEADER_BYTES, ACK_START, TICK_US
from chatflow.load.wire import ServerFrame, WireError

_MAX_HANDSHAKE_BYTES = 16_384
_NORMAL_CLOSURE = (1000).to_bytes(2, "big")


class LoadConnection(Protocol):
    """:param address: where it is to be connected.
    :param session: is told of what comes, and asked whether anything is to be sent.
    :param owner: is told of how the connection begins and ends.

    :ivar is_open: the handshake is done; stays so when the connection ends.
    :ivar closing: nothing that comes is looked at any more.
    """

    transport: ITCPTransport

    def __init__(self, address: wire.Address, session: Session, owner: IConnectionOwner) -> None:
        self.address = address
        self.is_open = False
        self.closing = False
        self._session = session
        self._owner = owner
        self._recorder = session.recorder
        self._key = wire.new_key()
        self._rest = b""
        self._fragments = b""
        self._acks: list[ServerFrame] = []  # of the chunk that is being scanned
        self._goodbye: tuple[int, str] | None = None  # code and reason of the server's close frame

    # opening and closing

    def connectionMade(self) -> None:
        if self.closing:
            self.transport.abortConnection()
            return
        self.transport.setTcpNoDelay(True)
        self.transport.write(wire.handshake_request(self.address, self._key, self._session.token()))

    def _handshake(self, data: bytes) -> None:
        self._rest += data
        head, end, rest = self._rest.partition(b"\r\n\r\n")
        try:
            if not end:
                if len(self._rest) > _MAX_HANDSHAKE_BYTES:
                    raise WireError("the server's answer to the handshake does not end")
                return
            wire.check_handshake_response(head, self._key)
        except WireError as error:
            self._owner.connection_refused(error)
            self.abort()
            return
        self.is_open = True
        self._rest = b""
        self._owner.connection_opened()
        if rest:
            self.dataReceived(rest)

    def close(self) -> None:
        """Say goodbye; the server closes the connection (RFC 6455, 7.1.1). What still arrives is not looked at."""
        self.closing = True
        if self.is_open:
            self.transport.write(wire.masked_frames([_NORMAL_CLOSURE], wire.CLOSE))
        else:
            self.transport.loseConnection()

    def abort(self) -> None:
        """Close at once, or as soon as it is connected. What still arrives is not looked at."""
        self.closing = True
        if self.connected:
            self.transport.abortConnection()

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        self.connected = 0
        self._owner.connection_ended(reason)
        self.closing = True

    # receiving

    def dataReceived(self, data: bytes) -> None:
        if self.closing:
            return
        if not self.is_open:
            self._handshake(data)
            return
        recorder, acks = self._recorder, self._acks
        now_us = recorder.clock.monotonic_us()
        delivered_before = recorder.tally.delivered
        broken: Exception | None = None
        try:
            self._scan(self._rest + data if self._rest else data, now_us)
        except (WireError, SeqJump) as error:
            broken = error
        if acks:
            self._session.acknowledged(acks, now_us)
            acks.clear()
        recorder.received(now_us, recorder.tally.delivered - delivered_before)
        if broken:
            self._owner.connection_broken(broken)
            self.transport.abortConnection()
        elif self._goodbye:
            self._owner.connection_closed(*self._goodbye)
        elif self._session.unsent:
            self._owner.send()

    def _scan(self, data: bytes, now_us: int) -> None:
        """Take all whole frames out of *data*, acks into a list of their own; keep the rest.

        :raises WireError, SeqJump: what comes behind cannot be understood.
        """
        tally, log, arrivals = self._recorder.tally, self._session.log, self._session.arrivals
        now_ticks = now_us // TICK_US
        size = len(data)
        at = 0
        acks = self._acks
        seq = arrivals.next
        while size - at >= 2:
            if 0 < seq < log.next and not data.startswith(ACK_START, at + ACK_HEADER_BYTES):
                count, end = log.match(seq, data, at)
                if count:
                    tally.delivery_ticks.update(map(sub, repeat(now_ticks), log.ticks(seq, count)))
                    tally.delivered += count
                    seq += count
                    arrivals.next = seq
                    at = end
                    continue
            if data[at] == 0x81 and data[at + 1] == 126 and size - at >= 4:  # nearly all: text, 16-bit length
                start = at + 4
                end = start + (data[at + 2] << 8 | data[at + 3])
            else:
                bounds = wire.frame_bounds(data, at)
                if bounds is None:
                    break
                start, end = bounds
            if end > size:
                break
            if data[at] != 0x81:
                message = self._other_frame(data[at], data[start:end])
                if self._goodbye:
                    return
                data = message + data[end:]
                at, size = 0, len(data)
                continue
            try:
                frame = wire.decode_frame(data[start:end])
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                frame = ServerFrame()
            if frame.status == "SUCCESS" and frame.originalMessage is not None:
                acks.append(frame)
            elif frame.seq > 0 and not frame.status:
                sent_us = log.observe(frame, data[at:end])
                tally.delivered += 1
                if sent_us:
                    tally.delivery_ticks[now_ticks - sent_us // TICK_US] += 1
                if frame.seq == seq:
                    seq += 1
                    arrivals.next = seq
                else:
                    arrivals.note(frame.seq)
                    seq = arrivals.next
            elif frame.status == "ERROR":
                self._owner.message_refused(frame.code)
            else:
                tally.unexpected_frames += 1
            at = end
        self._rest = data[at:]

    def _other_frame(self, head: int, payload: bytes) -> bytes:
        """A control frame, or a part of a fragmented message (RFC 6455, 5.4 and 5.5).

        :return: the message that is now complete, as one frame; or nothing.
        """
        opcode = head & 0x0F
        if opcode == wire.PING:
            self.transport.write(wire.masked_frames([payload], wire.PONG))
        elif opcode == wire.CLOSE:
            code = int.from_bytes(payload[:2], "big") if len(payload) >= 2 else 1005
            self._goodbye = code, payload[2:].decode("utf-8", "replace")
        elif opcode in (wire.TEXT, wire.CONTINUATION):
            self._fragments += payload
            if head & wire.FINAL:
                message, self._fragments = self._fragments, b""
                return wire.text_frame(message)
        elif opcode == wire.BINARY:
            self._recorder.tally.unexpected_frames += 1
        elif opcode != wire.PONG:
            raise WireError(f"the server sent a frame with the reserved opcode {opcode}")
        return b""

    # sending

    def write(self, messages: Sequence[bytes]) -> None:
        """Send messages, in one write."""
        self.transport.write(wire.masked_frames(messages))
