"""Who a client is, and what it may do: what its token says, or anybody where none is asked for."""

from __future__ import annotations

from collections.abc import Collection

from attrs import frozen
from zope.interface import Interface


@frozen(kw_only=True)
class Identity:
    """Judged once, when a connection is opened or a request comes; refreshed as a new value.

    :ivar user_id: whom it speaks for; None for anybody, as each message says.
    :ivar username: the name of that user in messages; None for any.
    :ivar expires_at: seconds since the epoch; None for never.
    :ivar readable: the rooms whose messages and members it may see; None for all.
    :ivar writable: the rooms that it may send to; None for all.
    :ivar is_operator: whether it may see and do what is for operators.
    """

    user_id: int | None = None
    username: str | None = None
    expires_at: float | None = None
    readable: Collection[int] | None = None
    writable: Collection[int] | None = None
    is_operator: bool = False

    def may_read(self, room: int) -> bool:
        """Whether it may be shown the room: what is said, what was said, who is there."""
        return self.readable is None or room in self.readable

    def may_write(self, room: int) -> bool:
        """Whether it may send messages to the room."""
        return self.writable is None or room in self.writable


#: Whoever comes where nobody is asked who it is: speaks for every user, in every room, for ever.
ANYONE = Identity()

#: Whoever has the operator's token, or comes where only operators do.
OPERATOR = Identity(is_operator=True)


class ITokenVerifier(Interface):
    """Knows whose tokens are good here."""

    def verify(token: str) -> Identity:
        """Who carries it. Reactor thread; does not block.

        :raises TokenRefused: it is not good; the text repeats nothing of it.
        :raises Unavailable: that cannot be judged now, but may be in a moment: keys are being fetched.
        """
