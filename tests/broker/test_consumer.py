"""Stored before delivered before acknowledged, in each shard one after the other; whatever fails, nothing is lost.

The queue is the embedded one and writes down how it is told to settle; writer and fan-out answer when the test says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from zope.interface import implementer
from zope.interface.verify import verifyObject

from chatflow.broker.consumer import Consumer
from chatflow.broker.embedded_queue import EmbeddedRoomQueue
from chatflow.contracts.envelopes import Envelope
from chatflow.contracts.fanout import IFanout
from chatflow.contracts.history import IHistory
from chatflow.contracts.members import IMember
from chatflow.contracts.messages import StoredMessage
from chatflow.contracts.room_queue import Delivery
from chatflow.contracts.writer import (
    AreHeld,
    DeadLettered,
    Duplicate,
    IBatchWriter,
    LeaseLost,
    Outcome,
    Stored,
    always,
)
from chatflow.errors import NotStored, Unavailable
from chatflow.lifecycle import Backoff
from chatflow.rooms.hub import Hub
from tests.support.chat import make_envelope
from tests.support.reactor import LoggedFailures

Events = list[tuple[Any, ...]]


class Queue(EmbeddedRoomQueue):
    """Writes down how envelopes are settled; its ``receive`` may fail."""

    def __init__(self, events: Events, rooms: int) -> None:
        super().__init__(rooms)
        self.events = events
        self.receive_error: Exception | None = None

    def receive(self, shard: object) -> Deferred[Sequence[Delivery]]:
        return super().receive(shard) if self.receive_error is None else fail(self.receive_error)

    def ack(self, deliveries: Sequence[Delivery]) -> Deferred[None]:
        self.events.append(("ack", *texts(deliveries)))
        return super().ack(deliveries)

    def reject(self, delivery: Delivery, reason: NotStored) -> Deferred[None]:
        self.events.append(("reject", *texts([delivery])))
        return super().reject(delivery, reason)

    def nack(self, deliveries: Sequence[Delivery]) -> Deferred[None]:
        self.events.append(("nack", *texts(deliveries)))
        return super().nack(deliveries)


@implementer(IBatchWriter)
class Writer:
    """Stores when the test says so."""

    def __init__(self, events: Events) -> None:
        self.events = events
        self.away: list[Deferred[None]] | None = None
        self.under_way: list[tuple[list[Envelope], Deferred[Sequence[Outcome]]]] = []
        self.heads: dict[int, int] = {}
        self.are_held: list[AreHeld] = []

    def when_available(self) -> Deferred[None]:
        if self.away is None:
            return succeed(None)
        self.away.append(Deferred())
        return self.away[-1]

    def answers_again(self) -> None:
        """The database is back."""
        waiting, self.away = self.away or [], None
        for one in waiting:
            one.callback(None)

    def write(self, envelopes: Sequence[Envelope], are_held: AreHeld = always) -> Deferred[Sequence[Outcome]]:
        self.are_held.append(are_held)
        self.events.append(("write", *envelope_texts(envelopes)))
        self.under_way.append((list(envelopes), Deferred()))
        return self.under_way[-1][1]

    def store(self) -> None:
        """Commit the oldest write."""
        envelopes, _ = self.under_way[0]
        self.answer([self.stored(envelope) for envelope in envelopes])

    def stored(self, envelope: Envelope) -> Stored:
        """The outcome of an envelope that is new."""
        first = self.heads.get(envelope.room, 0) + 1
        self.heads[envelope.room] = first + len(envelope.messages) - 1
        return Stored(envelope, first)

    def answer(self, result: Sequence[Outcome] | Exception) -> None:
        """How the oldest write ends."""
        envelopes, written = self.under_way.pop(0)
        if isinstance(result, Exception):
            self.events.append(("failed", *envelope_texts(envelopes)))
            written.errback(result)
        else:
            self.events.append(("stored", *envelope_texts(envelopes)))
            written.callback(result)


@implementer(IFanout)
class Fanout:
    """Keeps what is published, and may take its time."""

    def __init__(self, events: Events) -> None:
        self.events = events
        self.published: list[list[StoredMessage]] = []
        self.slow = False
        self.under_way: list[Deferred[None]] = []

    def publish(self, messages: Sequence[StoredMessage]) -> Deferred[None]:
        self.events.append(("fan-out", *[stored.message.text for stored in messages]))
        self.published.append(list(messages))
        if not self.slow:
            return succeed(None)
        self.under_way.append(Deferred())
        return self.under_way[-1]


@implementer(IMember)
class Member:
    """Writes down what it is given."""

    def __init__(self, events: Events) -> None:
        self.events = events

    def deliver(self, block: bytes) -> None:
        self.events.append(("deliver", *block.decode().split()))


@implementer(IHistory)
class History:
    """Writes down what is read, and has nothing."""

    def __init__(self, events: Events) -> None:
        self.events = events

    def after(self, room: int, seq: int, limit: int) -> Deferred[Sequence[StoredMessage]]:
        self.events.append(("read", room, seq))
        return Deferred()

    def heads(self) -> Deferred[Mapping[int, int]]:
        raise NotImplementedError


class ConsumerRig:
    """A consumer with all that surrounds it, and a member in each of two rooms."""

    def __init__(self) -> None:
        self.events: Events = []
        self.clock = Clock()
        self.queue = Queue(self.events, rooms=2)
        self.writer = Writer(self.events)
        self.fanout = Fanout(self.events)
        self.hub = Hub(clock=self.clock, history=History(self.events), encode=self.encode)
        self.encode_error: Exception | None = None
        for room in (1, 2):
            self.hub.join(room, Member(self.events))
        self.consumer = Consumer(
            clock=self.clock,
            queue=self.queue,
            writer=self.writer,
            hub=self.hub,
            fanout=self.fanout,
            backoff=lambda: Backoff(first_seconds=1.0, cap_seconds=8.0, random=lambda: 1.0),
        )

    def encode(self, messages: Sequence[StoredMessage]) -> bytes:
        if self.encode_error is not None:
            raise self.encode_error
        return " ".join(f"{stored.seq}:{stored.message.text}" for stored in messages).encode()

    def publish(self, *texts: str, room: int = 1) -> Deferred[Sequence[int]]:
        return self.queue.publish(make_envelope(room, *texts))

    def begin(self, *texts: str) -> list[Deferred[Sequence[int]]]:
        """Start with an envelope of each text queued in room 1."""
        published = [self.publish(text) for text in texts]
        self.consumer.start()
        return published

    def take_events(self) -> Events:
        """What happened since the last call."""
        events = self.events[:]
        self.events.clear()
        return events


@pytest.fixture
def rig() -> ConsumerRig:
    return ConsumerRig()


def texts(deliveries: Sequence[Delivery]) -> list[str]:
    return envelope_texts([delivery.envelope for delivery in deliveries])


def envelope_texts(envelopes: Sequence[Envelope]) -> list[str]:
    return [message.text for envelope in envelopes for message in envelope.messages]


def value(failed: Deferred[Any]) -> Any:
    """What a Deferred failed with."""
    failures: list[Any] = []
    failed.addErrback(failures.append)
    return failures[0].value


def test_the_doubles_of_this_test_are_what_a_consumer_asks_for(rig: ConsumerRig) -> None:
    assert verifyObject(IBatchWriter, rig.writer)
    assert verifyObject(IFanout, rig.fanout)


class TestOrder:
    def test_stored_before_delivered_before_told_to_others_before_done(self, rig: ConsumerRig) -> None:
        (published,) = rig.begin("a")
        assert rig.take_events() == [("write", "a")]
        rig.writer.store()
        assert rig.take_events() == [("stored", "a"), ("deliver", "1:a"), ("fan-out", "a"), ("ack", "a")]
        assert published.called
        assert rig.consumer.processed == 1

    def test_it_is_not_done_before_it_is_handed_to_the_fanout(self, rig: ConsumerRig) -> None:
        rig.fanout.slow = True
        (published,) = rig.begin("a")
        rig.writer.store()
        assert rig.take_events()[-1] == ("fan-out", "a")
        assert not published.called
        rig.fanout.under_way.pop().callback(None)
        assert rig.take_events() == [("ack", "a")]
        assert published.called

    def test_a_shard_takes_the_next_only_when_the_last_is_done(self, rig: ConsumerRig) -> None:
        rig.fanout.slow = True
        rig.begin("a")
        rig.publish("b")
        rig.writer.store()
        rig.publish("c")
        assert [event for event in rig.take_events() if event[0] == "write"] == [("write", "a")]
        rig.fanout.under_way.pop().callback(None)
        assert rig.take_events() == [("ack", "a"), ("write", "b", "c")]

    def test_what_is_received_together_is_written_delivered_and_told_in_its_order(self, rig: ConsumerRig) -> None:
        published = rig.begin("a", "b", "c")
        assert rig.take_events() == [("write", "a", "b", "c")]
        rig.writer.store()
        assert rig.take_events() == [
            ("stored", "a", "b", "c"),
            ("deliver", "1:a"),
            ("deliver", "2:b"),
            ("deliver", "3:c"),
            ("fan-out", "a", "b", "c"),
            ("ack", "a", "b", "c"),
        ]
        assert all(one.called for one in published)

    def test_the_fanout_gets_every_message_with_its_place(self, rig: ConsumerRig) -> None:
        rig.writer.heads[1] = 41
        rig.publish("a", "b")
        rig.consumer.start()
        rig.writer.store()
        (published,) = rig.fanout.published
        assert [(one.room, one.seq, one.server_id, one.message.text) for one in published] == [
            (1, 42, "s1", "a"),
            (1, 43, "s1", "b"),
        ]

    def test_shards_do_not_wait_for_each_other(self, rig: ConsumerRig) -> None:
        rig.begin("a")
        rig.publish("b", room=2)
        assert rig.take_events() == [("write", "a"), ("write", "b")]
        rig.writer.under_way.reverse()
        rig.writer.store()
        assert rig.take_events() == [("stored", "b"), ("deliver", "1:b"), ("fan-out", "b"), ("ack", "b")]


class TestOutcomes:
    def test_a_redelivery_is_done_and_only_its_rooms_head_is_announced(self, rig: ConsumerRig) -> None:
        (published,) = rig.begin("a")
        rig.take_events()
        rig.writer.answer([Duplicate(1, 7)])
        assert rig.take_events() == [("stored", "a"), ("read", 1, 0), ("ack", "a")]
        assert published.called
        assert (rig.consumer.redelivered, rig.consumer.processed) == (1, 0)

    def test_what_is_set_aside_is_refused_and_the_others_go_their_way(self, rig: ConsumerRig) -> None:
        first, second, third = rig.begin("a", "b", "c")
        rig.take_events()
        (a, _b, c), _ = rig.writer.under_way[0]
        reason = NotStored("a check failed")
        rig.writer.answer([rig.writer.stored(a), DeadLettered(reason), rig.writer.stored(c)])
        events = rig.take_events()
        assert ("reject", "b") in events
        assert [event for event in events if event[0] != "reject"] == [
            ("stored", "a", "b", "c"),
            ("deliver", "1:a"),
            ("deliver", "2:c"),
            ("fan-out", "a", "c"),
            ("ack", "a", "c"),
        ]
        assert value(second) is reason
        assert first.called
        assert third.called
        assert rig.consumer.set_aside == 1
        rig.publish("d")
        assert rig.take_events() == [("write", "d")]

    def test_after_one_that_is_set_aside_alone_its_room_goes_on(self, rig: ConsumerRig) -> None:
        (published,) = rig.begin("a")
        rig.writer.answer([DeadLettered(NotStored("refused"))])
        value(published)
        rig.take_events()
        rig.publish("b")
        assert rig.take_events() == [("write", "b")]
        assert rig.fanout.published == []

    def test_what_may_belong_to_another_is_neither_delivered_nor_done_and_given_back(self, rig: ConsumerRig) -> None:
        (published,) = rig.begin("a")
        rig.take_events()
        rig.writer.answer([LeaseLost()])
        assert rig.take_events() == [("stored", "a"), ("ack",), ("nack", "a"), ("write", "a")]
        assert not published.called
        assert rig.consumer.too_late == 1

    def test_the_writer_can_ask_the_queue_whether_they_are_held(self, rig: ConsumerRig) -> None:
        asked: list[list[str]] = []
        rig.queue.are_leased = lambda deliveries: asked.append(texts(deliveries)) or False  # type: ignore[method-assign, func-returns-value]
        rig.begin("a", "b")
        (are_held,) = rig.writer.are_held
        assert not are_held({1: 1000})
        assert asked == [["a", "b"]]


class TestFailures:
    def test_while_the_database_is_away_nothing_is_received(self, rig: ConsumerRig) -> None:
        rig.writer.away = []
        published = rig.begin("a")
        rig.clock.pump([0.5] * 10)
        assert rig.take_events() == []
        rig.writer.answers_again()
        assert rig.take_events() == [("write", "a")]
        rig.writer.store()
        assert published[0].called

    def test_a_stop_does_not_wait_for_the_database(self, rig: ConsumerRig) -> None:
        rig.writer.away = []
        rig.begin("a")
        assert rig.consumer.stop().called

    def test_when_the_writer_fails_all_is_given_back_and_comes_again_after_a_pause(self, rig: ConsumerRig) -> None:
        published = rig.begin("a", "b")
        rig.publish("c", room=2)
        rig.take_events()
        rig.writer.answer(Unavailable("stopped"))
        assert rig.take_events() == [("failed", "a", "b"), ("nack", "a", "b")]
        rig.writer.store()
        assert ("ack", "c") in rig.take_events(), "the other shard goes on"

        rig.clock.advance(0.5)
        assert rig.take_events() == []
        rig.clock.advance(0.5)
        assert rig.take_events() == [("write", "a", "b")]
        rig.writer.store()
        assert rig.take_events()[-1] == ("ack", "a", "b")
        assert all(one.called for one in published)

    def test_pauses_grow_while_it_fails_and_begin_anew_when_it_does_not(self, rig: ConsumerRig) -> None:
        rig.begin("a")
        for pause_seconds in (1, 2, 4, 8, 8):
            rig.writer.answer(Unavailable("away"))
            rig.clock.advance(pause_seconds - 0.5)
            assert rig.writer.under_way == []
            rig.clock.advance(0.5)
        rig.writer.store()
        rig.publish("b")
        rig.writer.answer(Unavailable("away"))
        rig.clock.advance(1.0)
        assert len(rig.writer.under_way) == 1

    def test_a_defect_of_the_writer_is_logged_and_all_comes_again(
        self, rig: ConsumerRig, logged_failures: LoggedFailures
    ) -> None:
        (published,) = rig.begin("a")
        rig.writer.answer(RuntimeError("a defect"))
        assert [event["log_failure"].value.args for event in logged_failures.events] == [("a defect",)]
        logged_failures.events.clear()
        rig.clock.advance(1.0)
        rig.writer.store()
        assert published.called

    def test_after_a_defect_in_the_delivery_its_room_is_not_held_for_ever(
        self, rig: ConsumerRig, logged_failures: LoggedFailures
    ) -> None:
        rig.encode_error = RuntimeError("a defect")
        (published,) = rig.begin("a")
        rig.take_events()
        rig.writer.store()
        assert rig.take_events() == [("stored", "a"), ("nack", "a")]
        assert len(logged_failures.events) == 1
        logged_failures.events.clear()
        rig.encode_error = None
        rig.clock.advance(1.0)
        rig.writer.answer([Duplicate(1, 1)])
        assert rig.take_events()[-1] == ("ack", "a")
        assert published.called

    def test_when_the_queue_does_not_answer_it_is_asked_again_after_a_pause(self, rig: ConsumerRig) -> None:
        rig.queue.receive_error = Unavailable("throttled")
        rig.begin("a")
        rig.clock.advance(1.0)
        rig.clock.advance(2.0)
        rig.queue.receive_error = None
        assert rig.take_events() == []
        rig.clock.advance(4.0)
        assert rig.take_events() == [("write", "a")]


class TestStop:
    def test_at_rest_it_stops_at_once_and_receives_nothing_more(self, rig: ConsumerRig) -> None:
        rig.begin()
        assert rig.consumer.stop().called
        assert not rig.consumer.running
        rig.publish("a")
        assert rig.take_events() == []
        rig.consumer.start()
        assert rig.take_events() == [("write", "a")]

    def test_what_is_in_hand_is_stored_delivered_and_done_first(self, rig: ConsumerRig) -> None:
        rig.fanout.slow = True
        (published,) = rig.begin("a")
        rig.publish("b")
        stopped = rig.consumer.stop()
        assert not stopped.called
        rig.writer.store()
        assert not stopped.called
        rig.fanout.under_way.pop().callback(None)
        assert stopped.called
        assert published.called
        assert rig.take_events() == [
            *[("write", "a"), ("stored", "a"), ("deliver", "1:a"), ("fan-out", "a"), ("ack", "a")],
        ]

    def test_what_cannot_be_stored_is_given_back(self, rig: ConsumerRig) -> None:
        rig.begin("a")
        stopped = rig.consumer.stop()
        rig.writer.answer(Unavailable("the batch writer has stopped"))
        assert rig.take_events()[-1] == ("nack", "a")
        assert stopped.called, "it does not pause first"

    def test_a_stop_ends_a_pause_at_once(self, rig: ConsumerRig) -> None:
        rig.begin("a")
        rig.writer.answer(Unavailable("away"))
        assert rig.consumer.stop().called
        assert rig.clock.getDelayedCalls() == []

    def test_a_stop_waits_for_every_shard(self, rig: ConsumerRig) -> None:
        rig.begin("a")
        rig.publish("b", room=2)
        stopped = rig.consumer.stop()
        rig.writer.store()
        assert not stopped.called
        rig.writer.store()
        assert stopped.called
