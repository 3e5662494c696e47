"""What steers the connections of one process, wherever that process is."""

from __future__ import annotations

import msgspec
from twisted.internet.defer import Deferred
from zope.interface import Attribute, Interface

from chatflow.errors import ChatFlowError
from chatflow.load.verify import PhaseTally

Bounds = dict[int, tuple[int, int]]
"""Of each room the first and the last seq of the phase's messages."""


class CannotOpen(ChatFlowError):
    """A connection could not be opened. The text is one line: where, and why."""


class Progress(msgspec.Struct):
    """How far a process is in its phase."""

    sent: int = 0
    acked: int = 0
    delivered: int = 0


class ICrew(Interface):
    """The connections of one process. The four methods are called in this order for each phase."""

    progress: Progress = Attribute("how far it is")

    def open(phase: int) -> Deferred[None]:
        """Open all connections of the phase with that index.

        Fires when all handshakes are done; fails with :class:`CannotOpen` when one cannot be, all others then being
        closed again.
        """

    def work(start_us: int) -> Deferred[Bounds]:
        """Begin at that CLOCK_MONOTONIC to send.

        Fires when all messages are answered, and all acknowledged ones have been seen in their rooms, or when there
        was no progress for too long, with the bounds as far as this process knows them. It does not fail.
        """

    def settle(bounds: Bounds) -> Deferred[PhaseTally]:
        """Wait until every connection has received its room's last message, then close all.

        Fires with the tally then, or when there was no progress for too long. It does not fail.
        """

    def stop() -> Deferred[PhaseTally | None]:
        """Give up: close all now. Fires with the tally as far as it goes, or None if no phase was open."""

    def close() -> Deferred[None]:
        """No more phases. Fires when whatever the crew ran in is gone; it does not fail."""
