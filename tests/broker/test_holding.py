"""What a consumer may store when its lease may be over: never what somebody else has stored, whatever was held up."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import pytest
from attrs import Factory, define

from chatflow.broker.embedded_queue import EmbeddedRoomQueue
from chatflow.broker.holding import RECOGNISED_MESSAGES, Holding
from chatflow.contracts.envelopes import Envelope
from chatflow.contracts.room_queue import Delivery
from chatflow.contracts.writer import MAX_IN_FLIGHT, REMEMBERED_ENVELOPES
from tests.support.chat import make_envelope, make_message


class Leases(EmbeddedRoomQueue):
    """A queue that says what a test wants it to say."""

    leased = False

    def are_leased(self, deliveries: Sequence[Delivery]) -> bool:
        return self.leased


def holding(*envelopes: Envelope, leased: bool = False, known: int = 0) -> Holding:
    queue = Leases(1)
    queue.leased = leased
    return Holding(queue, [Delivery(envelope) for envelope in envelopes or [make_envelope(1)]], {1: known})


class TestWhatMayBeStored:
    def test_what_is_leased_however_much_was_stored(self) -> None:
        assert holding(leased=True).may_be_stored({1: 1_000_000})

    def test_what_is_not_if_less_was_stored_since_the_question_than_a_head_remembers(self) -> None:
        assert holding(known=100).may_be_stored({1: 100 + RECOGNISED_MESSAGES - 1})
        assert not holding(known=100).may_be_stored({1: 100 + RECOGNISED_MESSAGES})

    def test_not_when_the_database_was_set_back(self) -> None:
        assert not holding(known=100).may_be_stored({1: 99})

    def test_of_several_rooms_each_counts(self) -> None:
        two = Holding(Leases(2), [Delivery(make_envelope(1)), Delivery(make_envelope(2))], {1: 0, 2: 0})
        assert two.may_be_stored({1: 5, 2: 5, 3: 1000})
        assert not two.may_be_stored({1: 5, 2: 1000, 3: 5})

    def test_of_a_room_that_is_none_of_the_shards_nothing_is_known(self) -> None:
        stranger = Holding(Leases(2), [Delivery(make_envelope(2))], {1: 0})
        assert not stranger.may_be_stored({2: 0})
        assert stranger.needs_lease(lambda room: 0)


class TestWhetherALeaseIsNeeded:
    def test_not_for_little_in_a_quiet_room(self) -> None:
        assert not holding(known=7).needs_lease(lambda room: 7)

    def test_when_much_was_stored_meanwhile(self) -> None:
        assert holding(known=7).needs_lease(lambda room: 7 + RECOGNISED_MESSAGES // 2)

    def test_when_much_comes_at_once(self) -> None:
        many = make_envelope(1, messages=tuple(make_message() for _ in range(RECOGNISED_MESSAGES)))
        assert holding(many).needs_lease(lambda room: 0)


@define
class Group:
    """A room's messages as SQS FIFO has them: whoever is given some locks the others until these are deleted."""

    waiting: list[Envelope] = Factory(list)
    in_flight: int = 0
    receipt: int = 0

    def receive(self) -> tuple[int, list[Envelope]]:
        if self.in_flight:
            return 0, []
        given = self.waiting[:MAX_IN_FLIGHT]
        self.in_flight = len(given)
        self.receipt += 1
        return self.receipt, given

    def expire(self) -> None:
        """The visibility is over."""
        self.in_flight = 0
        self.receipt += 1

    def give_back(self, receipt: int) -> None:
        if receipt == self.receipt:
            self.expire()

    def delete(self, receipt: int, envelopes: Sequence[Envelope]) -> None:
        if receipt == self.receipt:
            self.waiting = [envelope for envelope in self.waiting if envelope not in envelopes]
            self.in_flight = 0


@define
class Head:
    """As :mod:`chatflow.persistence.commit` keeps it."""

    last_seq: int = 0
    recent: list[str] = Factory(list)
    stored: list[str] = Factory(list)

    def commit(self, held: Holding) -> bool:
        """Whether everything is stored now."""
        may_be_stored = held.may_be_stored({1: self.last_seq})
        for delivery in held.deliveries:
            envelope = delivery.envelope
            if envelope.envelope_id in self.recent:
                continue
            if not may_be_stored:
                return False
            self.last_seq += len(envelope.messages)
            self.recent = [*self.recent, envelope.envelope_id][-REMEMBERED_ENVELOPES:]
            self.stored.append(envelope.envelope_id)
        return True


@define
class Consumer:
    """One instance, which may stand still between any two steps."""

    known: int = -1
    receipt: int = 0
    given: list[Envelope] = Factory(list)
    done: bool = False

    def step(self, group: Group, head: Head) -> None:
        if self.known < 0:
            self.known = head.last_seq
        elif not self.given:
            self.receipt, self.given = group.receive()
        elif not self.done:
            held = Holding(Leases(1), [Delivery(envelope) for envelope in self.given], {1: self.known})
            self.done = head.commit(held)
            if not self.done:
                group.give_back(self.receipt)
                self.known, self.given = -1, []
        else:
            group.delete(self.receipt, self.given)
            self.known, self.given, self.done = -1, [], False


@pytest.mark.parametrize("seed", range(8))
def test_without_any_lease_everything_is_stored_once_and_in_order_whoever_is_held_up(seed: int) -> None:
    random = Random(seed)
    group, head, consumers = Group(), Head(), [Consumer() for _ in range(4)]
    sent: list[str] = []
    paused = consumers[0]
    for _ in range(3000):
        if random.random() < 0.6:
            envelope = make_envelope(1, *["x"] * random.choice([1, 1, 1, 3]))
            group.waiting.append(envelope)
            sent.append(envelope.envelope_id)
        if random.random() < 0.01:
            paused = random.choice(consumers)
        if random.random() < 0.05:
            group.expire()
        random.choice([one for one in consumers if one is not paused]).step(group, head)
    group.expire()
    for _ in range(100 + 10 * len(sent)):
        for consumer in consumers:
            consumer.step(group, head)
    assert not group.waiting
    assert head.stored == sent
