"""A transaction in as few round trips as it can be: BEGIN goes with its first statement, or it is one statement.

A round trip costs more than most statements: a thread goes to sleep in it, and takes the interpreter's lock again
behind whoever has that.
"""

from __future__ import annotations

from typing import Any

import psycopg2
from psycopg2.sql import Composable

from chatflow.persistence.driver import Connection, Cursor
from chatflow.persistence.sessions import COMMIT, SessionLimits


class Transaction(Cursor):
    """A cursor whose first statement begins a transaction. Blocking, used in one thread.

    :param connection: in autocommit mode: BEGIN and COMMIT are ours, each with what belongs to it.
    :param limits: of this transaction.
    """

    def __init__(self, connection: Connection, limits: SessionLimits) -> None:
        super().__init__(connection)
        self._limits = limits
        self._begun = False

    def execute(self, query: Any, vars: Any = None) -> None:
        """See :class:`psycopg2.extensions.cursor`. The result is that of the last statement in the query."""
        if not self._begun:
            query = f"{self._limits.begin(self.connection.server_version)}; {self._text(query)}"
            self._begun = True
        super().execute(query, vars)

    def copy_expert(self, sql: Any, file: Any, size: int = 8192) -> None:
        """See :class:`psycopg2.extensions.cursor`."""
        if not self._begun:
            self.execute("")
        super().copy_expert(sql, file, size)

    def execute_alone(self, query: str, vars: Any = None) -> None:
        """The statement is a transaction of its own, committed when this returns: one round trip. None is open before.

        Without a limit for its time: that would end the wait for a synchronous standby, with a mere warning, and what
        takes longer would take as long at the next try. See :meth:`.SessionLimits.alone`.
        """
        assert not self._begun
        super().execute(f"{self._limits.alone(self.connection.server_version)}; {query}", vars)

    def commit(self) -> None:
        """Commit what was begun, if anything was.

        :raises psycopg2.OperationalError: PostgreSQL rolled it back.
        """
        if self._begun:
            super().execute(COMMIT)
            if self.statusmessage != "COMMIT":
                raise psycopg2.OperationalError("PostgreSQL rolled the transaction back instead of committing it")
            self._begun = False

    def _text(self, query: Any) -> str:
        return query.as_string(self) if isinstance(query, Composable) else query
