"""Which instances of the cluster live, and who is in their rooms."""

from __future__ import annotations

from collections.abc import Awaitable, Collection, Mapping, Sequence

from attrs import frozen
from zope.interface import Interface


@frozen
class Run:
    """An instance from one attachment of its fan-out queue to the next. That queue and its rooms' members belong to it.

    :ivar run_id: tells the runs of one server apart; a new one for each new fan-out queue.
    :ivar fanout_queue: the name of its queue.
    """

    server_id: str
    run_id: str
    fanout_queue: str


@frozen
class InstanceState:
    """How one server's newest heartbeat is, by the database's clock.

    :ivar up_seconds: since it registered. :ivar silent_seconds: since its last heartbeat.
    """

    server_id: str
    up_seconds: float
    silent_seconds: float


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


class IMembershipTable(Interface):
    """The runs of the cluster. All times are the database's own, so that nobody's clock matters.

    What is awaited fails with :class:`chatflow.errors.Unavailable` when the database does not answer.
    """

    def register(run: Run, former: Run | None) -> Awaitable[None]:
        """It lives from now on. Call it before its queue is made, so that none is ever unknown.

        :param former: the same process's run until now: who is in its rooms is taken over.
        """

    def beat(run: Run) -> Awaitable[Collection[int] | None]:
        """It lives. The rooms in which it is known to have members; None when it was taken for dead: its queue is being
        removed, or was."""

    def tell(run: Run, changed: Mapping[int, RoomPresence]) -> Awaitable[None]:
        """It has so many members in these rooms."""

    def others(run: Run) -> Awaitable[Mapping[int, RoomPresence]]:
        """The rooms of all runs that live, without this one, by room; only those with members."""

    def leave(run: Run) -> Awaitable[None]:
        """It has removed its queue itself, and has no members any more."""

    def dead(silent_seconds: float) -> Awaitable[Sequence[Run]]:
        """Those whose last beat is older."""

    def claim_dead(silent_seconds: float) -> Awaitable[Sequence[Run]]:
        """As :meth:`dead`, for one caller at a time: for minutes nobody else gets these, nor do they live again."""

    def forget(run: Run) -> Awaitable[None]:
        """What a claimed one left behind is removed."""

    def fanout_queues() -> Awaitable[Collection[str]]:
        """The names of the queues of all runs, dead or alive."""


class IPresenceTable(Interface):
    """What instances tell each other of their members. Awaiting fails with :class:`chatflow.errors.Unavailable`."""

    def beat() -> Awaitable[Collection[int] | None]:
        """This instance lives. The rooms in which others know it to have members; None if nobody can be told now."""

    def tell(changed: Mapping[int, RoomPresence]) -> Awaitable[None]:
        """This instance has so many members in these rooms."""

    def others() -> Awaitable[Mapping[int, RoomPresence]]:
        """The rooms of all other living instances, by room; only those with members."""
