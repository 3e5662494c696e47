"""One batch of envelopes → numbered rows, in one transaction. Blocking: runs in a thread of the pool.

The heads of the batch's rooms are locked in sorted order, so that two instances never wait for each other in a
circle. A head remembers its room's last 64 envelopes, in the same transaction as their rows, so that a redelivered
envelope is left out: a FIFO group can only redeliver what was not deleted yet, and that is at most 10.

A consumer that was paused for longer than its queue holds envelopes for it may wake with some that others have stored
meanwhile, and more than 64 since. So it is asked, once the heads are locked, whether it still holds them, or whether
so little was stored since that they would be remembered (:mod:`chatflow.broker.holding`). Who is given them after that
waits for the same lock, and finds them remembered.

A message that a client repeats under the same clientMessageId has the same id (:func:`~chatflow.rooms.identifiers
.derived_id`), and is left out as well. The head is locked meanwhile, so two copies cannot both be the first. Another
message under the same clientMessageId has another id. If its sender waits for the commit it is refused; if it has been
acknowledged by now, because the queue had it, it is stored as a message of its own: nothing that was acknowledged is
dropped.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import NamedTuple

import psycopg2
from attrs import define

from chatflow.contracts.envelopes import Envelope
from chatflow.contracts.messages import Message
from chatflow.contracts.writer import REMEMBERED_ENVELOPES, AreHeld, always
from chatflow.persistence.driver import Cursor
from chatflow.persistence.heads import LOCK_MESSAGES, create_rooms_in_thread
from chatflow.persistence.rollups import COUNTS_BY_TYPE
from chatflow.rooms.identifiers import same_name
from chatflow.rooms.messages import content, iso_timestamp

#: For so long a repeated clientMessageId is recognised.
REPEAT_HOURS = 24
_REPEAT_US = REPEAT_HOURS * 3_600_000_000

_LOCK_HEADS = """
SELECT room_id, last_seq, recent_envelopes::text[] FROM rooms
WHERE room_id = ANY(%s) ORDER BY room_id FOR UPDATE
"""

_COPY = """
COPY messages (room_id, seq, created_at, message_id, user_id, username, message_text, message_type,
               server_id, client_ip, client_timestamp, client_message_id) FROM STDIN
"""

# The limit makes it a look into the index for each name. Under one there are few; so many only if its client, on a
# queue that acknowledges before the commit, uses it again and again for something else.
_NAMED = f"""
{LOCK_MESSAGES};
SELECT found.* FROM unnest(%s::uuid[], %s::uuid[]) AS name (low, high) CROSS JOIN LATERAL (
    SELECT room_id, user_id, client_message_id, username, message_type, message_text FROM messages
    WHERE message_id BETWEEN name.low AND name.high AND client_message_id IS NOT NULL AND created_at >= %s::timestamptz
    ORDER BY message_id LIMIT 1000
) AS found
"""

# The rollups are made from the rows just stored, so they cannot differ from them. Sorted, so that instances which
# count the same user lock the rows in one order.
_ROLL_UP = f"""
WITH head AS MATERIALIZED (
    SELECT * FROM unnest(%(rooms)s::int[], %(before)s::bigint[], %(after)s::bigint[])
           AS head (room_id, before, after)
), fresh AS MATERIALIZED (
    SELECT m.room_id, m.seq, m.user_id, m.username, m.message_type, m.created_at
    FROM head JOIN messages AS m
      ON m.room_id = head.room_id AND m.seq > head.before AND m.seq <= head.after
     AND m.created_at BETWEEN %(earliest)s::timestamptz AND %(latest)s::timestamptz
), activity AS (
    INSERT INTO user_activity AS known
           (user_id, room_id, username, message_count, text_count, join_count, leave_count,
            first_activity, last_activity)
    SELECT user_id, room_id, (array_agg(username ORDER BY seq DESC))[1], count(*),
           {COUNTS_BY_TYPE}, min(created_at), max(created_at)
    FROM fresh GROUP BY user_id, room_id ORDER BY user_id, room_id
    ON CONFLICT (user_id, room_id) DO UPDATE SET
           username = excluded.username,
           message_count = known.message_count + excluded.message_count,
           text_count = known.text_count + excluded.text_count,
           join_count = known.join_count + excluded.join_count,
           leave_count = known.leave_count + excluded.leave_count,
           first_activity = least(known.first_activity, excluded.first_activity),
           last_activity = greatest(known.last_activity, excluded.last_activity)
), minutes AS (
    INSERT INTO message_stats_minute AS known
           (room_id, minute, message_count, text_count, join_count, leave_count)
    SELECT room_id, date_trunc('minute', created_at), count(*),
           {COUNTS_BY_TYPE}
    FROM fresh GROUP BY 1, 2 ORDER BY 1, 2
    ON CONFLICT (room_id, minute) DO UPDATE SET
           message_count = known.message_count + excluded.message_count,
           text_count = known.text_count + excluded.text_count,
           join_count = known.join_count + excluded.join_count,
           leave_count = known.leave_count + excluded.leave_count
)
UPDATE rooms SET last_seq = head.after, recent_envelopes = (string_to_array(remembered.ids, ' '))::uuid[],
       last_activity = greatest(rooms.last_activity,
                                (SELECT max(created_at) FROM fresh WHERE fresh.room_id = head.room_id))
