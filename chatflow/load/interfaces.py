"""What the parts of the load client ask of each other: a connection of its owner, a worker of its clients, a run of its
workers, in whichever process each of them is."""

from __future__ import annotations

from typing import Any

import msgspec
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from zope.interface import Attribute, Interface

from chatflow.errors import ChatFlowError
from chatflow.load.client_session import Session
from chatflow.load.tally import PhaseTally
from chatflow.load.wire import WireError

Bounds = dict[int, tuple[int, int]]
"""Of each room the first and the last seq of the phase's messages."""


class CannotOpen(ChatFlowError):
    """A connection could not be opened. The text is one line: where, and why."""


class Progress(msgspec.Struct):
    """How far a process is in its phase."""

    sent: int = 0
    acked: int = 0
    delivered: int = 0


class IConnectionOwner(Interface):
    """Whoever makes connections, and is told of each in this order: opened or refused; what comes; ended."""

    def connection_opened() -> None:
        """The handshake is done."""

    def connection_refused(error: WireError) -> None:
        """The handshake failed; the connection is aborted behind this call."""

    def send() -> None:
        """Something came, so that the window may allow more."""

    def message_refused(code: str) -> None:
        """An error frame came."""

    def connection_closed(code: int, reason: str) -> None:
        """The server sent a close frame."""

    def connection_broken(error: Exception) -> None:
        """The server sent what cannot be understood; the connection is aborted behind this call."""

    def connection_ended(reason: Failure) -> None:
        """It is gone, whoever ended it; nothing is told any more. It is not ``closing`` if nobody here asked for it."""


class ILoadClient(Interface):
    """A virtual client at work."""

    session: Session = Attribute("what it sends and receives")
    opened: Deferred[None] = Attribute("fires once the first handshake is done, fails with WireError")
    closed: Deferred[None] = Attribute("fires when its connection is gone for good; it does not fail")

    def connect() -> Deferred[Any]:
        """Begin. Fires when it is connected, before the handshake; fails if that cannot be."""

    def send() -> None:
        """Send what is due and the window allows, in one write."""

    def close() -> None:
        """The phase is over: say goodbye."""

    def abort() -> None:
        """Be gone at once, or as soon as it is connected."""


class ILoadWorker(Interface):
    """The virtual clients of one process. The first three methods are called in this order for each phase."""

    progress: Progress = Attribute("how far it is")

    def open(phase: int) -> Deferred[None]:
        """Connect all clients of the phase with that index.

        Fires when all handshakes are done; fails with :class:`CannotOpen` when one cannot be, all others then being
        closed again.
        """

    def work(start_us: int) -> Deferred[Bounds]:
        """Begin at that CLOCK_MONOTONIC to send.

        Fires when all messages are answered, and all acknowledged ones have been seen in their rooms, or when there
        was no progress for too long, with the bounds as far as this process knows them. It does not fail.
        """

    def settle(bounds: Bounds) -> Deferred[PhaseTally]:
        """Wait until every client has received its room's last message, then close all.

        Fires with the tally then, or when there was no progress for too long. It does not fail.
        """

    def stop() -> Deferred[PhaseTally | None]:
        """Give up: close all now. Fires with the tally as far as it goes, or None if no phase was open."""

    def close() -> Deferred[None]:
        """No more phases. Fires when whatever the worker ran in is gone; it does not fail."""
