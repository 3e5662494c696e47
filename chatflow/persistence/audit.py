"""Whether what clients were told is stored: looks up acknowledged messages. Reads only."""

from __future__ import annotations

from collections.abc import Sequence

from attrs import frozen

from chatflow.persistence.driver import Connection
from chatflow.persistence.failures import database_errors
from chatflow.persistence.sessions import connect

_ROWS_AT_ONCE = 10_000
_UUID_BYTES = 16

# No upper bound: a message that was stored a second time may be far behind the others.
_ROWS = "SELECT seq, uuid_send(message_id) FROM messages WHERE room_id = %s AND seq >= %s ORDER BY seq"


@frozen
class Acknowledged:
    """What clients know of a room.

    :ivar first_seq, last_seq: of the messages that were seen.
    :ivar ids: the messageIds of all acknowledged messages, 16 bytes each, in any order.
    """

    room: int
    first_seq: int
    last_seq: int
    ids: bytes


@frozen
class Audit:
    """:ivar checked: how many acknowledged messages were looked up.
    :ivar missing: how many of them are not stored.
    :ivar duplicated: rows that have the id of one that was found already, or a seq that another row has.
    :ivar holes: seqs from first to last that no row has.
    """

    checked: int = 0
    missing: int = 0
    duplicated: int = 0
    holes: int = 0


def audit_in_thread(url: str, rooms: Sequence[Acknowledged]) -> Audit:
    """Look everything up, room by room, in one snapshot of the database.

    :raises Unavailable: the database does not answer; one line says why.
    """
    with database_errors("cannot check the database"):
        connection = connect(url, "chatflow-audit", target_session_attrs="any")
        try:
            connection.set_session(isolation_level="REPEATABLE READ", readonly=True)
            parts = [_audit_room(connection, room) for room in rooms]
        finally:
            connection.close()
    return Audit(
        checked=sum(part.checked for part in parts),
        missing=sum(part.missing for part in parts),
        duplicated=sum(part.duplicated for part in parts),
        holes=sum(part.holes for part in parts),
    )


def _audit_room(connection: Connection, room: Acknowledged) -> Audit:
    # Two acks with the same id stand for two messages; no more than one of them can be found.
    checked = len(room.ids) // _UUID_BYTES
    wanted = {room.ids[at : at + _UUID_BYTES] for at in range(0, len(room.ids), _UUID_BYTES)}
    found: set[bytes] = set()
    duplicated = holes = 0
    due = room.first_seq
    with connection.cursor(name="audit") as cursor:
        cursor.itersize = _ROWS_AT_ONCE
        cursor.execute(_ROWS, (room.room, room.first_seq))
        for seq, raw_id in cursor:
            duplicated += seq < due
            holes += max(0, min(seq, room.last_seq + 1) - due)
            due = max(due, seq + 1)
            message_id = bytes(raw_id)
            if message_id in found:
                duplicated += 1
            elif message_id in wanted:
                found.add(message_id)
    holes += max(0, room.last_seq + 1 - due)
    return Audit(checked=checked, missing=checked - len(found), duplicated=duplicated, holes=holes)
