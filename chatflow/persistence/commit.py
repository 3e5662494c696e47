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

All of it is done by a function of the database (``sql/0014``), which numbers, stores and counts. Where nobody has to be
asked it is called by itself, one round trip, and does nothing if a head remembers an envelope or a name is taken. Then,
or where somebody has to be asked, the heads are locked and read, and it is called for what is new.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import psycopg2
from attrs import define

from chatflow.contracts.envelopes import Envelope
from chatflow.contracts.messages import Message
from chatflow.contracts.writer import AreHeld, always
from chatflow.persistence import rows
from chatflow.persistence.driver import Cursor, only_row
from chatflow.persistence.heads import LOCK_MESSAGES, create_rooms_in_thread
from chatflow.persistence.transactions import Transaction
from chatflow.rooms.identifiers import same_name
from chatflow.rooms.messages import content, iso_timestamp

#: For so long a repeated clientMessageId is recognised.
REPEAT_HOURS = 24
_REPEAT_US = REPEAT_HOURS * 3_600_000_000

_LOCK_HEADS = """
SELECT room_id, last_seq, recent_envelopes::text[] FROM rooms
WHERE room_id = ANY(%s) ORDER BY room_id FOR UPDATE
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


@define
class _Head:
    last_seq: int
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

#: What is to be stored, by room: envelopes, with those of their messages that are new.
_New = dict[int, list[tuple[Envelope, Sequence[Message]]]]


def commit_alone_in_thread(
    transaction: Transaction,
    envelopes: Sequence[Envelope],
    are_held: Sequence[AreHeld] | None = None,
    refuse_conflicts: bool = False,
) -> list[CommitResult]:
    """The same as :func:`commit_in_thread`, as a transaction that is committed when this returns.

    One round trip if nobody has to be asked, and if it turns out there that all of it is new.
    """
    if are_held is None or all(is_held is always for is_held in are_held):
        results = _commit_at_once(transaction, envelopes)
        if results is not None:
            return results
    results = commit_in_thread(transaction, envelopes, are_held, refuse_conflicts)
    transaction.commit()
    return results


def commit_in_thread(
    cursor: Cursor,
    envelopes: Sequence[Envelope],
    are_held: Sequence[AreHeld] | None = None,
    refuse_conflicts: bool = False,
) -> list[CommitResult]:
    """Lock the heads, and store what is new of the envelopes, in the order given; a place for each.

    :param cursor: in a transaction; its locks are held until that ends.
    :param are_held: for each envelope, whether it may be stored if its head does not remember it; each different one is
        asked once. See :class:`~chatflow.contracts.writer.IBatchWriter`.
    :param refuse_conflicts: leave out what is another message under a clientMessageId that is taken; else store it.
    :raises psycopg2.DataError: as :func:`.rows.statement`; ValueError: what cannot be sent to PostgreSQL.
    """
    heads = _lock_heads(cursor, sorted({envelope.room for envelope in envelopes}))
    asked = are_held or [always] * len(envelopes)
    last_seqs = {room: head.last_seq for room, head in heads.items()}
    lost = {is_held for is_held in set(asked) if not is_held(last_seqs)}
    names = _names(cursor, envelopes)
    results: list[CommitResult] = []
    new: _New = {}
    for envelope, is_held in zip(envelopes, asked, strict=True):
        head = heads[envelope.room]
        is_new = envelope.envelope_id not in head.recent
        if is_new and is_held in lost:
            results.append(CommitResult(None, head.last_seq, (), held=False))
            continue
        messages: Sequence[Message] = envelope.messages if is_new else ()
        conflicts: Sequence[int] = ()
        if names is not None:
            messages, conflicts = _sort_out(envelope, is_new, names, refuse_conflicts)
        if not messages:
            results.append(CommitResult(None, head.last_seq, (), conflicts=conflicts))
            continue
        first_seq = head.last_seq + 1
        head.last_seq += len(messages)
        head.recent.append(envelope.envelope_id)
        new.setdefault(envelope.room, []).append((envelope, messages))
        results.append(CommitResult(first_seq, head.last_seq, messages, conflicts=conflicts))
    if new:
        cursor.execute(*rows.statement(new))
        (stored,) = only_row(cursor)
        if stored is None:
            raise psycopg2.OperationalError("the heads that are locked say something else at a second look")
    return results


def _commit_at_once(transaction: Transaction, envelopes: Sequence[Envelope]) -> list[CommitResult] | None:
    """Store all of it, in one round trip; None if nothing was stored, as somebody has to judge what is new."""
    if _holds_repetition(envelopes):
        return None
    named = _named(envelopes)
    new: _New = {}
    for envelope in envelopes:
        new.setdefault(envelope.room, []).append((envelope, envelope.messages))
    names = ([same_name(message.message_id) for message in named], _since_us(named)) if named else rows.NO_NAMES
    transaction.execute_alone(*rows.statement(new, names))
    (last_seqs,) = only_row(transaction)
    if last_seqs is None:
        return None
    heads = dict(zip(sorted(new), last_seqs, strict=True))
    results = []
    for envelope in envelopes:
        first_seq = heads[envelope.room] + 1
        heads[envelope.room] += len(envelope.messages)
        results.append(CommitResult(first_seq, heads[envelope.room], envelope.messages))
    return results


def _holds_repetition(envelopes: Sequence[Envelope]) -> bool:
    """Whether an envelope is there twice, or two messages under one name."""
    if len({envelope.envelope_id for envelope in envelopes}) < len(envelopes):
        return True
    names = [
        (envelope.room, message.user_id, message.client_message_id)
        for envelope in envelopes
        for message in envelope.messages
        if message.client_message_id
    ]
    return len(set(names)) < len(names)


def _lock_heads(cursor: Cursor, rooms: list[int]) -> dict[int, _Head]:
    cursor.execute(_LOCK_HEADS, (rooms,))
    found = cursor.fetchall()
    if len(found) < len(rooms):
        create_rooms_in_thread(cursor, rooms)
        cursor.execute(_LOCK_HEADS, (rooms,))
        found = cursor.fetchall()
    return {room: _Head(seq, recent) for room, seq, recent in found}


def _names(cursor: Cursor, envelopes: Sequence[Envelope]) -> _Names | None:
    """What is stored under the names in these envelopes; None if no client has named any of its messages."""
    named = _named(envelopes)
    if not named:
        return None
    ranges = {same_name(message.message_id) for message in named}
    since = iso_timestamp(_since_us(named))
    cursor.execute(_NAMED, ([low for low, _ in ranges], [high for _, high in ranges], since))
    names: _Names = {}
    for room, user_id, own_id, *parts in cursor.fetchall():
        names.setdefault((room, user_id, own_id), set()).add(content(*parts))
    return names


def _named(envelopes: Sequence[Envelope]) -> list[Message]:
    return [message for envelope in envelopes for message in envelope.messages if message.client_message_id]


def _since_us(named: Sequence[Message]) -> int:
    """What was stored earlier under the same names does not count."""
    return max(0, min(message.created_at_us for message in named) - _REPEAT_US)


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
