"""The driver's types, under names that stand out in a signature; and what its answers are in one row."""

from __future__ import annotations

from typing import Any

from psycopg2.extensions import connection as _connection
from psycopg2.extensions import cursor as _cursor

#: Of psycopg2; not to be shared between threads while a transaction is under way.
Connection = _connection
#: Of psycopg2, as a connection makes it without a ``cursor_factory``: a row is a tuple.
Cursor = _cursor


def only_row(cursor: Cursor) -> tuple[Any, ...]:
    """The one row of a statement that always gives exactly one, such as an aggregate without GROUP BY."""
    (row,) = cursor.fetchall()
    return row
