"""What ChatFlow's objects in AWS are called, and which room belongs to which queue. Pure functions."""

from __future__ import annotations

import re

from attrs import frozen

# An SQS queue's name has at most 80 characters, with .fifo (Amazon SQS Developer Guide, quotas).
MAX_NAME_CHARACTERS = 80


@frozen
class Names:
    """The names with one prefix.

    :ivar prefix: begins every name; deployments with different prefixes share nothing.
    :ivar rooms: how many rooms there are, numbered from 1.
    :ivar room_queues: how many queues serve them; None for one per room.
    """

    prefix: str
    rooms: int
    room_queues: int | None = None

    def shard(self, room: int) -> int:
        """The queue of a room, numbered from 1."""
        return (room - 1) % (self.room_queues or self.rooms) + 1

    @property
    def shards(self) -> range:
        """The numbers of all room queues, from 1."""
        return range(1, min(self.room_queues or self.rooms, self.rooms) + 1)

    def shard_rooms(self, shard: int) -> list[int]:
        """The rooms whose envelopes travel in one room queue."""
        return list(range(shard, self.rooms + 1, self.room_queues or self.rooms))

    def room_queue(self, shard: int) -> str:
        """A queue's name. Shared queues carry their number in the name: with another, rooms are on other queues."""
        if self.room_queues:
            return f"{self.prefix}-rooms-{shard}of{self.room_queues}.fifo"
        return f"{self.prefix}-room-{shard}.fifo"

    def settings_of(self, queue: str) -> str:
        """The options with which instances receive from a room queue of the prefix; none if these do, or if it is none.

        :param queue: its name.
        """
        found = re.fullmatch(re.escape(self.prefix) + r"-rooms?-(\d+)(?:of(\d+))?\.fifo", queue)
        if found is None or queue in map(self.room_queue, self.shards):
            return ""
        shard, room_queues = int(found[1]), found[2] or 0
        rooms = f" --rooms {shard}" if shard > self.rooms else ""
        return f"--room-queues {room_queues}{rooms}"

    @property
    def topic(self) -> str:
        """The SNS FIFO topic of the fan-out."""
        return f"{self.prefix}-fanout.fifo"

    def topic_arn(self, queue_arn: str) -> str:
        """The topic's ARN, from that of any of the queues: partition, region and account are the same."""
        partition, _, region, account = queue_arn.split(":")[1:5]
        return f"arn:{partition}:sns:{region}:{account}:{self.topic}"

    def fanout_queue(self, server_id: str, start: str) -> str:
        """The fan-out queue of one instance's one start: a deleted name stays unusable for a minute."""
        return f"{self.prefix}-fanout-{server_id}-{start}.fifo"

    @property
    def fanout_prefix(self) -> str:
        """What the name of every fan-out queue begins with."""
        return f"{self.prefix}-fanout-"

    @property
    def dead_letters(self) -> str:
        """The queue of envelopes that the database refused."""
        return f"{self.prefix}-db-dlq.fifo"

    @property
    def tags(self) -> dict[str, str]:
        """On every queue and topic: a name alone does not prove that something is ours."""
        return {"project": "chatflow", "prefix": self.prefix}
