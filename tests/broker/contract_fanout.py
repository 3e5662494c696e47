"""What every fan-out promises (:class:`chatflow.contracts.fanout.IFanout`), as tests of any implementation.

Bind it with a subclass whose name begins with ``Test``.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

import pytest
from attrs import define, field
from zope.interface.verify import verifyObject

from chatflow.contracts.fanout import IFanout
from chatflow.contracts.messages import StoredMessage
from tests.support.chat import make_message, make_stored
from tests.support.reactor import on_reactor, until


@define(eq=False)
class Instance:
    """An instance that takes part: what it publishes to, and what it hears of others, in order."""

    fanout: Any
    heard: list[StoredMessage] = field(factory=list)

    async def has_heard(self, messages: Sequence[StoredMessage]) -> list[StoredMessage]:
        """Wait for these; give all that was heard of their rooms, room by room and else in the order of hearing."""
        await until(lambda: all(message in self.heard for message in messages), f"{len(messages)} messages are heard")
        rooms = {message.room for message in messages}
        return sorted((message for message in self.heard if message.room in rooms), key=lambda message: message.room)


class FanoutContract:
    """Give the fixture."""

    @pytest.fixture
    def instances(self) -> list[Instance]:
        """Instances that hear each other; only one where there cannot be more. Stopped after the test."""
        raise NotImplementedError

    def test_it_is_a_fanout(self, instances: list[Instance]) -> None:
        assert verifyObject(IFanout, instances[0].fanout)

    @on_reactor
    async def test_others_hear_what_was_published_as_it_was_stored(self, instances: list[Instance]) -> None:
        publisher, *others = instances
        message = make_message('😀 "\\\n\x01\u2028', client_ip="::1", client_message_id="own", message_type="LEAVE")
        messages = [StoredMessage(1, 7, "another-id", message), make_stored(8)]
        await publisher.fanout.publish(messages)
        for other in others:
            assert await other.has_heard(messages) == messages

    @on_reactor
    async def test_who_publishes_hears_nothing_of_it(self, instances: list[Instance]) -> None:
        publisher, *others = instances
        first, second = make_stored(1), make_stored(1, room=2)
        await publisher.fanout.publish([first])
        for other in others:
            await other.fanout.publish([second])
            await publisher.has_heard([second])
        assert first not in publisher.heard

    @on_reactor
    async def test_everyone_hears_a_room_in_the_order_of_publishing(self, instances: list[Instance]) -> None:
        publisher, *others = instances
        messages = [make_stored(seq) for seq in range(1, 31)]
        for begin in range(0, 30, 3):
            await publisher.fanout.publish(messages[begin : begin + 3])
        for other in others:
            assert await other.has_heard(messages) == messages

    @on_reactor
    async def test_so_it_is_when_one_does_not_wait_for_the_other(self, instances: list[Instance]) -> None:
        publisher, *others = instances
        messages = [make_stored(seq, room) for seq in range(1, 11) for room in (1, 2)]
        published = [publisher.fanout.publish([one]) for one in messages]
        for one in published:
            await one
        for other in others:
            assert await other.has_heard(messages) == sorted(messages, key=lambda message: message.room)

    @on_reactor
    async def test_one_flush_may_hold_many_rooms(self, instances: list[Instance]) -> None:
        publisher, *others = instances
        messages = [make_stored(seq, room) for room in range(1, 26) for seq in (4, 5)]
        await publisher.fanout.publish(messages)
        for other in others:
            assert await other.has_heard(messages) == messages

    @on_reactor
    async def test_one_flush_may_hold_much(self, instances: list[Instance]) -> None:
        publisher, *others = instances
        random = Random(1)
        messages = [
            StoredMessage(
                room, seq, "s1", make_message("".join(chr(random.randrange(0x800, 0xD800)) for _ in range(500)))
            )
            for room in range(1, 5)
            for seq in range(1, 76)
        ]
        await publisher.fanout.publish(messages)
        for other in others:
            assert await other.has_heard(messages) == messages

    @on_reactor
    async def test_one_flush_may_leave_places_out(self, instances: list[Instance]) -> None:
        publisher, *others = instances
        messages = [make_stored(seq) for seq in (1, 2, 5, 6, 9)]
        await publisher.fanout.publish(messages)
        for other in others:
            assert await other.has_heard(messages) == messages

    @on_reactor
    async def test_nothing_to_publish_is_soon_published(self, instances: list[Instance]) -> None:
        await instances[0].fanout.publish([])
