"""What a roll needs of a place where instances run."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Protocol

from attrs import frozen


class State(enum.Enum):
    """Of an instance. Every transition may also happen by itself: it is looked at, not remembered."""

    READY = "ready"
    STARTING = "not ready"
    STOPPING = "draining"
    STOPPED = "stopped"


@frozen
class Instance:
    """One instance at one moment.

    :ivar release: what it runs, for people.
    :ivar current: whether that is what all are to run.
    :ivar in_balancer: whether new clients are sent to it.
    :ivar note: what else there is to say, such as why it is not ready.
    :ivar clients: connections; None where that is not known. Likewise ``lag_seconds``, see :meth:`Fleet.lag_seconds`.
    """

    name: str
    release: str
    current: bool
    state: State
    in_balancer: bool
    note: str = ""
    clients: int | None = None
    lag_seconds: float | None = None

    @property
    def serves(self) -> bool:
        """Whether clients are sent to it, and it takes them."""
        return self.in_balancer and self.state is State.READY


class Fleet(Protocol):
    """All methods begin something, or say how it stands; none waits until it is done. Each may be repeated.

    Methods raise :class:`~scripts.deployment.errors.Stopped` when the place does not answer.

    :ivar settle_seconds: for how long after :meth:`take_out` the balancer may still send clients.
    """

    settle_seconds: float

    def instances(self) -> Sequence[Instance]:
        """All there are, and all that are missing; always in the same order."""

    def take_out(self, instance: Instance) -> None:
        """Send it no more clients; those that it has stay."""

    def stop(self, instance: Instance) -> None:
        """Let it finish what it accepted, send its clients elsewhere, and end."""

    def start(self, instance: Instance) -> None:
        """Start what has stopped, with the release that all are to run."""

    def put_back(self, instance: Instance) -> None:
        """Send it clients."""

    def lag_seconds(self) -> float | None:
        """How long the oldest message that is not stored yet has waited; None if nobody knows."""
