"""What is sent, until it is answered and its place in the room is known; and when it is sent again."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from attrs import field, frozen
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall

from chatflow.client.outbox import Outbox, Refusal, SendFailed
from chatflow.client.pending import PendingSeq, PendingSeqs
from chatflow.client.protocol import Connection
from chatflow.client.session import Acknowledged

# After a refusal, before what was refused is sent again on the same connection.
_FIRST_RESEND_SECONDS = 1.0
_LONGEST_RESEND_SECONDS = 15.0


@frozen
class Sent:
    """An acknowledged message."""

    message_id: str
    _ask: Callable[[], Deferred[int]] = field(repr=False)

    @property
    def seq(self) -> Deferred[int]:
        """Its place; each access gives another Deferred.

        Fires once the server tells it or the message comes. Fails with :class:`chatflow.client.PlaceUnknown` when the
        client is closed before, or when twice ``max_unacknowledged`` later messages wait for their places.
        """
        return self._ask()


class Sending:
    """The messages of one client. Runs on the reactor thread.

    :param max_unacknowledged: while so many have no answer, :meth:`send` waits.
    :param uniform: of two bounds, for the pauses.
    :param why_ended: why nothing is sent any more; None while something is.
    :param expecting: called when an answer is waited for from now on.
    :param settled: called when one has come.
    """

    def __init__(
        self,
        reactor: Any,
        *,
        max_unacknowledged: int,
        uniform: Callable[[float, float], float],
        why_ended: Callable[[], SendFailed | None],
        expecting: Callable[[], object],
        settled: Callable[[], object],
    ) -> None:
        self._reactor = reactor
        self._max_unacknowledged = max_unacknowledged
        self._uniform = uniform
        self._why_ended = why_ended
        self._expecting = expecting
        self._settled = settled
        self._outbox = Outbox()
        self._places = PendingSeqs(2 * max_unacknowledged)
        self._answers: dict[str, Deferred[Sent]] = {}
        self._waiting: list[Deferred[None]] = []
        self._resend: IDelayedCall | None = None
        self._connection: Connection | None = None

    async def send(self, own_id: str, frame: bytes) -> Sent:
        """Send it, now or once there is a connection; returns when it is durable.

        :param own_id: its clientMessageId.
        :raises Refused: the server will never take it.
        :raises SendFailed: the server kept refusing, or there is no answer and never will be one.
        """
        while len(self._outbox) >= self._max_unacknowledged and self._why_ended() is None:
            turn: Deferred[None] = Deferred()
            self._waiting.append(turn)
            await turn
        failure = self._why_ended()
        if failure is not None:
            raise failure
        answer: Deferred[Sent] = Deferred()
        self._answers[own_id] = answer
        self._outbox.add(own_id, frame)
        self._flush()
        self._expecting()
        return await answer

    @property
    def is_unanswered(self) -> bool:
        """Whether any message has no answer."""
        return len(self._outbox) > 0

    @property
    def expects_answers(self) -> bool:
        """Whether anybody waits for an answer, or for a message's place."""
        return self.is_unanswered or self._places.awaited

    def connected(self, connection: Connection) -> None:
        """Send on this connection from now on, what has no answer first."""
        self._connection = connection
        self._outbox.connected()
        self._flush()

    def lost(self) -> None:
        """There is no connection."""
        self._connection = None
        if self._resend is not None and self._resend.active():
            self._resend.cancel()

    def end(self, failure: Callable[[], SendFailed]) -> None:
        """Nothing more comes: fail what has no answer, one failure each, and the places that nobody will tell."""
        answers, self._answers = self._answers, {}
        for answer in answers.values():
            answer.errback(failure())
        self._places.close()
        self._wake()

    def acknowledged(self, event: Acknowledged) -> None:
        """A message is durable."""
        if not self._outbox.acknowledged(event.own_id):
            return
        place = self._places.acknowledged(event.message_id)
        self._answers.pop(event.own_id).callback(Sent(event.message_id, partial(self._ask, place)))
        self._settle()

    def refused(self, refusal: Refusal) -> None:
        """One of them was refused."""
        self._outbox.refused(refusal)
        self._settle()

    def found(self, message_id: str, seq: int, *, early: bool) -> None:
        """See :meth:`PendingSeqs.found`."""
        self._places.found(message_id, seq, early=early)

    def _ask(self, place: PendingSeq) -> Deferred[int]:
        seq = place.seq()
        self._expecting()
        return seq

    def _flush(self) -> None:
        if self._connection is not None:
            for frame in self._outbox.to_send():
                self._connection.send(frame)

    def _settle(self) -> None:
        """Something was answered: what follows for the rest?"""
        for own_id, error in self._outbox.settle():
            self._answers.pop(own_id).errback(error)
        if not self._outbox.pausing:
            self._flush()
        elif self._resend is None or not self._resend.active():
            self._resend = self._reactor.callLater(self._resend_seconds(), self._send_again)
        self._wake()
        self._settled()

    def _resend_seconds(self) -> float:
        """As the server says; if it does not, or if that was of no use, longer and longer."""
        rounds, told = self._outbox.rounds, self._outbox.retry_after_seconds
        if told is not None and rounds == 1:
            return told
        longest = min(_LONGEST_RESEND_SECONDS, _FIRST_RESEND_SECONDS * 2 ** (rounds - 1))
        return max(told or 0.0, self._uniform(longest / 2, longest))

    def _send_again(self) -> None:
        self._outbox.resume()
        self._flush()

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for turn in waiting:
            turn.callback(None)
