"""Reads of stored messages by room and seq, and of the rooms' heads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from twisted.internet.defer import Deferred
from zope.interface import implementer

from chatflow.persistence.database import Database
from chatflow.rooms.interfaces import IHistory
from chatflow.rooms.messages import Message, StoredMessage

_AFTER = """
SELECT seq, server_id, message_id::text, (extract(epoch FROM created_at) * 1000000)::bigint, user_id, username,
       message_text, message_type, to_json(client_timestamp)#>>'{}', host(client_ip), client_message_id
FROM messages WHERE room_id = %s AND seq > %s ORDER BY seq LIMIT %s
"""


@implementer(IHistory)
class History:
    """Each read is one short transaction in the readers' pool, so it never holds up commits."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def after(self, room: int, seq: int, limit: int) -> Deferred[Sequence[StoredMessage]]:
        """See :class:`IHistory`."""
        return Deferred.fromCoroutine(
            self._database.run_once("read history", messages_after_in_thread, room, seq, limit)
        )

    def heads(self) -> Deferred[Mapping[int, int]]:
        """See :class:`IHistory`."""
        return Deferred.fromCoroutine(self._database.run_once("read heads", heads_in_thread))


def messages_after_in_thread(cursor: Any, room: int, seq: int, limit: int) -> list[StoredMessage]:
    """The room's first ``limit`` messages with a larger seq, ascending."""
    cursor.execute(_AFTER, (room, seq, limit))
    return [
        StoredMessage(room, number, server_id, Message(*fields)) for number, server_id, *fields in cursor.fetchall()
    ]


def heads_in_thread(cursor: Any) -> dict[int, int]:
    """The last seq of every room that has one."""
    cursor.execute("SELECT room_id, last_seq FROM rooms WHERE last_seq > 0")
    return dict(cursor.fetchall())
