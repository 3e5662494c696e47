"""What waits to be sent to one client: how much, since when nothing of it was taken, and what is held back.

What is bounded is what waits now, not what was ever written: a client that keeps up on the whole may never let its
buffer run empty, and stays.

A transport of Twisted's makes one piece of all that it holds, a copy of its own for each client. So it is given slices,
and the rest stays here, as references to blocks that are the same for all members of a room: a broadcast that a hundred
stalled clients wait for is in memory once.

What is written in one turn of the reactor, such as a broadcast and an acknowledgement, is sent together at the end of
it, and at once: the transport would ask the system to be told when it may send, which it nearly always may.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IPushProducer
from zope.interface import implementer

from chatflow.edge.backlog import Backlog
from chatflow.edge.frames import frame_end
from chatflow.edge.transports import send, untaken_bytes, waiting_bytes

#: What a transport is given at a time. It holds twice that at most, and may have it in two pieces for a moment.
SLICE_BYTES = 64 * 1024


class _Progress:
    """How much a client takes, since its transport was full.

    :param seconds: the time of a clock that is never set.
    :ivar given_bytes: what the transport held then, and was given since.
    """

    __slots__ = ("_moved_at", "_seconds", "_taken_bytes", "_transport", "given_bytes")

    def __init__(self, transport: Any, seconds: Callable[[], float]) -> None:
        self._transport = transport
        self._seconds = seconds
        self.given_bytes = waiting_bytes(transport)
        # When we looked last: it begins below zero, with what the system held.
        self._taken_bytes = self.given_bytes - untaken_bytes(transport)
        self._moved_at = seconds()

    def stalled_seconds(self) -> float:
        """For how long nothing was taken, as far as we looked."""
        taken = self.given_bytes - untaken_bytes(self._transport)
        if taken > self._taken_bytes:
            self._taken_bytes = taken
            self._moved_at = self._seconds()
        return self._seconds() - self._moved_at


@implementer(IPushProducer)
class Outgoing:
    """The writing side of a connection. It is the transport's producer from :meth:`start` on.

    :param max_bytes: the most that may wait.
    :param seconds: the time of a clock that is never set.
    :param backlog: that of all connections.
    :ivar give_up: called when this client is to be closed as one that reads too slowly.
    """

    __slots__ = (
        "_backlog",
        "_blocks",
        "_controls",
        "_direct",
        "_drained",
        "_finishing",
        "_held",
        "_max_bytes",
        "_offset",
        "_on_given",
        "_paused",
        "_progress",
        "_seconds",
        "_transport",
        "_unsent",
        "_unsent_bytes",
        "backlog_bytes",
        "give_up",
    )

    def __init__(
        self,
        transport: Any,
        max_bytes: int,
        seconds: Callable[[], float],
        backlog: Backlog,
        give_up: Callable[[], object] = int,
    ) -> None:
        self._transport = transport
        self._max_bytes = max_bytes
        self._seconds = seconds
        self._backlog = backlog
        self.give_up = give_up
        # Whether what is written goes straight to the transport: it wants more, and nothing waits or is held here.
        self._direct = True
        self._held = False
        self._paused = False
        self._finishing = False
        self._on_given: Callable[[], object] | None = None
        # What was written in this turn of the reactor: no more than a transport is given at a time.
        self._unsent: list[bytes] | None = None
        self._unsent_bytes = 0
        # What the transport has not been given: of the first block what is behind the offset.
        self._blocks: deque[bytes] = deque()
        self._offset = 0
        self.backlog_bytes = 0
        # The newest ping and pong that could not be sent at once, by their first byte.
        self._controls: dict[int, bytes] = {}
        # Since the transport was full, until all is passed on.
        self._progress: _Progress | None = None
        self._drained: Deferred[None] | None = None

    def start(self) -> None:
        """Listen to what the transport says of its buffer."""
        # Twisted's HTTP channel had registered itself, and Autobahn's resource leaves it so.
        self._transport.unregisterProducer()
        self._transport.registerProducer(self, True)

    def write(self, data: bytes) -> bool:
        """Send ``data``, or keep it until it can be sent. False if more waits than may: nothing was written.

        :param data: whole frames. What is written to several clients is to be the same object.
        """
        size = len(data)
        if self._unsent_bytes + size > SLICE_BYTES:
            self.send()
        if self._direct and size <= SLICE_BYTES:
            if self._unsent is None:
                self._unsent = [data]
                self._backlog.send_soon(self)
            else:
                self._unsent.append(data)
            self._unsent_bytes += size
            return True
        waiting = self.backlog_bytes + size
        # Who has taken everything is written to without a limit.
        if not self._direct and waiting + waiting_bytes(self._transport) > self._max_bytes:
            return False
        self._keep(data)
        self._fill()
        return True

    def hurry(self) -> None:
        """Send what was written ahead of what others are sent in this turn: the client waits for it."""
        if self._unsent is not None:
            self._backlog.hurry(self)

    def write_control(self, frame: bytes) -> None:
        """Send a ping or a pong, ahead of all that waits here. Of each kind the newest one waits (RFC 6455, 5.5.3)."""
        if self._direct or (self._held and not self._paused):
            send(self._transport, frame)
        else:
            self._controls[frame[0]] = frame

    def send(self) -> None:
        """Send what was written in this turn of the reactor, in one piece."""
        unsent = self._unsent
        if unsent is not None:
            self._unsent, self._unsent_bytes = None, 0
            send(self._transport, unsent[0] if len(unsent) == 1 else b"".join(unsent))  # may call pauseProducing

    def hold(self) -> None:
        """Keep what is written from now on."""
        self.send()
        self._held, self._direct = True, False

    def release(self, first: bytes) -> None:
        """Send ``first`` and then what was kept."""
        self._held = False
        self._backlog.add(self, first)
        self._blocks.appendleft(first)
        self.backlog_bytes += len(first)
        self._fill()

    @property
    def holds(self) -> bool:
        """Whether what is written is kept."""
        return self._held

    def drained(self) -> Deferred[None]:
        """Fires when the transport wants more; at once, if it does now."""
        self.send()
        if not self._paused and not self._blocks:
            return succeed(None)
        self._drained = Deferred()
        return self._drained

    def stalled_seconds(self) -> float:
        """For how long the client has taken nothing although something waits; 0 if it takes what there is.

        As far as it is known: from the last call, this one included, that found something taken.
        """
        return self._progress.stalled_seconds() if self._paused and self._progress is not None else 0.0

    # The end

    def cut(self) -> None:
        """Forget all that waits here, but for the rest of a frame of which the client may have the beginning."""
        rest = b""
        if self._offset:
            rest = self._blocks[0][self._offset : frame_end(self._blocks[0], self._offset)]
        self._forget()
        if rest:
            self._keep(rest)

    def finish(self, frame: bytes) -> None:
        """Send the close frame behind all that waits. Nothing may be written afterwards."""
        self._held = False
        self._finishing = True
        self._keep(frame)
        self._fill()

    def when_given(self, then: Callable[[], object]) -> None:
        """Call it once the transport was given everything: at once, if nothing waits here; never, if that gets lost."""
        self.send()
        if self._blocks:
            self._on_given = then
        else:
            then()

    def lost(self) -> None:
        """The connection is gone."""
        self._on_given = None
        self._forget()
        self._unsent, self._unsent_bytes = None, 0
        self._direct = False

    def _forget(self) -> None:
        for block in self._blocks:
            self._backlog.remove(block)
        self._backlog.leave(self)
        self._blocks.clear()
        self._controls.clear()
        self._offset = self.backlog_bytes = 0

    # From here to the transport

    def _keep(self, data: bytes) -> None:
        self._direct = False
        self._backlog.add(self, data)
        self._blocks.append(data)
        self.backlog_bytes += len(data)

    def _fill(self) -> None:
        """Give the transport what it wants."""
        self.send()
        if self._held:
            return
        # What is left of one that ends is given at once, if it is little: then it need not be looked after.
        hurries = self._finishing and self.backlog_bytes <= SLICE_BYTES
        while (self._blocks or self._controls) and (hurries or not self._paused):
            data = self._slice()
            if self._progress is not None:
                self._progress.given_bytes += len(data)
            send(self._transport, data)  # may call pauseProducing
        if not self._blocks:
            self._backlog.leave(self)
            # A producer that is paused would keep the connection from closing.
            if self._finishing:
                self._transport.unregisterProducer()
                then, self._on_given = self._on_given, None
                if then is not None:
                    then()
            elif not self._paused:
                self._direct = True

    def _slice(self) -> bytes:
        parts: list[bytes] = []
        room = SLICE_BYTES
        while True:
            if not self._offset:  # between two frames
                parts += self._controls.values()
                self._controls.clear()
            if not self._blocks or not room:
                return b"".join(parts)
            block = self._blocks[0]
            part = block[self._offset : self._offset + room] if self._offset or len(block) > room else block
            room -= len(part)
            self.backlog_bytes -= len(part)
            self._offset += len(part)
            parts.append(part)
            if self._offset == len(block):
                self._offset = 0
                self._blocks.popleft()
                self._backlog.remove(block)

    # What the transport says

    def pauseProducing(self) -> None:
        """The transport holds more than it likes (64 KiB) for this client. It says so at each further write."""
        if not self._paused:
            if self._progress is None:
                self._progress = _Progress(self._transport, self._seconds)
            self._paused = True
            self._direct = False

    def resumeProducing(self) -> None:
        """The transport has passed on everything."""
        self._paused = False
        self._fill()
        if self._paused or self._blocks:
            return
        self._progress = None
        drained, self._drained = self._drained, None
        if drained is not None and not drained.called:
            drained.callback(None)

    def stopProducing(self) -> None:
        """The transport is gone; its protocol is told."""
