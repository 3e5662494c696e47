"""Which place in the room each acknowledged message has got: told by the server, or seen when the message comes."""

from __future__ import annotations

from twisted.internet.defer import Deferred, fail, succeed

from chatflow.errors import ChatFlowError


class PlaceUnknown(ChatFlowError):
    """The message is durable, but nobody will tell this client its seq any more."""


class PendingSeq:
    """The seq of one message, once it is known."""

    def __init__(self) -> None:
        self._outcome: int | PlaceUnknown | None = None
        self._waiting: list[Deferred[int]] = []

    @property
    def awaited(self) -> bool:
        """Whether anybody waits for it."""
        return any(not deferred.called for deferred in self._waiting)

    def seq(self) -> Deferred[int]:
        """Fires once it is known, or fails with :class:`PlaceUnknown`. Each call gives another Deferred."""
        if self._outcome is None:
            waiting: Deferred[int] = Deferred()
            self._waiting.append(waiting)
            return waiting
        return succeed(self._outcome) if isinstance(self._outcome, int) else fail(self._outcome)

    def settle(self, outcome: int | PlaceUnknown) -> None:
        """It is known, or never will be."""
        self._outcome = outcome
        waiting, self._waiting = self._waiting, []
        for deferred in waiting:
            if isinstance(outcome, int):
                deferred.callback(outcome)
            else:
                deferred.errback(outcome)


class PendingSeqs:
    """:param limit: so many wait at most; beyond that the oldest is given up."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._waiting: dict[str, PendingSeq] = {}
        #: Of messages that came before their acknowledgement did.
        self._early: dict[str, int] = {}

    @property
    def awaited(self) -> bool:
        """Whether anybody waits for a place."""
        return any(place.awaited for place in self._waiting.values())

    def acknowledged(self, message_id: str) -> PendingSeq:
        """The place of a message that is durable."""
        place = PendingSeq()
        seq = self._early.pop(message_id, None)
        if seq is not None:
            place.settle(seq)
            return place
        self._waiting[message_id] = place
        if len(self._waiting) > self._limit:
            oldest = self._waiting.pop(next(iter(self._waiting)))
            oldest.settle(PlaceUnknown("too many later messages were acknowledged meanwhile"))
        return place

    def found(self, message_id: str, seq: int, *, early: bool) -> None:
        """A message has this place.

        :param early: whether it may be one that is not acknowledged yet.
        """
        place = self._waiting.pop(message_id, None)
        if place is not None:
            place.settle(seq)
        elif early:
            self._early[message_id] = seq
            if len(self._early) > self._limit:
                del self._early[next(iter(self._early))]

    def close(self) -> None:
        """Fail every seq that is still waited for: the client is closed."""
        waiting, self._waiting = self._waiting, {}
        for place in waiting.values():
            place.settle(PlaceUnknown("the client was closed before the server told the place"))
