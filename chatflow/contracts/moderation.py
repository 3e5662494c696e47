"""What an operator orders against users, addresses and rooms."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from ipaddress import IPv4Network, IPv6Network
from typing import Literal

from attrs import frozen
from zope.interface import Interface

#: ``disconnect`` ends the connections that there are; ``mute`` and ``ban`` are in force until they end.
Action = Literal["disconnect", "mute", "ban"]

#: More than are ever ordered by hand. Every instance keeps all of them in memory.
MAX_SANCTIONS = 10_000

MAX_REASON_CHARACTERS = 200

#: The longest that one lasts which has an end.
MAX_SECONDS = 3650 * 86_400


@frozen
class Subject:
    """Whoever meets all of its parts that are not None; at least one is not.

    :ivar network: of the client's address.
    """

    user_id: int | None = None
    network: IPv4Network | IPv6Network | None = None
    room: int | None = None

    def __str__(self) -> str:
        parts = {"user": self.user_id, "address": self.network, "room": self.room}
        return ", ".join(f"{name} {value}" for name, value in parts.items() if value is not None)


@frozen(kw_only=True)
class Sanction:
    """An order, as it is now by the database's clock.

    :ivar by: who ordered it. :ivar lifted_by: who ended it before its time.
    :ivar age_seconds: since it was ordered.
    :ivar left_seconds: until it ends; None for no end, not positive if it has ended.
    :ivar ordered_at_us, ends_at_us: the same as microseconds since 1970, to be shown.
    """

    action: Action
    subject: Subject
    reason: str
    by: str
    age_seconds: float
    left_seconds: float | None
    ordered_at_us: int
    ends_at_us: int | None
    lifted_by: str | None = None

    @property
    def lasts(self) -> bool:
        """Whether it is in force until it ends; a disconnection happens once."""
        return self.action != "disconnect"


@frozen
class Sanctions:
    """All that were in force at some moment.

    :ivar version: differs after every change.
    :ivar in_force: in the order in which they were ordered; of ``disconnect`` those of the last hour.
    :ivar ended: those that changed since the version that was known and are not in force.
    """

    version: str
    in_force: Sequence[Sanction]
    ended: Sequence[Sanction] = ()


class ISanctionTable(Interface):
    """Where sanctions are kept. All times are the database's own.

    What is awaited fails with :class:`chatflow.errors.Unavailable` when the database does not answer.
    """

    def read(known_version: str | None) -> Awaitable[Sanctions | None]:
        """Those in force; None if nothing has changed since a version that is known."""

    def order(
        action: Action, subject: Subject, *, reason: str, by: str, for_seconds: float | None
    ) -> Awaitable[Sanction]:
        """Order it, in the place of the same order that is in force.

        :param for_seconds: None for no end. Of no meaning to ``disconnect``.
        Awaiting fails with :class:`chatflow.errors.TooManySanctions`.
        """

    def lift(action: Action, subject: Subject, *, by: str) -> Awaitable[Sanction | None]:
        """End the one with just this subject; None if none is in force."""
