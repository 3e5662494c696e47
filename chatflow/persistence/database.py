"""The connection pools, named transactions, and what is tried again.

Blocking work runs in the pool's threads, as functions of a cursor whose names end in ``_in_thread``; pauses between
tries are spent on the reactor's clock, outside the threads.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from threading import Thread
from typing import Any, Concatenate, ParamSpec, TypeVar

import psycopg2
from attrs import field, frozen
from psycopg2 import errorcodes
from twisted.enterprise.adbapi import ConnectionPool
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger

from chatflow.errors import StartupError, Unavailable
from chatflow.lifecycle import Backoff, run_in_own_thread
from chatflow.persistence.reasons import reason_of

P = ParamSpec("P")
T = TypeVar("T")

#: Connect and notice a dead server within seconds, also behind a failover; libpq ignores the last ones on sockets
#: of the file system. Aurora's old writer accepts connections but no writes, hence target_session_attrs.
CONNECT_OPTIONS = {
    "connect_timeout": 3,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 5000,
    "target_session_attrs": "read-write",
}

# States of SQL that are no fault of the statement, beside those that psycopg2 calls OperationalError.
_TRANSIENT_STATES = {
    errorcodes.READ_ONLY_SQL_TRANSACTION,  # Aurora: the writer became a reader
    errorcodes.IDLE_IN_TRANSACTION_SESSION_TIMEOUT,  # this process was paused in a transaction
    errorcodes.IN_FAILED_SQL_TRANSACTION,
}

# What says that there is no database now, though something answered for it: it starts, stops, takes no more
# connections, or became a reader.
_AWAY_STATES = {
    errorcodes.ADMIN_SHUTDOWN,
    errorcodes.CRASH_SHUTDOWN,
    errorcodes.CANNOT_CONNECT_NOW,
    errorcodes.TOO_MANY_CONNECTIONS,
    errorcodes.READ_ONLY_SQL_TRANSACTION,
}


def is_transient(error: BaseException) -> bool:
    """Whether the same transaction may succeed on another try."""
    if isinstance(error, psycopg2.OperationalError | psycopg2.InterfaceError):
        return True
    return isinstance(error, psycopg2.Error) and error.pgcode in _TRANSIENT_STATES


def is_answer(error: psycopg2.Error) -> bool:
    """Whether a database refused or ended the transaction, such as one that took too long; otherwise it is away."""
    return error.pgcode is not None and not error.pgcode.startswith("08") and error.pgcode not in _AWAY_STATES


def is_refusal(error: BaseException) -> bool:
    """Whether PostgreSQL refused the data itself (SQLSTATE classes 22 and 23), so that no try will succeed."""
    return isinstance(error, psycopg2.DataError | psycopg2.IntegrityError)


def connect(url: str, application_name: str = "chatflow-admin") -> Any:
    """A connection of one's own, outside the pools. Blocks.

    :raises StartupError: it cannot be made.
    """
    try:
        return psycopg2.connect(url, application_name=application_name, **CONNECT_OPTIONS)
    except psycopg2.Error as error:
        raise StartupError(f"cannot connect to the database: {reason_of(error, url)}") from None


@frozen
class SessionLimits:
    """What PostgreSQL ends by itself, in seconds; set once per connection."""

    statement_seconds: float = 30
    lock_seconds: float = 10
    idle_in_transaction_seconds: float = 10
    application_name: str = field(default="chatflow")

    def apply_in_thread(self, connection: Any) -> None:
        """Prepare a new connection."""
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT set_config('statement_timeout', %s, false), set_config('lock_timeout', %s, false),"
                " set_config('idle_in_transaction_session_timeout', %s, false),"
                " set_config('application_name', %s, false), set_config('TimeZone', 'UTC', false)",
                (
                    str(round(self.statement_seconds * 1000)),
                    str(round(self.lock_seconds * 1000)),
                    str(round(self.idle_in_transaction_seconds * 1000)),
                    self.application_name,
                ),
            )
        connection.commit()


class Database:
    """Connections to one PostgreSQL, each with a thread of its own.

    :param reactor: gives the clock and the threads' way back.
    :param recover_in_thread: called before a lost connection is tried again, such as to restart an embedded server.
    """

    _log = Logger()

    def __init__(
        self,
        *,
        reactor: Any,
        url: str,
        connections: int,
        limits: SessionLimits,
        recover_in_thread: Callable[[], object] | None = None,
    ) -> None:
        self._reactor = reactor
        self._clock: IReactorTime = reactor
        self._recover_in_thread = recover_in_thread
        self._url = url
        self._pool = ConnectionPool(
            "psycopg2",
            url,
            **CONNECT_OPTIONS,
            cp_min=connections,
            cp_max=connections,
            cp_noisy=False,
            cp_openfun=limits.apply_in_thread,
            cp_reactor=reactor,
        )
        self._pool.threadpool.threadFactory = functools.partial(Thread, daemon=True)  # type: ignore[assignment]
        self._stopping = False
        self.transactions = 0
        self.retries = 0
        self._away_since: float | None = None

    @property
    def available(self) -> bool:
        """Whether the last transaction that was tried had an answer.

        Who waits for this to become true must know that something tries: :meth:`run` does so itself, after a failed
        :meth:`run_once` only the next call does.
        """
        return self._away_since is None

    @property
    def away_seconds(self) -> float:
        """For how long there was no answer; 0 while the database is available."""
        return 0.0 if self._away_since is None else self._clock.seconds() - self._away_since

    def start(self) -> None:
        """Start the threads; connections are made when they are needed."""
        self._pool.start()

    def stop(self) -> Deferred[Any]:
        """Close every connection; transactions that wait for another try fail. Fires when those under way are over.

        One that the server never ends delays neither the reactor nor the end of the process.
        """
        self._stopping = True
        pool = self._pool
        # Closing joins the threads: not on the reactor's thread, where adbapi's own trigger would do it.
        for trigger in (pool.startID, pool.shutdownID):
            if trigger is not None:
                self._reactor.removeSystemEventTrigger(trigger)
        pool.startID = pool.shutdownID = None
        return run_in_own_thread(self._reactor, "close connections", pool.close)

    async def run(
        self,
        name: str,
        transaction_in_thread: Callable[Concatenate[Any, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """The result of one transaction: ``transaction_in_thread(cursor, ...)`` and a commit, in a pool's thread.

        Tries again, without end, while the database is away or serialisation fails. The function may therefore run
        more than once, and after a connection lost in the commit its first run may have been committed.

        :param name: for the log.
        :raises Unavailable: when the pools are stopped meanwhile.
        :raises psycopg2.Error: what is not transient.
        """
        backoff = Backoff(first_seconds=0.05, cap_seconds=2.0)
        while True:
            try:
                result = await self._attempt(transaction_in_thread, *args, **kwargs)
            except psycopg2.Error as error:
                if not is_transient(error):
                    self._note_answer(True)
                    raise
                reason = reason_of(error, self._url)
            else:
                self.transactions += 1
                self._note_answer(True)
                return result
            if self._stopping:
                raise Unavailable(f"{name}: the database is being closed")
            self.retries += 1
            self._note_answer(False)
            self._log.warn("{name} is tried again: {reason}", name=name, reason=reason)
            await deferLater(self._clock, backoff.next_delay_seconds())
            if not self._stopping:
                await self._recover()

    async def run_once(
        self,
        name: str,
        transaction_in_thread: Callable[Concatenate[Any, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Like :meth:`run`, but a transient error is the caller's at once, as :class:`Unavailable`."""
        try:
            result = await self._attempt(transaction_in_thread, *args, **kwargs)
        except psycopg2.Error as error:
            self._note_answer(is_answer(error) or not is_transient(error))
            if is_transient(error):
                raise Unavailable(f"{name}: {reason_of(error, self._url)}") from error
            raise
        self.transactions += 1
        self._note_answer(True)
        return result

    def _note_answer(self, answered: bool) -> None:
        if answered:
            self._away_since = None
        elif self._away_since is None:
            self._away_since = self._clock.seconds()

    def _attempt(
        self, transaction_in_thread: Callable[Concatenate[Any, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> Deferred[T]:
        if self._stopping:
            raise Unavailable("the database is being closed")
        return deferToThreadPool(
            self._reactor, self._pool.threadpool, self._transact_in_thread, transaction_in_thread, args, kwargs
        )

    def _transact_in_thread(self, transaction_in_thread: Callable[..., T], args: Any, kwargs: Any) -> T:
        # adbapi's own runInteraction logs each failed rollback of a connection that is gone; this drops it instead.
        connection = self._pool.connect()
        try:
            with connection.cursor() as cursor:
                result = transaction_in_thread(cursor, *args, **kwargs)
            connection.commit()
            return result
        except BaseException as error:
            try:
                connection.rollback()
            except psycopg2.Error:
                self._pool.disconnect(connection)
            else:
                if connection.closed or getattr(error, "pgcode", None) == errorcodes.READ_ONLY_SQL_TRANSACTION:
                    # The writer is elsewhere now, and only a new connection looks for it.
                    self._pool.disconnect(connection)
            raise

    async def _recover(self) -> None:
        if self._recover_in_thread is None:
            return
        try:
            await maybeDeferred(deferToThreadPool, self._reactor, self._pool.threadpool, self._recover_in_thread)
        except Exception:
            self._log.failure("the database server was not brought back")
