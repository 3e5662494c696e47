"""Which instances of the cluster live, and who is in their rooms."""

from __future__ import annotations

from collections.abc import Awaitable, Collection, Mapping, Sequence

from attrs import frozen
from zope.interface import Interface


@frozen
class InstanceStart:
    """One start of an instance, with what it must have removed once it is dead.

    :ivar start: tells the starts of one server apart; a new one for each new fan-out queue.
    :ivar fanout_queue: the name of its queue.
    """

    server_id: str
    start: str
    fanout_queue: str


@frozen
class InstanceState:
    """How one server's newest heartbeat is, by the database's clock.

    :ivar up_seconds: since it registered. :ivar silent_seconds: since its last heartbeat.
    """

    server_id: str
    up_seconds: float
    silent_seconds: float


class IInstanceTable(Interface):
    """Which instances of the cluster live. All times are the database's own, so that nobody's clock matters.

    What is awaited fails with :class:`chatflow.errors.Unavailable` when the database does not answer.
    """

    def register(instance: InstanceStart) -> Awaitable[None]:
        """Call it before the queue is made, so that none is ever unknown."""

    def heartbeat(instance: InstanceStart) -> Awaitable[bool]:
        """It lives. False when it was taken for dead: its queue is being removed, or was."""

    def leave(instance: InstanceStart) -> Awaitable[None]:
        """It has removed its queue itself."""

    def dead(silent_seconds: float) -> Awaitable[Sequence[InstanceStart]]:
        """Those whose last heartbeat is older."""

    def claim_dead(silent_seconds: float) -> Awaitable[Sequence[InstanceStart]]:
        """The same for one caller at a time: nobody else is given them for some minutes, nor are they alive again."""

    def forget(instance: InstanceStart) -> Awaitable[None]:
        """What a claimed one left behind is removed."""

    def fanout_queues() -> Awaitable[Collection[str]]:
        """The names of all queues that have an entry, dead or alive."""


@frozen(order=True)
class Who:
    """Whose connection this is, as far as the others are to see it."""

    user_id: int
    username: str


@frozen
class RoomPresence:
    """:ivar members: connections in the room.
    :ivar users: those that have said who they are, by name, each with the number of its connections.
    :ivar truncated: whether there are more users than these.
    """

    members: int = 0
    users: tuple[tuple[Who, int], ...] = ()
    truncated: bool = False


class IPresenceTable(Interface):
    """What instances tell each other. Awaiting fails with :class:`chatflow.errors.Unavailable`."""

    def beat(changed: Mapping[int, RoomPresence]) -> Awaitable[bool]:
        """This instance lives, and has so many members in these rooms. False if nothing was known of it until now."""

    def others() -> Awaitable[Mapping[int, RoomPresence]]:
        """The rooms of all other living instances, by room; only those with members."""

    def leave() -> Awaitable[None]:
        """This instance has no members any more."""
