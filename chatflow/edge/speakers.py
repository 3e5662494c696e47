"""For whom one connection speaks: an operator may want to end it therefore."""

from __future__ import annotations

from collections.abc import Collection

#: A connection that speaks for more users is known by those to whom it came last.
MAX_SPOKEN_USERS = 20


class Speakers:
    """The users of one connection.

    :param named: whom it said to be when it came; None for nobody.
    """

    __slots__ = ("_named", "_spoken")

    def __init__(self, named: int | None) -> None:
        self._named: tuple[int, ...] = () if named is None else (named,)
        self._spoken: dict[int, None] = {}

    def spoke(self, user_id: int) -> None:
        """A message in the name of this user was accepted."""
        if user_id not in self._spoken:
            self._spoken[user_id] = None
            if len(self._spoken) > MAX_SPOKEN_USERS:
                del self._spoken[next(iter(self._spoken))]

    @property
    def named(self) -> Collection[int]:
        """Whom it said to be."""
        return self._named

    @property
    def all(self) -> Collection[int]:
        """The same, and those for whom it has spoken."""
        return {*self._named, *self._spoken}