FROM head JOIN unnest(%(rooms)s::int[], %(remembered)s::text[]) AS remembered (room_id, ids) USING (room_id)
WHERE rooms.room_id = head.room_id
"""


@define
class _Head:
    before: int
    after: int
    recent: list[str]


class CommitResult(NamedTuple):
    """What became of an envelope: its first seq, or None if nothing of it was stored now; its room's head afterwards.

    :ivar messages: those of its messages that were stored now; the others were stored before.
    :ivar held: False if it was left out because it may belong to another consumer.
    :ivar conflicts: positions of its messages that are refused, because their clientMessageId stands for another one.
    """

    first_seq: int | None
    head: int
    messages: Sequence[Message]
    held: bool = True
    conflicts: Sequence[int] = ()


#: What is stored under each clientMessageId of a room's user.
_Names = dict[tuple[int, int, str], set[str]]


def commit_in_thread(
    cursor: Cursor,
    envelopes: Sequence[Envelope],
    are_held: Sequence[AreHeld] | None = None,
    refuse_conflicts: bool = False,
) -> list[CommitResult]:
    """Store what is new of the envelopes, in the order given; a place for each.

    :param are_held: for each envelope, whether it may be stored if its head does not remember it; each different one is
        asked once. See :class:`~chatflow.contracts.writer.IBatchWriter`.
    :param refuse_conflicts: leave out what is another message under a clientMessageId that is taken; else store it.
    :raises psycopg2.DataError: as :func:`refuse_forged`; ValueError, OverflowError: what cannot be sent to PostgreSQL.
    """
    refuse_forged(envelopes)
    heads = _lock_heads(cursor, sorted({envelope.room for envelope in envelopes}))
    asked = are_held or [always] * len(envelopes)
    last_seqs = {room: head.before for room, head in heads.items()}
    lost = {is_held for is_held in set(asked) if not is_held(last_seqs)}
    names = _names(cursor, envelopes)
    results: list[CommitResult] = []
    rows = io.StringIO()
    earliest, latest = _time_range(envelopes)
    for envelope, is_held in zip(envelopes, asked, strict=True):
        head = heads[envelope.room]
        is_new = envelope.envelope_id not in head.recent
        if is_new and is_held in lost:
            results.append(CommitResult(None, head.after, (), held=False))
            continue
        messages: Sequence[Message] = envelope.messages if is_new else ()
        conflicts: Sequence[int] = ()
        if names is not None:
            messages, conflicts = _sort_out(envelope, is_new, names, refuse_conflicts)
        if not messages:
            results.append(CommitResult(None, head.after, (), conflicts=conflicts))
            continue
        results.append(CommitResult(head.after + 1, head.after + len(messages), messages, conflicts=conflicts))
        _write_rows(rows, envelope, messages, head.after + 1)
        head.after += len(messages)
        head.recent.append(envelope.envelope_id)
    changed = {room: head for room, head in heads.items() if head.after > head.before}
    if changed:
        # Encoded here: what is no Unicode is a refusal, and within COPY it would look like a cancelled query. The size
        # makes psycopg2 take the buffer in one read, hence the interpreter's lock once.
        cursor.copy_expert(_COPY, io.BytesIO(rows.getvalue().encode()), size=1 << 24)
        cursor.execute(
            _ROLL_UP,
            {
                "rooms": list(changed),
                "before": [head.before for head in changed.values()],
                "after": [head.after for head in changed.values()],
                "remembered": [" ".join(head.recent[-REMEMBERED_ENVELOPES:]) for head in changed.values()],
                "earliest": iso_timestamp(earliest),
                "latest": iso_timestamp(latest),
            },
        )
    return results


def refuse_forged(envelopes: Sequence[Envelope]) -> None:
    """See that no field but the texts holds what psycopg2 cannot send, or what would make rows of its own in COPY.

    :raises psycopg2.DataError: one does, as if PostgreSQL had refused it.
    """
    for envelope in envelopes:
        server_id = envelope.server_id
        for message in envelope.messages:
            names = f"{message.message_id}{message.username}{server_id}{message.client_ip}{message.client_timestamp}"
            if not names.isprintable():
                raise psycopg2.DataError("a control character in an id, a name, an address or a time")


def _lock_heads(cursor: Cursor, rooms: list[int]) -> dict[int, _Head]:
    cursor.execute(_LOCK_HEADS, (rooms,))
    found = cursor.fetchall()
    if len(found) < len(rooms):
        create_rooms_in_thread(cursor, rooms)
        cursor.execute(_LOCK_HEADS, (rooms,))
        found = cursor.fetchall()
    return {room: _Head(seq, seq, recent) for room, seq, recent in found}


def _names(cursor: Cursor, envelopes: Sequence[Envelope]) -> _Names | None:
    """What is stored under the names in these envelopes; None if no client has named any of its messages."""
    named = [message for envelope in envelopes for message in envelope.messages if message.client_message_id]
    if not named:
        return None
    ranges = {same_name(message.message_id) for message in named}
    since_us = max(0, min(message.created_at_us for message in named) - _REPEAT_US)
    cursor.execute(_NAMED, ([low for low, _ in ranges], [high for _, high in ranges], iso_timestamp(since_us)))
    names: _Names = {}
    for room, user_id, own_id, *parts in cursor.fetchall():
        names.setdefault((room, user_id, own_id), set()).add(content(*parts))
    return names


def _sort_out(
    envelope: Envelope, is_new: bool, names: _Names, refuse_conflicts: bool
) -> tuple[Sequence[Message], Sequence[int]]:
    """What is to be stored of an envelope, whose names count from now on, and the positions of what is refused."""
    new: list[Message] = []
    conflicts: list[int] = []
    for position, message in enumerate(envelope.messages):
        if message.client_message_id:
            taken = names.setdefault((envelope.room, message.user_id, message.client_message_id), set())
            own = content(message.username, message.message_type, message.text)
            if own in taken:
                continue
            if taken and refuse_conflicts:
                conflicts.append(position)
                continue
            if is_new:
                taken.add(own)
        if is_new:
            new.append(message)
    return new, tuple(conflicts)


def _time_range(envelopes: Sequence[Envelope]) -> tuple[int, int]:
    """The earliest and latest creation: it tells PostgreSQL which partitions the batch can be in."""
    times = [message.created_at_us for envelope in envelopes for message in envelope.messages]
    return min(times), max(times)


# What has a meaning in COPY's text format.
_ESCAPES = str.maketrans({"\\": r"\\", "\t": r"\t", "\n": r"\n", "\r": r"\r"})


def _write_rows(rows: io.StringIO, envelope: Envelope, messages: Sequence[Message], first_seq: int) -> None:
    room, server_id = envelope.room, envelope.server_id
    for seq, message in enumerate(messages, first_seq):
        text = message.text
        if not text.isprintable() or "\\" in text:
            text = text.translate(_ESCAPES)
        own_id = message.client_message_id
        rows.write(
            f"{room}\t{seq}\t{iso_timestamp(message.created_at_us)}\t{message.message_id}\t{message.user_id}\t"
            f"{message.username}\t{text}\t{message.message_type}\t{server_id}\t{message.client_ip or _NULL}\t"
            f"{message.client_timestamp}\t{_NULL if own_id is None else own_id.translate(_ESCAPES)}\n"
        )


_NULL = r"\N"
