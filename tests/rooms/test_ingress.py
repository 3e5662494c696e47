"""Accepted messages travel in envelopes, in order, and are answered exactly once, whatever becomes of them.

Time is a :class:`Clock`; the queue publishes when the test says so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from attrs import define, field
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET
from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.internet.task import Clock
from zope.interface import implementer
from zope.interface.verify import verifyObject

from chatflow.contracts.envelopes import MAX_CONTENT_BYTES, Envelope, content_bytes
from chatflow.contracts.members import Accepted, ISender
from chatflow.contracts.messages import ClientMessage
from chatflow.contracts.room_queue import IPublish
from chatflow.errors import NotStored, Refused, Unavailable
from chatflow.rooms.ingress import Ingress
from tests.support.chat import NOW_US, is_uuid


@implementer(IPublish)
class HeldQueue:
    """Keeps what is published until the test settles it."""

    def __init__(self) -> None:
        self.envelopes: list[Envelope] = []
        self.under_way: dict[int, Deferred[Any]] = {}
        self.gather_seconds = 0.0

    def publish(self, envelope: Envelope) -> Deferred[Any]:
        assert envelope.room not in self.under_way, "a second publish of a room while one is under way"
        self.envelopes.append(envelope)
        self.under_way[envelope.room] = Deferred()
        return self.under_way[envelope.room]

    def wait_seconds(self, room: int) -> float:
        return self.gather_seconds

    def settle(self, room: int = 1, error: Exception | None = None, conflicts: Sequence[int] | None = None) -> None:
        """What was published last in the room is durable, but for conflicts, or failed."""
        if error is None:
            self.under_way.pop(room).callback(conflicts)
        else:
            self.under_way.pop(room).errback(error)

    def texts(self) -> list[list[str]]:
        """What each envelope holds."""
        return [[message.text for message in envelope.messages] for envelope in self.envelopes]


@implementer(ISender)
@define(eq=False)
class Sender:
    """Writes down its answers."""

    #: A list for each call, of texts.
    acknowledged: list[list[str]] = field(factory=list)
    #: Code and count of each call.
    refused: list[tuple[str, int]] = field(factory=list)
    accepted: list[Accepted] = field(factory=list)

    def acknowledge(self, accepted: Sequence[Accepted]) -> None:
        self.accepted += accepted
        self.acknowledged.append([one.original.message for one in accepted])

    def refuse(self, refused: Refused, count: int) -> None:
        self.refused.append((refused.code, count))

    def answers(self) -> int:
        """How many messages are answered."""
        return sum(map(len, self.acknowledged)) + sum(count for _, count in self.refused)


class IngressRig:
    """An ingress on a clock of the test's and a queue that waits for it."""

    def __init__(self, max_pending_messages: int = 1000) -> None:
        self.clock = Clock()
        self.clock.advance(NOW_US / 1e6)
        self.queue = HeldQueue()
        self.ingress = Ingress(
            clock=self.clock,
            now=self.clock.seconds,
            queue=self.queue,
            server_id="s1",
            max_pending_messages=max_pending_messages,
        )
        self.sender = Sender()

    def accept(self, *texts: str, room: int = 1, sender: Sender | None = None) -> None:
        """Several messages in one turn of the reactor."""
        for text in texts:
            self.ingress.accept(room, client_message(text), sender or self.sender, "127.0.0.1")

    def turn(self, seconds: float = 0.0) -> None:
        """Let the reactor turn once, after so long."""
        self.clock.advance(seconds)


def client_message(text: str = "Hello", **fields: Any) -> ClientMessage:
    given: dict[str, Any] = {
        "userId": "0042",
        "username": "user42",
        "message": text,
        "timestamp": "2026-11-23T10:29:59Z",
        "messageType": "TEXT",
    }
    return ClientMessage(**(given | fields))


def refusal(accept: Callable[[], None]) -> str:
    with pytest.raises(Refused) as caught:
        accept()
    assert caught.value.field is None
    return caught.value.code


@pytest.fixture
def rig() -> IngressRig:
    return IngressRig()


def test_an_envelope_of_nothing_but_conflicts_is_answered_and_the_next_one_is_published(rig: IngressRig) -> None:
    rig.accept("a", "b")
    rig.turn()
    rig.accept("c")
    rig.queue.settle(conflicts=[0, 1])
    assert rig.sender.refused == [("id_conflict", 2)]
    rig.turn()
    rig.queue.settle()
    assert rig.sender.acknowledged == [["c"]]
    assert (rig.ingress.pending, rig.ingress.acknowledged, rig.ingress.failed) == (0, 1, 2)


