"""What a virtual client sends and receives, over however many connections: its share, its window, its accounts."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from chatflow.load.proof import Arrivals, Ledger
from chatflow.load.recorder import AckRow, Recorder
from chatflow.load.roomlog import TICK_US, RoomLog
from chatflow.load.scenario import Kind, MessageWriter, Settings, VirtualClient
from chatflow.load.tokens import token_for, user_of
from chatflow.load.wire import ServerFrame


class Session:
    """:param log: of the client's room.
    :param kinds: see :func:`chatflow.load.scenario.kinds`.

    :ivar unsent: how many messages of the client's share are not sent.
    :ivar lost: the client is without a connection for good.
    """

    def __init__(
        self, client: VirtualClient, settings: Settings, log: RoomLog, recorder: Recorder, kinds: Sequence[Kind]
    ) -> None:
        self.client = client
        self.log = log
        self.recorder = recorder
        self.arrivals = Arrivals(recorder.tally)
        self.ledger = Ledger(recorder.tally)
        self.unsent = client.messages
        self.lost = False
        self._backlog: deque[int] | None = None if settings.rate is None else deque()
        self._window = settings.in_flight
        self._mark = f" ~{settings.run}"
        self._name = str(client.number)
        self._settings = settings
        only_user = None if settings.token_key is None else user_of(client.number)
        self._writer = MessageWriter(settings.seed, settings.run, client.number, kinds, only_user)

    def token(self) -> str | None:
        """What a new connection shows, if the server asks for tokens."""
        clock = self.recorder.clock
        return token_for(self._settings, self.client.number, (clock.monotonic_us() + clock.wall_offset_us) / 1e6)

    def enter(self) -> None:
        """The client is in its room for the first time."""
        self.recorder.tally.connections += 1
        self.recorder.tally.messages += self.client.messages
        self.log.arrivals.append(self.arrivals)
        if self.client.messages:
            self.log.ledgers[self._name] = self.ledger

    def due(self, intended_us: int) -> None:
        """The schedule wants one more message sent, then or as soon as the window allows."""
        if self._backlog is not None:
            self._backlog.append(intended_us)

    def take(self) -> list[bytes]:
        """The messages that are due and that the window allows: they are in flight now, the last one last.

        None before the phase begins: a client that hears something earlier would send what others are not there for.
        """
        ledger, backlog, recorder = self.ledger, self._backlog, self.recorder
        if not recorder.has_begun:
            return []
        now_us = recorder.clock.monotonic_us()
        places = min(self._window - ledger.waiting, self.unsent)
        if backlog is not None:
            intended = [backlog.popleft() for _ in range(min(places, len(backlog)))]
        else:
            intended = [now_us] * places
        if not intended or self.lost:
            return []
        number = ledger.next_number
        ledger.next_number += len(intended)
        self.unsent -= len(intended)
        recorder.tally.sent += len(intended)
        ledger.in_flight.update(zip(range(number, ledger.next_number), intended, strict=True))
        return self._writer.write(number, intended, recorder.clock.timestamp(now_us))

    def acknowledged(self, acks: Sequence[ServerFrame], now_us: int) -> None:
        """These acknowledgements came."""
        mark, name, ledger, kinds = self._mark, self._name, self.ledger, len(self.recorder.types)
        in_flight, pair = ledger.in_flight, ledger.pair
        now_ticks = now_us // TICK_US
        rows: list[AckRow] = []
        for ack in acks:
            words = ack.originalMessage.message.rsplit(".", 5)  # type: ignore[union-attr]
            try:
                text, connection, number_word, _, kind_word, _ = words
                if connection != name or not text.endswith(mark):
                    raise ValueError
                number, kind = int(number_word), int(kind_word)
                if kind >= kinds:
                    raise ValueError
                sent_us = in_flight.pop(number)
            except (ValueError, KeyError):
                self.recorder.tally.unexpected_acks += 1
                continue
            rows.append((sent_us, kind, now_ticks - sent_us // TICK_US))
            pair(number, ack.messageId)
        self.log.acked += len(rows)
        self.recorder.acknowledged(now_us, self.client.room, acks, rows)

    def refused(self, code: str) -> None:
        """An error frame came: one message less is in flight, nobody says which."""
        tally = self.recorder.tally
        if self.ledger.waiting > 0:
            self.ledger.freed += 1
            tally.refused += 1
            tally.refusals[code] += 1
        else:
            tally.unexpected_frames += 1

    def lose(self, cause: str) -> None:
        """The client is without a connection for good: what has no answer will get none. Once is enough."""
        if not self.lost:
            self.lost = True
            self._give_up()
            self.recorder.lost(f"{self._name} (room {self.client.room})", cause)

    def end(self) -> None:
        """End a phase: count what is unanswered as failed and what was not sent as unsent."""
        if not self.lost:
            self._give_up()

    def _give_up(self) -> None:
        self.recorder.tally.failed += self.ledger.waiting
        self.recorder.tally.unsent += self.unsent
