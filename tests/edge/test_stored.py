"""Which places senders are told of, and for how long and how many of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from zope.interface import implementer

from chatflow.contracts.members import IMember
from chatflow.contracts.messages import Message, StoredMessage
from chatflow.edge.stored import LOOK_UP_SECONDS, StoredTracker
from chatflow.edge.v2 import encode_place
from chatflow.rooms.hub import Hub
from tests.rooms.doubles import Store, encode
from tests.support.chat import make_message

_MAX_PER_SENDER = 1000
_FORGET_SECONDS = 300
_MAX_LOOKED_UP = 500


@implementer(IMember)
class Sender:
    """Is told of places."""

    def __init__(self) -> None:
        self.told: dict[str, int] = {}

    def deliver(self, block: bytes) -> None:
        frame = msgspec.json.decode(block[block.index(b"{") :])
        assert frame["type"] == "stored"
        self.told[frame["messageId"]] = frame["seq"]


class StoredTrackerRig:
    """A tracker, and what the database says when it is asked."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.hub = Hub(clock=self.clock, history=Store(), encode=encode)
        self.tracker = StoredTracker(clock=self.clock, hub=self.hub, seqs_of=self._seqs_of)
        self.known: dict[str, int] = {}
        self.asked: list[Sequence[str]] = []

    async def _seqs_of(self, message_ids: Sequence[str]) -> Mapping[str, int]:
        self.asked.append(message_ids)
        return {message_id: self.known[message_id] for message_id in message_ids if message_id in self.known}

    def send(self, sender: Any, *, own_id: str | None = None) -> Message:
        """A message that is acknowledged."""
        message = make_message(client_message_id=own_id)
        self.tracker.sent(message, sender, encode_place)
        self.tracker.acknowledged(message, sender)
        return message

    def deliver(self, *messages: Message) -> None:
        """They come, numbered from 1."""
        self.hub.deliver([StoredMessage(1, seq, "s1", message) for seq, message in enumerate(messages, 1)])

    def look_up(self, times: int = 1) -> None:
        """As the service does."""
        for _ in range(times):
            self.clock.advance(LOOK_UP_SECONDS)
            Deferred.fromCoroutine(self.tracker.look_up())


@pytest.fixture
def rig() -> StoredTrackerRig:
    return StoredTrackerRig()


def test_of_one_sender_the_oldest_is_forgotten_beyond_the_limit_and_of_others_nothing(rig: StoredTrackerRig) -> None:
    talker, other = Sender(), Sender()
    others = rig.send(other)
    sent = [rig.send(talker) for _ in range(_MAX_PER_SENDER + 2)]
    rig.deliver(*sent, others)
    assert talker.told == {message.message_id: seq for seq, message in enumerate(sent, 1) if seq > 2}
    assert list(other.told) == [others.message_id]


def test_after_five_minutes_it_is_not_told_any_more(rig: StoredTrackerRig) -> None:
    sender = Sender()
    old = rig.send(sender, own_id="old")
    rig.clock.advance(_FORGET_SECONDS - 10)
    new = rig.send(sender)
    rig.clock.advance(11)
    rig.look_up()
    rig.deliver(old, new)
    assert sender.told == {new.message_id: 2}
    assert rig.hub.on_delivered is None, "nobody waits any more"


def test_what_was_stored_before_is_looked_up(rig: StoredTrackerRig) -> None:
    sender = Sender()
    repeated, unnamed = rig.send(sender, own_id="mine"), rig.send(sender)
    rig.known[repeated.message_id] = 7
    rig.look_up()
    assert rig.asked == [[repeated.message_id]], "only a named message can have been stored before"
    assert sender.told == {repeated.message_id: 7}
    rig.tracker.forget(sender)
    rig.deliver(unnamed)
    assert len(sender.told) == 1


def test_what_is_never_stored_does_not_keep_others_from_being_looked_up(rig: StoredTrackerRig) -> None:
    first, last = Sender(), Sender()
    for number in range(_MAX_LOOKED_UP + 100):
        rig.send(first, own_id=f"{number}")
    stored = rig.send(last, own_id="stored")
    rig.known[stored.message_id] = 7
    rig.look_up(2)
    assert max(map(len, rig.asked)) <= _MAX_LOOKED_UP
    assert last.told == {stored.message_id: 7}


def test_two_who_sent_the_same_message_are_both_told_and_it_is_looked_up_once(rig: StoredTrackerRig) -> None:
    both = Sender(), Sender()
    message = make_message(client_message_id="same")
    for sender in both:
        rig.tracker.sent(message, sender, encode_place)
        rig.tracker.acknowledged(message, sender)
    rig.known[message.message_id] = 3
    rig.look_up()
    assert rig.asked == [[message.message_id]]
    assert [sender.told for sender in both] == [{message.message_id: 3}] * 2
