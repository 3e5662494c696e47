"""Reads of stored messages by room and seq, and of the rooms' heads."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate

from twisted.internet.defer import Deferred
from zope.interface import implementer

from chatflow.contracts.archive import ISeqLookup
from chatflow.contracts.history import IHistory, IPageHistory, Page
from chatflow.contracts.messages import Message, StoredMessage
from chatflow.persistence.commit import REPEAT_HOURS
from chatflow.persistence.database import Database
from chatflow.persistence.days import room_rows_in_thread
from chatflow.persistence.driver import Cursor

_COLUMNS = """
seq, server_id, message_id::text, (extract(epoch FROM created_at) * 1000000)::bigint, user_id, username,
message_text, message_type, to_json(client_timestamp)#>>'{}', host(client_ip), client_message_id
"""

# The same as chatflow.rooms.messages.broadcast makes. PostgreSQL does it in a third of the time that rows and
# objects take here, and mostly without the interpreter's lock, so that live messages hardly notice.
_BROADCAST = """
seq, '{"messageId":"' || message_id || '","roomId":"' || room_id || '","seq":' || seq || ',"userId":"' || user_id
       || '","username":' || to_json(username) || ',"message":' || to_json(message_text)
       || ',"timestamp":"' || to_char(created_at, 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
       || '","messageType":' || to_json(message_type) || ',"serverId":' || to_json(server_id) || '}'
"""

# The window of chatflow.persistence.commit, and an hour for messages that were on their way.
_WINDOW = "SELECT now() - make_interval(hours => %s)"

# The time as a value: by now() PostgreSQL would leave no partition out before it has locked them all.
_PLACES = """
SELECT message_id::text, seq FROM messages
WHERE message_id = ANY(%s::uuid[]) AND client_message_id IS NOT NULL AND created_at > %s
"""


@implementer(IHistory, IPageHistory, ISeqLookup)
class History:
    """Each read is one short transaction in the readers' pool, so it never holds up commits.

    :param frame: makes of a broadcast's JSON what is sent; called in the reading thread, once per message of a page.
    """

    def __init__(self, database: Database, frame: Callable[[bytes], bytes] = bytes) -> None:
        self._database = database
        self._frame = frame

    def after(self, room: int, seq: int, limit: int) -> Deferred[Sequence[StoredMessage]]:
        """See :class:`IHistory`."""
        return Deferred.fromCoroutine(
            self._database.run_once("read history", messages_after_in_thread, room, seq, limit)
        )

    def heads(self) -> Deferred[Mapping[int, int]]:
        """See :class:`IHistory`."""
        return Deferred.fromCoroutine(self._database.run_once("read heads", heads_in_thread))

    def page(self, room: int, first: int, last: int) -> Deferred[Page]:
        """See :class:`IPageHistory`."""
        return Deferred.fromCoroutine(
            self._database.run_once("read a page", page_in_thread, room, first, last, self._frame)
        )

    def first_seq(self, room: int) -> Deferred[int]:
        """See :class:`IPageHistory`."""
        return Deferred.fromCoroutine(self._database.run_once("read the first seq", first_seq_in_thread, room))

    def seqs_of(self, message_ids: Sequence[str]) -> Deferred[Mapping[str, int]]:
        """The seq of each message that its client has named and that is stored. Fails like :meth:`after`."""
        return Deferred.fromCoroutine(self._database.run_once("find messages", seqs_of_in_thread, list(message_ids)))


def messages_after_in_thread(cursor: Cursor, room: int, seq: int, limit: int) -> list[StoredMessage]:
    """The room's first ``limit`` messages with a larger seq, ascending."""
    rows = room_rows_in_thread(cursor, _COLUMNS, room, seq + 1, limit=limit)
    return [StoredMessage(room, number, server_id, Message(*fields)) for number, server_id, *fields in rows]


def seqs_of_in_thread(cursor: Cursor, message_ids: list[str]) -> dict[str, int]:
    """See :meth:`History.seqs_of`."""
    cursor.execute(_WINDOW, (REPEAT_HOURS + 1,))
    ((since,),) = cursor.fetchall()
    cursor.execute(_PLACES, (message_ids, since))
    return dict(cursor.fetchall())


def heads_in_thread(cursor: Cursor) -> dict[int, int]:
    """The last seq of every room that has one."""
    cursor.execute("SELECT room_id, last_seq FROM rooms WHERE last_seq > 0")
    return dict(cursor.fetchall())


def page_in_thread(cursor: Cursor, room: int, first: int, last: int, frame: Callable[[bytes], bytes]) -> Page:
    """See :meth:`IPageHistory.page`."""
    # First the head: what is committed up to it is seen by the statement that follows.
    cursor.execute("SELECT last_seq FROM rooms WHERE room_id = %s", (room,))
    head = next((seq for (seq,) in cursor.fetchall()), 0)
    rows = room_rows_in_thread(cursor, _BROADCAST, room, first, last)
    frames = [frame(text.encode()) for _, text in rows]
    following = next_seq_in_thread(cursor, room, last) if not rows and head > last else None
    return Page(
        last,
        array("q", [seq for seq, _ in rows]),
        array("q", accumulate(map(len, frames))),
        b"".join(frames),
        head,
        following,
    )


def first_seq_in_thread(cursor: Cursor, room: int) -> int:
    """See :meth:`IPageHistory.first_seq`."""
    cursor.execute("SELECT first_seq FROM rooms WHERE room_id = %s", (room,))
    return next((found for (found,) in cursor.fetchall()), 1)


def next_seq_in_thread(cursor: Cursor, room: int, seq: int) -> int | None:
    """The room's first stored seq beyond ``seq``."""
    return next((found for (found,) in room_rows_in_thread(cursor, "seq", room, seq + 1, limit=1)), None)
