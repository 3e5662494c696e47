"""Whether what a consumer was given may be stored: it is leased, or would be recognised if somebody else had stored it.

SQS counts a message's visibility from its answer. How long before the answer came that was, nobody knows: the network
or a pause of this process may have held it up. So only the time of the question is certain, and after a long poll in a
quiet room the lease may be over as far as anybody can tell, although SQS has just granted it.

But then little was stored meanwhile, and that is as good. A head remembers its room's last 64 envelopes. Whoever stored
one of these did so after the question, or before it without deleting it; of the latter a room has at most 10 in flight.
So while fewer than 54 messages, hence envelopes, were stored in the room since the question, it is among the 64.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from attrs import frozen

from chatflow.contracts.room_queue import Delivery, IRoomQueue
from chatflow.contracts.writer import MAX_IN_FLIGHT, REMEMBERED_ENVELOPES, LastSeqs

#: While fewer messages were stored in a room, the head of the room remembers what it has to.
RECOGNISED_MESSAGES = REMEMBERED_ENVELOPES - MAX_IN_FLIGHT

#: Of a room that is none of the shard's by this instance's settings: too long ago.
_UNKNOWN = -RECOGNISED_MESSAGES


@frozen(eq=False)
class Holding:
    """What one receive brought.

    :ivar known: of each room of the shard a seq that was stored when the question was sent.
    """

    queue: IRoomQueue
    deliveries: Sequence[Delivery]
    known: LastSeqs

    def may_be_stored(self, last_seqs: LastSeqs) -> bool:
        """See :meth:`.IBatchWriter.write`. May be called in any thread."""
        if self.queue.are_leased(self.deliveries):
            return True
        return all(
            # Fewer than none when the database was set back: then nothing is known.
            0 <= last_seqs[room] - self.known.get(room, _UNKNOWN) < RECOGNISED_MESSAGES
            for room in {delivery.envelope.room for delivery in self.deliveries}
        )

    def needs_lease(self, last_seq: Callable[[int], int]) -> bool:
        """Whether so much was stored meanwhile, or comes now, that it is not to be relied on that little was.

        :param last_seq: of a room, as far as it is known.
        """
        arriving: Counter[int] = Counter()
        for delivery in self.deliveries:
            arriving[delivery.envelope.room] += len(delivery.envelope.messages)
        return any(
            last_seq(room) - self.known.get(room, _UNKNOWN) + count >= RECOGNISED_MESSAGES / 2
            for room, count in arriving.items()
        )
