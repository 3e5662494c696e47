"""What numbers and stores envelopes, and what may become of one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from attrs import frozen
from twisted.internet.defer import Deferred
from zope.interface import Interface

from chatflow.contracts.envelopes import Envelope
from chatflow.contracts.messages import StoredMessage
from chatflow.errors import NotStored


@frozen
class Stored:
    """An envelope's messages are committed, numbered from ``first_seq`` on.

    :ivar conflicts: positions, in the envelope as it was written, of messages that are not stored because their
        clientMessageId stands for another one.
    """

    envelope: Envelope
    first_seq: int
    conflicts: Sequence[int] = ()

    def messages(self) -> list[StoredMessage]:
        """The messages with their places."""
        room, server_id = self.envelope.room, self.envelope.server_id
        return [
            StoredMessage(room, seq, server_id, message)
            for seq, message in enumerate(self.envelope.messages, self.first_seq)
        ]


@frozen
class Duplicate:
    """Nothing of this envelope was stored now, as in a redelivery.

    :ivar head: the room's last committed seq.
    :ivar conflicts: as in :class:`Stored`.
    """

    room: int
    head: int
    conflicts: Sequence[int] = ()


@frozen
class DeadLettered:
    """The database refused the envelope for good; it is among the dead letters."""

    reason: NotStored


@frozen
class LeaseLost:
    """Nothing was stored: the envelope may belong to somebody else by now."""


Outcome = Stored | Duplicate | DeadLettered | LeaseLost


#: So many of its last envelopes a room's head remembers, and so many of a room are in flight at most on any queue.
REMEMBERED_ENVELOPES = 64
MAX_IN_FLIGHT = 10

#: Rooms with the seq of the last message that is stored in each.
LastSeqs = Mapping[int, int]
AreHeld = Callable[[LastSeqs], bool]


def always(last_seqs: LastSeqs) -> bool:
    """For envelopes that nobody else can be given."""
    return True


class IBatchWriter(Interface):
    """Commits envelopes of all rooms in large transactions."""

    def when_available() -> Deferred[None]:
        """Fires while the database answers: at once, or as soon as it does again. Never fails, may be cancelled.

        What is received before only waits here, and others may have a database.
        """

    def write(envelopes: Sequence[Envelope], are_held: AreHeld = always) -> Deferred[Sequence[Outcome]]:
        """Fires with an outcome per envelope once all are settled. Envelopes of a room keep their order.

        :param are_held: whether each of these certainly is this consumer's alone, or remembered by its room's head if
            somebody has stored it. Called in another thread, while their rooms' heads are locked, with the last seq of
            these and perhaps of other rooms: so who was paused for long stores nothing that others have stored
            meanwhile.

        Waits while the database is away. Fails with :class:`chatflow.errors.Unavailable` when the writer stops, and
        with what a defect raised; then nothing is known of these envelopes, they may be written again, and none of a
        room was stored behind one of the same room that failed.
        """
