"""The broker of a daemon that runs alone: everything in this process, durable through the database."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from twisted.application.service import Service
from zope.interface import implementer

from chatflow.broker.depth import EmbeddedDepths
from chatflow.broker.embedded_queue import EmbeddedRoomQueue, NoFanout
from chatflow.contracts.broker import IBroker
from chatflow.contracts.deadletters import IDeadLetters
from chatflow.contracts.messages import StoredMessage
from chatflow.readings import Reading
from chatflow.rooms.presence import BEAT_SECONDS, NoOthers


@implementer(IBroker)
class EmbeddedBroker:
    """Room queue in this process, and nobody to tell or to hear from.

    :param rooms: how many rooms there are.
    :param until_commit_seconds: see :class:`EmbeddedRoomQueue`.
    """

    beat_seconds = BEAT_SECONDS
    transport: Sequence[tuple[str, Service]] = ()
    subscription: Sequence[tuple[str, Service]] = ()

    def __init__(self, *, rooms: int, dead_letters: IDeadLetters, until_commit_seconds: Callable[[], float]) -> None:
        self.room_queue = EmbeddedRoomQueue(rooms, until_commit_seconds)
        self.fanout = NoFanout()
        self.dead_letters = dead_letters
        self.presence = NoOthers()
        self.depths = EmbeddedDepths(self.room_queue)

    def subscribe(self, deliver: Callable[[Sequence[StoredMessage]], object]) -> None:
        """See :class:`IBroker`. Nobody else publishes."""

    def is_subscribed(self) -> bool:
        """See :class:`IBroker`. Nobody else publishes, and nothing of it is lost."""
        return True

    def gap_observed(self) -> None:
        """See :class:`IBroker`. There is no subscription that it could be due to."""

    def gap_timeout_seconds(self) -> float:
        """See :class:`IBroker`. Nothing is on its way."""
        return 0.0

    def begin_drain(self) -> None:
        """See :class:`IBroker`. Nothing waits here."""

    def abort_pending(self) -> None:
        """See :class:`IBroker`."""
        self.room_queue.close()

    def readings(self) -> Sequence[Reading]:
        """See :class:`IBroker`. There are none."""
        return ()
