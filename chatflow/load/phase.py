"""A phase under way in one process: its virtual clients, and what can be said about them all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from chatflow.load.client_session import Session
from chatflow.load.interfaces import Bounds, ILoadClient
from chatflow.load.recorder import Recorder
from chatflow.load.roomlog import RoomLog
from chatflow.load.scenario import Phase
from chatflow.load.tally import PhaseTally
from chatflow.load.wall_clock import processor_seconds


class RunningPhase:
    """Made when the phase is opened; :meth:`finish` is called once, when it ends.

    :param logs: by room, of the rooms that the clients are in.
    """

    def __init__(
        self, phase: Phase, recorder: Recorder, logs: Mapping[int, RoomLog], clients: Sequence[ILoadClient]
    ) -> None:
        self.phase = phase
        self.recorder = recorder
        self.clients = clients
        self._logs = logs
        self._used_seconds = (0.0, 0.0)

    def begin(self, start_us: int) -> None:
        """The first message is sent now (CLOCK_MONOTONIC, µs)."""
        self.recorder.begin(start_us)
        self._used_seconds = processor_seconds()

    def _living(self) -> Iterator[Session]:
        return (client.session for client in self.clients if not client.session.lost)

    def waiting(self) -> int:
        """How many messages are sent but not answered, on living connections."""
        return sum(session.ledger.waiting for session in self._living())

    def never_broadcast(self) -> int:
        """How many messages are acknowledged and have not been seen in their room, lost connections included."""
        return sum(client.session.ledger.never_broadcast() for client in self.clients)

    def is_servers_turn(self) -> bool:
        """Whether anything that was sent waits for its answer or its broadcast."""
        return bool(self.waiting() or self.never_broadcast())

    def unanswered(self) -> int:
        """What :meth:`ILoadWorker.work` waits for: answers, then broadcasts."""
        return self.recorder.tally.owed or sum(session.ledger.never_broadcast() for session in self._living())

    def behind(self, bounds: Bounds) -> int:
        """How many deliveries are to come, if there are no holes."""
        return sum(
            max(0, last + 1 - max(session.arrivals.next, first))
            for session in self._living()
            for first, last in [bounds.get(session.client.room, (0, -1))]
        )

    def bounds(self) -> Bounds:
        """First and last seq of each room, as far as this process knows them."""
        return {room: (log.first, log.last) for room, log in self._logs.items() if log.last}

    def unanswered_rows(self) -> list[tuple[int, int]]:
        """Intended send time (µs) and room of each message without an acknowledgement."""
        return [
            (sent_us, client.session.client.room)
            for client in self.clients
            for sent_us in client.session.ledger.in_flight.values()
        ]

    def abort(self) -> None:
        """Let go of all connections at once."""
        for client in self.clients:
            client.abort()

    def finish(self, bounds: Bounds) -> PhaseTally:
        """:return: the tally, with what is known only now.

        :param bounds: of each room, as all processes together know them.
        """
        tally = self.recorder.tally
        self.recorder.close()
        cpu, waited = (now - then for now, then in zip(processor_seconds(), self._used_seconds, strict=True))
        tally.cpu_seconds, tally.waited_seconds = [cpu], [waited]
        tally.never_broadcast = self.never_broadcast()
        for client in self.clients:
            session = client.session
            session.end()
            if session.client.room in bounds:
                expected, received = session.arrivals.judge(*bounds[session.client.room])
                tally.expected += expected
                tally.received += received
        ids = self.recorder.kept.ids
        for room, log in self._logs.items():
            tally.rooms[room] = log.summary(*bounds.get(room, (0, 0)), bytes(ids.get(room, b"")))
        return tally
