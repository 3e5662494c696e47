"""The two ways to commit a batch, as kinds of connections: tests of what a commit does are made with both."""

from __future__ import annotations

from collections.abc import Sequence

from chatflow.contracts.envelopes import Envelope
from chatflow.contracts.writer import AreHeld
from chatflow.persistence.commit import CommitResult, commit_alone_in_thread, commit_in_thread
from chatflow.persistence.driver import Connection
from chatflow.persistence.sessions import SessionLimits
from chatflow.persistence.transactions import Transaction


class Alone(Connection):
    """Its batches are transactions of their own, in one round trip if that can be: as the daemon commits."""


class Within(Connection):
    """Its batches are part of a transaction, as in a replay of dead letters."""


WAYS = (Alone, Within)


def commit_batch(
    connection: Connection,
    envelopes: Sequence[Envelope],
    are_held: Sequence[AreHeld] | None = None,
    refuse_conflicts: bool = False,
) -> list[CommitResult]:
    """One batch, committed in the way of the connection; any but :class:`Alone` is taken for :class:`Within`."""
    if not isinstance(connection, Alone):
        with connection, connection.cursor() as cursor:
            return commit_in_thread(cursor, envelopes, are_held, refuse_conflicts)
    connection.autocommit = True
    try:
        with Transaction(connection, SessionLimits()) as transaction:
            return commit_alone_in_thread(transaction, envelopes, are_held, refuse_conflicts)
    finally:
        connection.autocommit = False
