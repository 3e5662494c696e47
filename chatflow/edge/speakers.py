"""For whom one connection speaks: an operator may want to end it therefore."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection

#: How often a connection may change the user for whom it speaks, and still be known by the first.
MAX_CHANGES = 20


class Speakers:
    """The users of one connection.

    :param named: whom it said to be when it came; None for nobody.
    """

    __slots__ = ("_last", "_named", "_spoken")

    def __init__(self, named: int | None) -> None:
        self._named: tuple[int, ...] = () if named is None else (named,)
        self._last = 0
        self._spoken: deque[int] | None = None  # most connections only listen

    def spoke(self, user_id: int) -> None:
        """A message in the name of this user was accepted."""
        if user_id != self._last:
            self._last = user_id
            if self._spoken is None:
                self._spoken = deque(maxlen=MAX_CHANGES)
            self._spoken.append(user_id)

    @property
    def named(self) -> Collection[int]:
        """Whom it said to be."""
        return self._named

    @property
    def all(self) -> Collection[int]:
        """The same, and those for whom it has spoken of late."""
        return {*self._named, *(self._spoken or ())}