def test_the_doubles_of_this_test_are_what_ingress_asks_for(rig: IngressRig) -> None:
    assert verifyObject(IPublish, rig.queue)
    assert verifyObject(ISender, rig.sender)


class TestStamping:
    def test_a_message_gets_id_and_time_and_keeps_the_rest(self, rig: IngressRig) -> None:
        original = client_message("Hello", messageType="JOIN", clientMessageId="own")
        rig.ingress.accept(7, original, rig.sender, "::1")
        rig.turn()
        (envelope,) = rig.queue.envelopes
        (message,) = envelope.messages
        assert (envelope.room, envelope.server_id) == (7, "s1")
        assert is_uuid(envelope.envelope_id)
        assert is_uuid(message.message_id)
        assert message.message_id != envelope.envelope_id
        assert abs(message.created_at_us - NOW_US) <= 1  # a float of seconds holds no more
        assert (message.user_id, message.username, message.text) == (42, "user42", "Hello")
        assert (message.message_type, message.client_timestamp) == ("JOIN", "2026-11-23T10:29:59Z")
        assert (message.client_ip, message.client_message_id) == ("::1", "own")

        rig.queue.settle(7)
        assert rig.sender.accepted == [Accepted(message, original, rig.clock.seconds(), content_bytes(message))]

    def test_without_an_own_id_none_is_stored(self, rig: IngressRig) -> None:
        rig.ingress.accept(1, client_message(clientMessageId=UNSET), rig.sender, None)
        rig.turn()
        (message,) = rig.queue.envelopes[0].messages
        assert (message.client_ip, message.client_message_id) == (None, None)

    def test_every_message_gets_an_id_of_its_own(self, rig: IngressRig) -> None:
        for _ in range(3):
            rig.accept("a", "a")
            rig.turn()
            rig.queue.settle()
        ids = [message.message_id for envelope in rig.queue.envelopes for message in envelope.messages]
        ids += [envelope.envelope_id for envelope in rig.queue.envelopes]
        assert len(set(ids)) == 9


