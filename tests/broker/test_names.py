"""Names of AWS objects, and which queue a room is on."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatflow.broker.names import MAX_NAME_CHARACTERS, Names
from chatflow.config import SERVER_ID_CHARACTERS

_counts = st.integers(min_value=1, max_value=200)


class TestOneQueuePerRoom:
    names = Names("chatflow", rooms=20)

    def test_names_are_those_of_the_design(self) -> None:
        assert self.names.room_queue(7) == "chatflow-room-7.fifo"
        assert self.names.topic == "chatflow-fanout.fifo"
        assert self.names.dead_letters == "chatflow-db-dlq.fifo"
        assert self.names.fanout_queue("a1", "18f-1") == "chatflow-fanout-a1-18f-1.fifo"

    def test_a_rooms_shard_bears_its_number(self) -> None:
        assert [self.names.shard(room) for room in range(1, 21)] == list(self.names.shards) == list(range(1, 21))
        assert self.names.shard_rooms(7) == [7]


class TestSharedQueues:
    @given(rooms=_counts, room_queues=_counts)
    def test_every_room_is_on_one_queue_and_that_queue_knows_it(self, rooms: int, room_queues: int) -> None:
        names = Names("p", rooms, room_queues)
        assert sorted(room for shard in names.shards for room in names.shard_rooms(shard)) == list(range(1, rooms + 1))
        assert all(room in names.shard_rooms(names.shard(room)) for room in range(1, rooms + 1))

    @given(rooms=_counts, room_queues=_counts)
    def test_rooms_are_spread_evenly(self, rooms: int, room_queues: int) -> None:
        names = Names("p", rooms, room_queues)
        sizes = [len(names.shard_rooms(shard)) for shard in names.shards]
        assert max(sizes) - min(sizes) <= 1

    def test_a_room_added_later_moves_no_other(self) -> None:
        few, more = Names("p", 20, 4), Names("p", 21, 4)
        assert [few.shard(room) for room in range(1, 21)] == [more.shard(room) for room in range(1, 21)]

    def test_another_number_of_queues_never_reuses_a_name(self) -> None:
        def queues(room_queues: int) -> set[str]:
            names = Names("p", 20, room_queues)
            return {names.room_queue(shard) for shard in names.shards}

        assert not queues(0) & queues(4)
        assert not queues(4) & queues(5)


@pytest.mark.parametrize("room_queues", [0, 4, 10_000])
def test_names_are_distinct_and_such_as_sqs_takes_even_with_the_longest_parts(room_queues: int) -> None:
    names = Names("p" * 20, 10_000, room_queues)
    fanout_queue = names.fanout_queue("s" * SERVER_ID_CHARACTERS, f"{2**44:x}-99999")
    all_names = [names.room_queue(shard) for shard in names.shards] + [names.topic, names.dead_letters, fanout_queue]
    assert len(set(all_names)) == len(all_names)
    for name in all_names:
        assert len(name) <= MAX_NAME_CHARACTERS
        assert re.fullmatch(r"[A-Za-z0-9_-]+\.fifo", name)


@pytest.mark.parametrize(
    ("queue", "settings"),
    [
        ("p-rooms-2of5.fifo", "--room-queues 5"),
        ("p-rooms-25of30.fifo", "--room-queues 30 --rooms 25"),
        ("p-room-7.fifo", "--room-queues 0"),
        ("p-room-21.fifo", "--room-queues 0 --rooms 21"),
        ("p-rooms-2of4.fifo", ""),
        ("p-db-dlq.fifo", ""),
        ("p-rooms-of-mine.fifo", ""),
        ("pp-room-7.fifo", ""),
    ],
)
def test_the_settings_of_a_room_queue_are_told_if_they_are_others(queue: str, settings: str) -> None:
    assert Names("p", 20, 4).settings_of(queue) == settings
