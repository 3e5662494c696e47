"""Messages as the arguments of ``store_messages``, the database's function that stores a batch (``sql/0014``).

Each column is an array, written as PostgreSQL reads one: psycopg2 would adapt a list element by element, which takes
ten times as long, as do row constructors.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate, chain

import psycopg2

from chatflow.contracts.envelopes import Envelope
from chatflow.contracts.messages import Message

#: Of each room, in the order in which they are numbered: envelopes, with those of their messages that are to be stored.
Rooms = Mapping[int, Sequence[tuple[Envelope, Sequence[Message]]]]

#: Ids between which all lie that stand for a name, both included; and since when they count, as ``created_at_us``.
Names = tuple[Sequence[tuple[str, str]], int]

NO_NAMES: Names = ((), 0)

_STORE = f"SELECT store_messages({', '.join(['%s'] * 18)})"


def statement(rooms: Rooms, names: Names = NO_NAMES) -> tuple[str, Sequence[object]]:
    """SQL and its arguments. Its one row is the seq before the first new one, by room in ascending order.

    The row is NULL, and nothing is stored, if a room has no head or remembers one of these envelopes, or if anything is
    stored under one of the names.

    :param rooms: at least one; each with at least one message, and no envelope twice.
    :raises psycopg2.DataError: a control character where none can be, as if PostgreSQL had refused it.
    """
    ordered = sorted(rooms)
    parts = [part for room in ordered for part in rooms[room]]
    messages = [message for _, several in parts for message in several]
    counts = [sum(len(several) for _, several in rooms[room]) for room in ordered]
    starts = accumulate(counts[:-1], initial=1)
    latest = [max(message.created_at_us for _, several in rooms[room] for message in several) for room in ordered]
    ranges, since_us = names
    ids = _plain_texts([message.message_id for message in messages])
    client_times = _plain_texts([message.client_timestamp for message in messages])
    usernames = _plain_texts([message.username for message in messages])
    servers = _plain_texts(
        list(chain.from_iterable([envelope.server_id] * len(several) for envelope, several in parts))
    )
    addresses = _plain_texts([message.client_ip or "" for message in messages])
    return _STORE, (
        _numbers(ordered),
        _numbers(starts),
        _numbers(counts),
        _numbers(latest),
        _texts([" ".join([envelope.envelope_id for envelope, _ in rooms[room]]) for room in ordered]),
        ids,
        _numbers([message.created_at_us for message in messages]),
        client_times,
        _numbers([message.user_id for message in messages]),
        usernames,
        _texts([message.message_type for message in messages]),
        servers,
        addresses,
        _texts([message.client_message_id or "" for message in messages]),
        _texts([message.text for message in messages]),
        _texts([low for low, _ in ranges]),
        _texts([high for _, high in ranges]),
        since_us,
    )


def _numbers(values: Iterable[int]) -> str:
    return f"{{{','.join(map(str, values))}}}"


def _plain_texts(values: Sequence[str]) -> str:
    """Of a column in which nothing but a forgery has a control character."""
    written = _texts(values)
    if not written.isprintable():
        raise psycopg2.DataError("a control character in an id, a name, an address or a time")
    return written


def _texts(values: Sequence[str]) -> str:
    """All quoted, so that none is taken for NULL, for two, or for a part of the array."""
    if not values:
        return "{}"
    joined = '","'.join(values)
    if "\\" in joined or joined.count('"') > 2 * (len(values) - 1):
        joined = '","'.join([value.replace("\\", "\\\\").replace('"', '\\"') for value in values])
    return f'{{"{joined}"}}'
