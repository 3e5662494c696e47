"""One connection: sends its share of messages, and takes in what the server sends with as little work as possible."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from itertools import repeat
from operator import sub

import attrs
import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import ITCPTransport
from twisted.internet.protocol import Protocol
from twisted.python.failure import Failure

from chatflow.load import wire
from chatflow.load.clock import Clock
from chatflow.load.latency import TicksOverTime
from chatflow.load.output import KeptAcks
from chatflow.load.roomlog import ACK_HEADER_BYTES, ACK_START, TICK_US, RoomLog
from chatflow.load.scenario import Kind, MessageWriter, Seat, Settings
from chatflow.load.verify import Arrivals, Ledger, SeqJump
from chatflow.load.wire import ServerFrame, WireError

_MAX_HANDSHAKE_BYTES = 16_384
_NORMAL_CLOSURE = (1000).to_bytes(2, "big")


@attrs.define
class Counts:
    """What the connections of one process count together in one phase. Times in µs, ticks of 0.1 ms."""

    owed: int = 0  # messages of living connections that have had no answer, sent or not
    acked: int = 0
    delivered: int = 0
    unexpected_frames: int = 0
    lost: int = 0
    returns: int = 0
    resent: int = 0
    returns_refused: int = 0
    losses: Counter[str] = attrs.Factory(Counter)  # see PhaseTally
    causes: list[str] = attrs.Factory(list)
    start_us: int = 0
    progress_us: int = 0  # when something was last received
    refusals: Counter[str] = attrs.Factory(Counter)
    kinds: Counter[int] = attrs.Factory(Counter)
    acks: TicksOverTime = attrs.Factory(TicksOverTime)
    delivery_ticks: Counter[int] = attrs.Factory(Counter)
    away_ticks: Counter[int] = attrs.Factory(Counter)
    acked_in_second: Counter[int] = attrs.Factory(Counter)
    delivered_in_second: Counter[int] = attrs.Factory(Counter)


class LoadConnection(Protocol):
    """:ivar address: where it is, or is to be, connected.
    :ivar opened: fires with None once the handshake is done, fails with :class:`WireError`.
    :ivar closed: fires with None when the connection is gone; it never fails.
    """

    transport: ITCPTransport

    def __init__(
        self,
        seat: Seat,
        settings: Settings,
        log: RoomLog,
        counts: Counts,
        clock: Clock,
        kinds: Sequence[Kind],
        kept: KeptAcks,
    ) -> None:
        self.seat = seat
        self.arrivals = Arrivals()
        self.ledger = Ledger()
        self.opened: Deferred[None] = Deferred()
        self.closed: Deferred[None] = Deferred()
        self._backlog: deque[int] | None = deque() if settings.rate else None
        self.lost = False
        self._closing = False
        self._unsent = seat.messages
        self._window = settings.in_flight
        self._mark = f" ~{settings.run}"
        self._name = str(seat.number)
        self._log = log
        self._counts = counts
        self._clock = clock
        self._kept = kept
        self._writer = MessageWriter(settings.seed, settings.run, seat.number, kinds)
        self.address = wire.parse_url(seat.url, seat.room)
        self._key = wire.new_key()
        self._shaken = False
        self._rest = b""
        self._fragments = b""
        self._acks: list[ServerFrame] = []  # of the chunk that is being scanned
        self._goodbye: tuple[int, str] | None = None  # code and reason of the server's close frame

    # opening and closing

    def connectionMade(self) -> None:
        if self._closing:
            self.transport.abortConnection()
            return
        self.transport.setTcpNoDelay(True)
        self.transport.write(wire.handshake_request(self.address, self._key))

    def _shake(self, data: bytes) -> None:
        self._rest += data
        head, end, rest = self._rest.partition(b"\r\n\r\n")
        try:
            if not end:
                if len(self._rest) > _MAX_HANDSHAKE_BYTES:
                    raise WireError("the server's answer to the handshake does not end")
                return
            wire.check_handshake_response(head, self._key)
        except WireError as error:
            self._fail(error)
            return
        self._shaken = True
        self._rest = b""
        self._enter()
        if rest:
            self.dataReceived(rest)

    def _enter(self) -> None:
        """The handshake is done."""
        self._take_seat()
        self.opened.callback(None)

    def _take_seat(self) -> None:
        self._log.arrivals.append(self.arrivals)
        if self.seat.messages:
            self._log.ledgers[self._name] = self.ledger
            self._counts.owed += self.seat.messages

    def close(self) -> None:
        """Say goodbye; the server closes the connection (RFC 6455, 7.1.1). What still arrives is not looked at."""
        self._closing = True
        if self._shaken:
            self.transport.write(wire.masked_frames([_NORMAL_CLOSURE], wire.CLOSE))
        else:
            self.transport.loseConnection()

    def abort(self) -> None:
        """Close at once, or as soon as it is connected."""
        self._closing = True
        if self.connected:
            self.transport.abortConnection()

    def _fail(self, error: Exception) -> None:
        """The connection is of no use any more."""
        if not self._shaken:
            self.opened.errback(Failure(error))
            self._closing = True
        elif not self._closing:
            self._lose(str(error))
        self.transport.abortConnection()

    def _dismissed(self, code: int, reason: str) -> None:
        """The server has sent a close frame."""
        self._lose(f"the server closed it: {code} {reason}".rstrip())
        self.close()

    def _lose(self, cause: str) -> None:
        if self.lost:
            return
        self.lost = True
        counts = self._counts
        counts.lost += 1
        counts.owed -= self._unsent + self.ledger.waiting
        if len(counts.causes) < 5:
            counts.causes.append(f"connection {self._name} (room {self.seat.room}): {cause}")

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        if not self._shaken and not self.opened.called:
            self.opened.errback(Failure(WireError(f"closed during the handshake: {reason.getErrorMessage()}")))
        elif self._shaken and not self._closing:
            self._lose(f"lost: {reason.getErrorMessage()}")
        self._closing = True
        self.closed.callback(None)

    # receiving

    def dataReceived(self, data: bytes) -> None:
        if self._closing:
            return
        if not self._shaken:
            self._shake(data)
            return
        now_us = self._clock.monotonic_us()
        counts, acks, delivered_before = self._counts, self._acks, self._counts.delivered
        broken: Exception | None = None
        try:
            self._scan(self._rest + data if self._rest else data, now_us)
        except (WireError, SeqJump) as error:
            broken = error
        second = (now_us - counts.start_us) // 1_000_000
        if acks:
            counts.acked_in_second[second] += self._take_acks(acks, now_us // TICK_US, second)
            acks.clear()
        if counts.start_us:
            counts.delivered_in_second[second] += counts.delivered - delivered_before
        counts.progress_us = now_us
        if broken:
            self._fail(broken)
        elif self._goodbye:
            self._dismissed(*self._goodbye)
        elif self._unsent:
            self.send()

    def _scan(self, data: bytes, now_us: int) -> None:
        """Take all whole frames out of *data*, acks into a list of their own; keep the rest.

        :raises WireError, SeqJump: what comes behind cannot be understood.
        """
        counts, log, arrivals = self._counts, self._log, self.arrivals
        now_ticks = now_us // TICK_US
        size = len(data)
        at = 0
        acks = self._acks
        seq = arrivals.next
        while size - at >= 2:
            if 0 < seq < log.next and not data.startswith(ACK_START, at + ACK_HEADER_BYTES):
                count, end = log.match(seq, data, at)
                if count:
                    counts.delivery_ticks.update(map(sub, repeat(now_ticks), log.ticks(seq, count)))
                    counts.delivered += count
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
                sent_us = log.sight(frame, data[at:end])
                counts.delivered += 1
                if sent_us:
                    counts.delivery_ticks[now_ticks - sent_us // TICK_US] += 1
                if frame.seq == seq:
                    seq += 1
                    arrivals.next = seq
                else:
                    arrivals.note(frame.seq)
                    seq = arrivals.next
            elif frame.status == "ERROR":
                self._refused(frame.code)
            else:
                counts.unexpected_frames += 1
            at = end
        self._rest = data[at:]

    def _take_acks(self, acks: list[ServerFrame], now_ticks: int, second: int) -> int:
        mark, name, ledger, counts = self._mark, self._name, self.ledger, self._counts
        in_flight, pair = ledger.in_flight, ledger.pair
        rows = []
        for ack in acks:
            words = ack.originalMessage.message.rsplit(".", 5)  # type: ignore[union-attr]
            try:
                text, connection, number_word, _, kind, _ = words
                if connection != name or not text.endswith(mark):
                    raise ValueError
                number = int(number_word)
                sent_us = in_flight.pop(number)
                rows.append((sent_us, int(kind), now_ticks - sent_us // TICK_US))
            except (ValueError, KeyError):
                ledger.unexpected_acks += 1
                continue
            pair(number, ack.messageId)
        counts.kinds.update([row[1] for row in rows])
        counts.acks.update(second, [row[2] for row in rows])
        acked = len(rows)
        ledger.acked += acked
        counts.acked += acked
        counts.owed -= acked
        self._kept.add(self.seat.room, [ack.messageId for ack in acks], rows)
        return acked

    def _refused(self, code: str) -> None:
        if self.ledger.waiting > 0:
            self.ledger.refused += 1
            self._counts.owed -= 1
            self._counts.refusals[code] += 1
        else:
            self._counts.unexpected_frames += 1

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
            self._counts.unexpected_frames += 1
        elif opcode != wire.PONG:
            raise WireError(f"the server sent a frame with the reserved opcode {opcode}")
        return b""

    # sending

    def send(self) -> None:
        """Send what is due and the window allows, in one write."""
        now_us = self._clock.monotonic_us()
        room = min(self._window - self.ledger.waiting, self._unsent)
        backlog = self._backlog
        if backlog is not None:
            intended = [backlog.popleft() for _ in range(min(room, len(backlog)))]
        else:
            intended = [now_us] * room
        if not intended or self._closing:
            return
        ledger = self.ledger
        number = ledger.sent
        ledger.sent += len(intended)
        self._unsent -= len(intended)
        ledger.in_flight.update(zip(range(number, ledger.sent), intended, strict=True))
        payloads = self._writer.write(number, intended, self._clock.timestamp(now_us))
        self._write(number, payloads)

    def _write(self, number: int, payloads: list[bytes]) -> None:
        """Send messages; ``number`` is the first one's."""
        self.transport.write(wire.masked_frames(payloads))

    def due(self, intended_us: int) -> None:
        """The schedule wants one more message sent, then or as soon as the window allows."""
        if self._backlog is not None:
            self._backlog.append(intended_us)

    @property
    def unsent(self) -> int:
        return self._unsent