class TestBatching:
    def test_what_is_read_in_one_turn_travels_together_at_the_next(self, rig: IngressRig) -> None:
        rig.accept("a", "b", "c")
        assert rig.queue.texts() == []
        rig.turn()
        assert rig.queue.texts() == [["a", "b", "c"]]

    def test_what_comes_while_a_publish_is_under_way_is_the_next_envelope(self, rig: IngressRig) -> None:
        rig.accept("a")
        rig.turn()
        for text in ("b", "c", "d"):
            rig.accept(text)
            rig.turn(1.0)
        assert rig.queue.texts() == [["a"]]
        rig.queue.settle()
        rig.turn()
        assert rig.queue.texts() == [["a"], ["b", "c", "d"]]
        rig.queue.settle()
        rig.turn()
        assert rig.queue.texts() == [["a"], ["b", "c", "d"]]
        assert rig.ingress.envelopes == 2

    def test_an_idle_room_publishes_again_at_once(self, rig: IngressRig) -> None:
        for text in ("a", "b"):
            rig.accept(text)
            rig.turn()
            rig.queue.settle()
            rig.turn()
        assert rig.queue.texts() == [["a"], ["b"]]

    def test_rooms_do_not_wait_for_each_other(self, rig: IngressRig) -> None:
        rig.accept("a", room=1)
        rig.accept("b", room=2)
        rig.turn()
        rig.accept("c", room=1)
        rig.accept("d", room=2)
        rig.queue.settle(2)
        rig.turn()
        assert [(envelope.room, len(envelope.messages)) for envelope in rig.queue.envelopes] == [(1, 1), (2, 1), (2, 1)]

    @pytest.mark.parametrize("text", ["x" * 500, "😀" * 500, '"' * 500, "x"])
    def test_an_envelope_ends_before_it_gets_too_large_and_the_rest_follows(self, text: str) -> None:
        rig = IngressRig(10_000)
        rig.accept(*[text] * 500)
        for _ in range(500):
            rig.turn()
            if not rig.queue.under_way:
                break
            rig.queue.settle()
        sizes = [sum(map(content_bytes, envelope.messages)) for envelope in rig.queue.envelopes]
        one = content_bytes(rig.queue.envelopes[0].messages[0])
        assert all(MAX_CONTENT_BYTES - one < size <= MAX_CONTENT_BYTES for size in sizes[:-1])
        assert len(sizes) == -(-500 // (MAX_CONTENT_BYTES // one))
        assert rig.sender.answers() == 500

    def test_a_queue_whose_calls_are_scarce_gathers_for_longer(self, rig: IngressRig) -> None:
        rig.queue.gather_seconds = 0.25
        rig.accept("a")
        rig.turn(0.125)
        rig.accept("b")
        rig.turn(0.0625)
        assert rig.queue.texts() == []
        rig.turn(0.0625)
        assert rig.queue.texts() == [["a", "b"]]
        rig.accept("c")
        rig.queue.settle()
        rig.turn(0.125)
        assert rig.queue.texts() == [["a", "b"]]
        rig.turn(0.125)
        assert rig.queue.texts() == [["a", "b"], ["c"]]

    def test_rooms_that_need_not_wait_any_more_are_published_with_the_first_of_them(self, rig: IngressRig) -> None:
        rig.queue.gather_seconds = 0.25
        rig.accept("a")
        rig.queue.gather_seconds = 0.251  # counted from the same moment, a little later
        rig.accept("b", room=2)
        rig.queue.gather_seconds = 0.0
        rig.turn(0.25)
        assert rig.queue.texts() == [["a"], ["b"]]
        rig.turn(1.0)
        assert rig.queue.texts() == [["a"], ["b"]]

    @pytest.mark.parametrize("published_before", [False, True])
    def test_but_not_once_an_envelope_is_full(self, published_before: bool) -> None:
        rig = IngressRig(10_000)
        rig.queue.gather_seconds = 60.0
        if published_before:
            rig.accept("a")
            rig.turn(60.0)
        rig.accept(*["x" * 500] * 200)
        if published_before:
            rig.queue.settle()
        rig.turn()
        assert len(rig.queue.envelopes) == 1 + published_before
        assert len(rig.queue.envelopes[-1].messages) > 50

    def test_after_a_full_envelope_it_gathers_again(self, rig: IngressRig) -> None:
        rig.queue.gather_seconds = 60.0
        rig.accept(*["x" * 500] * 100)
        rig.turn()
        rig.queue.settle()
        rig.turn(59.0)
        assert len(rig.queue.envelopes) == 1
        rig.turn(1.0)
        assert sum(len(envelope.messages) for envelope in rig.queue.envelopes) == 100


class TestAnswers:
    def test_a_message_is_acknowledged_when_it_is_durable_and_not_before(self, rig: IngressRig) -> None:
        rig.accept("a", "b")
        rig.turn()
        assert rig.sender.answers() == 0
        rig.queue.settle()
        assert rig.sender.acknowledged == [["a", "b"]]
        assert (rig.ingress.pending, rig.ingress.accepted, rig.ingress.acknowledged) == (0, 2, 2)

    def test_each_sender_of_an_envelope_is_answered_in_one_call_in_its_order(self, rig: IngressRig) -> None:
        senders = [Sender(), Sender(), Sender()]
        for number in range(9):
            rig.accept(str(number), sender=senders[number % 3])
        rig.turn()
        rig.queue.settle()
        assert [sender.acknowledged for sender in senders] == [[["0", "3", "6"]], [["1", "4", "7"]], [["2", "5", "8"]]]

    @pytest.mark.parametrize(
        ("error", "code"),
        [
            (NotStored("refused"), "not_stored"),
            (Unavailable("away"), "unavailable"),
            (RuntimeError("a defect"), "internal_error"),
        ],
    )
    def test_a_failed_publish_is_told_to_every_sender_and_the_room_goes_on(
        self, rig: IngressRig, error: Exception, code: str
    ) -> None:
        other = Sender()
        rig.accept("a", "b")
        rig.accept("c", sender=other)
        rig.turn()
        rig.accept("d")
        rig.queue.settle(error=error)
        assert (rig.sender.refused, other.refused) == ([(code, 2)], [(code, 1)])
        assert (rig.ingress.pending, rig.ingress.failed, rig.ingress.acknowledged) == (1, 3, 0)
        rig.turn()
        rig.queue.settle()
        assert rig.sender.acknowledged == [["d"]]
        assert rig.queue.texts() == [["a", "b", "c"], ["d"]]

    def test_a_queue_that_raises_is_a_failed_publish(self, rig: IngressRig, monkeypatch: pytest.MonkeyPatch) -> None:
        def broken(envelope: Envelope) -> Deferred[None]:
            raise OSError("a defect")

        monkeypatch.setattr(rig.queue, "publish", broken)
        rig.accept("a")
        rig.turn()
        assert rig.sender.refused == [("internal_error", 1)]

    def test_a_queue_that_fails_at_once_is_a_failed_publish(
        self, rig: IngressRig, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(rig.queue, "publish", lambda envelope: fail(Unavailable("closed")))
        rig.accept("a")
        rig.turn()
        rig.accept("b")
        rig.turn()
        assert rig.sender.refused == [("unavailable", 1), ("unavailable", 1)]


class TestLimits:
    def test_beyond_the_limit_a_message_is_refused_until_others_are_answered(self) -> None:
        rig = IngressRig(max_pending_messages=3)
        rig.accept("a", "b", room=1)
        rig.accept("c", room=2)
        assert refusal(lambda: rig.accept("d", room=3)) == "overloaded"
        rig.turn()
        assert refusal(lambda: rig.accept("d", room=3)) == "overloaded"
        rig.queue.settle(2)
        rig.accept("d", room=3)
        assert refusal(lambda: rig.accept("e", room=3)) == "overloaded"
        rig.turn()
        rig.queue.settle(1)
        rig.queue.settle(3)
        assert rig.sender.acknowledged == [["c"], ["a", "b"], ["d"]]
        assert rig.sender.refused == [], "who is told by Refused is not called as well"

    def test_a_failed_message_makes_room_too(self) -> None:
        rig = IngressRig(max_pending_messages=1)
        rig.accept("a")
        rig.turn()
        rig.queue.settle(error=Unavailable("away"))
        rig.accept("b")


class TestDraining:
    def test_nothing_more_is_accepted(self, rig: IngressRig) -> None:
        rig.ingress.drain()
        assert refusal(lambda: rig.accept("a")) == "draining"

    def test_it_is_done_at_once_when_nothing_is_under_way(self, rig: IngressRig) -> None:
        assert rig.ingress.drain().called

    def test_it_is_done_when_everything_is_answered_for_each_who_asks(self, rig: IngressRig) -> None:
        rig.accept("a", room=1)
        rig.turn()
        rig.accept("b", room=1)  # not even published
        rig.accept("c", room=2)
        first, second = rig.ingress.drain(), rig.ingress.drain()
        rig.queue.settle(1)
        rig.turn()
        rig.queue.settle(2, Unavailable("away"))
        assert not first.called
        rig.queue.settle(1)
        assert first.called
        assert second.called
        assert rig.sender.answers() == 3
        assert rig.ingress.drain().called

    def test_who_does_not_wait_any_more_is_not_told(self, rig: IngressRig) -> None:
        rig.accept("a")
        rig.turn()
        first, second = rig.ingress.drain(), rig.ingress.drain()
        first.addErrback(lambda failure: failure.trap(CancelledError))
        first.cancel()
        rig.queue.settle()
        assert second.called


# What may happen at any moment: a message of one of three senders in one of two rooms, a turn of the reactor, the end
# of a room's publish.
_EVENTS = st.one_of(
    st.tuples(st.just("accept"), st.integers(1, 2), st.integers(0, 2)),
    st.tuples(st.just("turn"), st.just(0), st.just(0)),
    st.tuples(st.sampled_from(["durable", "lost"]), st.integers(1, 2), st.just(0)),
)


@given(st.lists(_EVENTS, max_size=60))
def test_every_accepted_message_is_answered_exactly_once_and_rooms_keep_their_order(
    events: list[tuple[str, int, int]],
) -> None:
    rig = IngressRig(max_pending_messages=10)
    senders = [Sender(), Sender(), Sender()]
    accepted: dict[int, list[str]] = {1: [], 2: []}
    by_sender = [0, 0, 0]

    def settle(room: int, error: Exception | None) -> None:
        if room in rig.queue.under_way:
            rig.queue.settle(room, error)

    for number, (event, room, who) in enumerate(events):
        if event == "accept":
            try:
                rig.accept(str(number), room=room, sender=senders[who])
            except Refused as refused:
                assert refused.code == "overloaded"
                assert rig.ingress.pending == 10
            else:
                accepted[room].append(str(number))
                by_sender[who] += 1
        elif event == "turn":
            rig.turn()
        else:
            settle(room, None if event == "durable" else Unavailable("lost"))
    while rig.ingress.pending:
        rig.turn()
        settle(1, None)
        settle(2, None)

    assert [sender.answers() for sender in senders] == by_sender
    for room in (1, 2):
        published = [
            message.text for envelope in rig.queue.envelopes if envelope.room == room for message in envelope.messages
        ]
        assert published == accepted[room]
