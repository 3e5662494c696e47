"""What a client has to say, and what each answer means for it. No input and no output.

On its connection every frame has exactly one answer. An acknowledgement names its message, an error does not. So from
the first error on nothing more is sent until all that is under way is answered, which is a *round*: the messages
without an acknowledgement are then the refused ones. If their errors are the same, so is their fate; if some may be
sent again and others may not, they are sent one at a time, where each answer belongs to the one message under way.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import cast

from attrs import define, field, frozen

from chatflow.errors import TRANSIENT_CODES, ChatFlowError, ErrorCode, Refused

_MAX_ROUNDS = 20


class SendFailed(ChatFlowError):
    """A message was not acknowledged and will not be sent again; it may have been stored all the same."""


@frozen
class Refusal:
    """A message was refused, and nobody says which.

    :ivar retry_after_seconds: when to send it again, if the server says so.
    """

    code: str
    reason: str
    retry_after_seconds: float | None = field(default=None, eq=False)


@define
class Outbox:
    """Messages that are not acknowledged, under their clientMessageId, in the order in which they are to be stored."""

    _frames: dict[str, bytes] = field(init=False, factory=dict)
    _waiting: deque[str] = field(init=False, factory=deque)
    _under_way: dict[str, None] = field(init=False, factory=dict)
    #: Of this round.
    _refusals: list[Refusal] = field(init=False, factory=list)
    #: Sent one at a time, because nobody knows which of the refusals were theirs.
    _doubtful: set[str] = field(init=False, factory=set)
    #: Rounds without any acknowledgement.
    rounds: int = field(init=False, default=0)
    #: How long the server wants to be left alone after this round, if it has said so.
    retry_after_seconds: float | None = field(init=False, default=None)
    #: A round has ended: :meth:`to_send` gives nothing until :meth:`resume`.
    pausing: bool = field(init=False, default=False)

    def __len__(self) -> int:
        return len(self._frames)

    def add(self, own_id: str, frame: bytes) -> None:
        """Take a new message, behind those that wait."""
        self._frames[own_id] = frame
        self._waiting.append(own_id)

    def connected(self) -> None:
        """There is a new connection, on which nothing is under way yet."""
        self._waiting = deque(self._frames)
        self._under_way.clear()
        self._refusals.clear()
        self.pausing = False

    def to_send(self) -> list[bytes]:
        """Frames that are to be sent now, and are under way from now on."""
        if self.pausing or self._refusals:
            return []
        count = 1 - len(self._under_way) if self._doubtful else len(self._waiting)
        chosen = [self._waiting.popleft() for _ in range(min(count, len(self._waiting)))]
        self._under_way.update(dict.fromkeys(chosen))
        return [self._frames[own_id] for own_id in chosen]

    def acknowledged(self, own_id: str) -> bool:
        """A message is durable. False if it is none of these."""
        if own_id not in self._under_way:
            return False
        self._forget(own_id)
        self.rounds = 0
        return True

    def refused(self, refusal: Refusal) -> None:
        """One of the messages under way was refused."""
        if self._under_way:
            self._refusals.append(refusal)

    def settle(self) -> list[tuple[str, ChatFlowError]]:
        """If the round is over: those messages that have failed, with the reason. The others are to be sent again."""
        if not self._refusals or len(self._refusals) < len(self._under_way):
            return []
        refusals, self._refusals = self._refusals, []
        own_ids = list(self._under_way)
        final = any(refusal.code not in TRANSIENT_CODES for refusal in refusals)
        if final and len(set(refusals)) == 1:
            code = cast(ErrorCode, refusals[0].code)
            return self._fail(own_ids, lambda: Refused(code, refusals[0].reason))
        self.rounds += 1
        if self.rounds == _MAX_ROUNDS:
            self.rounds = 0
            text = f"the server keeps refusing: {refusals[-1].code}: {refusals[-1].reason}"
            return self._fail(own_ids, lambda: SendFailed(text))
        if final:
            self._doubtful.update(own_ids)
        told = [each.retry_after_seconds for each in refusals if each.retry_after_seconds is not None]
        self.retry_after_seconds = max(told, default=None)
        self._waiting.extendleft(reversed(own_ids))
        self._under_way.clear()
        self.pausing = True
        return []

    def resume(self) -> None:
        """Send again what waits, after a pause."""
        self.pausing = False

    def _fail(self, own_ids: list[str], error: Callable[[], ChatFlowError]) -> list[tuple[str, ChatFlowError]]:
        for own_id in own_ids:
            self._forget(own_id)
        return [(own_id, error()) for own_id in own_ids]

    def _forget(self, own_id: str) -> None:
        del self._frames[own_id], self._under_way[own_id]
        self._doubtful.discard(own_id)
