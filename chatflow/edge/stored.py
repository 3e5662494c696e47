"""Tells senders which place their message has got, if their dialect can.

What is delivered in a room is compared with what these senders wait for. A message that was stored before, sent again
under its clientMessageId, is not delivered again: its place is looked up.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence

from attrs import define
from twisted.internet.interfaces import IReactorTime

from chatflow.contracts.members import IMember
from chatflow.contracts.messages import Message, StoredMessage
from chatflow.errors import Unavailable
from chatflow.rooms.hub import Hub

#: Of one connection; the oldest is forgotten beyond that, and its sender learns its place from the broadcast only.
_MAX_PER_SENDER = 1000
_LOOK_UP_AFTER_SECONDS = 2.0
_FORGET_AFTER_SECONDS = 300.0
_MAX_LOOKED_UP = 500

#: Makes what a sender is told, of the message's id, its seq, and the clientMessageId that it was sent under.
EncodePlace = Callable[[str, int, str | None], bytes]

#: How often :meth:`StoredTracker.look_up` is to be called.
LOOK_UP_SECONDS = 2.0


@define
class _Waiting:
    own_id: str | None
    since: float
    encode: EncodePlace
    acknowledged: bool = False
    seq: int = 0


class StoredTracker:
    """Runs on the reactor thread. Costs nothing while nobody whose dialect tells places has sent anything.

    :param hub: is watched while there is somebody to tell.
    """

    def __init__(
        self, *, clock: IReactorTime, hub: Hub, seqs_of: Callable[[Sequence[str]], Awaitable[Mapping[str, int]]]
    ) -> None:
        self._clock = clock
        self._hub = hub
        self._seqs_of = seqs_of
        #: By message and sender: two may have sent the same one.
        self._waiting: dict[str, dict[IMember, _Waiting]] = {}
        self._of_sender: dict[IMember, dict[str, None]] = {}

    def sent(self, message: Message, sender: IMember, encode: EncodePlace) -> None:
        """A message was accepted; its sender is told once it is acknowledged and has its place."""
        own = self._of_sender.setdefault(sender, {})
        own[message.message_id] = None
        waiting = self._waiting.setdefault(message.message_id, {})
        waiting[sender] = _Waiting(message.client_message_id, self._clock.seconds(), encode)
        self._hub.on_delivered = self._delivered
        if len(own) > _MAX_PER_SENDER:
            self._drop(next(iter(own)), sender)

    def acknowledged(self, message: Message, sender: IMember) -> None:
        """Its acknowledgement was written."""
        one = self._waiting.get(message.message_id, {}).get(sender)
        if one is not None:
            one.acknowledged = True
            if one.seq:
                self._tell(message.message_id, sender, one)

    def forget(self, sender: IMember) -> None:
        """Forget everything about a sender that has gone."""
        for message_id in tuple(self._of_sender.get(sender, ())):
            self._drop(message_id, sender)

    async def look_up(self) -> None:
        """Find what was stored before; forget what has waited too long. Call it every ``LOOK_UP_SECONDS``."""
        now = self._clock.seconds()
        due: dict[str, None] = {}
        for message_id, senders in tuple(self._waiting.items()):
            for sender, one in tuple(senders.items()):
                if now - one.since > _FORGET_AFTER_SECONDS:
                    self._drop(message_id, sender)
                elif one.acknowledged and one.own_id and now - one.since >= _LOOK_UP_AFTER_SECONDS:
                    due[message_id] = None
        asked = list(due)[:_MAX_LOOKED_UP]
        if not asked:
            return
        for message_id in asked:  # the next time it is the others' turn: these may never be stored
            self._waiting[message_id] = self._waiting.pop(message_id)
        try:
            found = await self._seqs_of(asked)
        except Unavailable:
            return
        for message_id, seq in found.items():
            self._found(message_id, seq)

    def _delivered(self, messages: Sequence[StoredMessage]) -> None:
        for stored in messages:
            if stored.message.message_id in self._waiting:
                self._found(stored.message.message_id, stored.seq)

    def _found(self, message_id: str, seq: int) -> None:
        for sender, one in tuple(self._waiting.get(message_id, {}).items()):
            one.seq = seq
            if one.acknowledged:
                self._tell(message_id, sender, one)

    def _tell(self, message_id: str, sender: IMember, one: _Waiting) -> None:
        self._drop(message_id, sender)
        sender.deliver(one.encode(message_id, one.seq, one.own_id))

    def _drop(self, message_id: str, sender: IMember) -> None:
        senders, own = self._waiting.get(message_id, {}), self._of_sender.get(sender, {})
        senders.pop(sender, None)
        own.pop(message_id, None)
        if not senders:
            self._waiting.pop(message_id, None)
        if not own:
            self._of_sender.pop(sender, None)
        if not self._waiting:
            self._hub.on_delivered = None
