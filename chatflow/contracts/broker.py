"""What carries messages between the instances, as a whole: its parts, their services, and what it is told and asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from zope.interface import Attribute, Interface

from chatflow.contracts.messages import StoredMessage
from chatflow.readings import Reading


class IBroker(Interface):
    """One instance's room queue, fan-out and dead letters. Runs on the reactor thread."""

    room_queue = Attribute("An IRoomQueue.")
    fanout = Attribute("An IFanout.")
    dead_letters = Attribute("An IDeadLetters.")
    presence = Attribute("An IPresenceTable; its beat is the instance's sign of life.")
    beat_seconds = Attribute("How often to beat.")
    depths = Attribute("An IDepths: how much waits in each room's queue.")
    transport = Attribute("Services by name, to be started in this order before the consumer and stopped after it.")
    subscription = Attribute("Services by name, to be started after the consumer and stopped before it.")

    def subscribe(deliver: Callable[[Sequence[StoredMessage]], object]) -> None:
        """Give ``deliver`` what other instances publish: of one room at a time, maybe twice, late or never.

        Call it once, before the start.
        """

    def is_subscribed() -> bool:
        """Whether what others publish arrives here, as far as is known. Without it an instance is not ready."""

    def gap_observed() -> None:
        """Messages turned out to be stored that did not come here by themselves."""

    def gap_timeout_seconds() -> float:
        """How long messages that are due may still be on their way, before they are read from the database."""

    def begin_drain() -> None:
        """The daemon begins to stop: wait for nothing any more that gathers messages, nor long for new ones."""

    def abort_pending() -> None:
        """The daemon has waited for long: refuse what is published and not durable, where that is possible."""

    def readings() -> Sequence[Reading]:
        """Figures for Prometheus."""
