"""The connection pools, named transactions, and what is tried again.

Blocking work runs in the pool's threads, as functions of a cursor whose names end in ``_in_thread``; pauses between
tries are spent on the reactor's clock, outside the threads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeVar

import psycopg2
from psycopg2 import errorcodes
from twisted.enterprise.adbapi import ConnectionPool
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from chatflow.errors import Unavailable
from chatflow.lifecycle import Backoff, QuickThreads, run_in_own_thread
from chatflow.persistence.driver import Connection
from chatflow.persistence.failures import is_answer, is_refusal, is_transient, remedy
from chatflow.persistence.reasons import reason_of
from chatflow.persistence.sessions import CONNECT_OPTIONS, SessionLimits, connect
from chatflow.persistence.transactions import Transaction

__all__ = ["Database", "SessionLimits", "connect", "is_answer", "is_refusal", "is_transient"]

P = ParamSpec("P")
T = TypeVar("T")


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
        self._limits = limits
        self._pool = ConnectionPool(
            "psycopg2",
            url,
            **CONNECT_OPTIONS,
            application_name=limits.application_name,
            cp_min=0,  # of adbapi's own threads, which are not used
            cp_max=connections,
            cp_noisy=False,
            cp_openfun=_opened_in_thread,
            cp_reactor=reactor,
        )
        self._threads = QuickThreads(reactor, connections)
        self._pool.threadpool = self._threads  # type: ignore[assignment]
        self._stopping = False
        self.transactions = 0
        self.retries = 0
        self._away_since: float | None = None
        #: What somebody has to do before transactions succeed, as it was said in the log.
        self._waits_for: str | None = None
        self._await_answer: dict[Deferred[None], None] = {}

    @property
    def available(self) -> bool:
        """Whether the last transaction that was tried had an answer.

        Who waits for this to become true must know that something tries: :meth:`run` does so itself, after a failed
        :meth:`run_once` only the next call does.
        """
        return self._away_since is None

    def when_available(self) -> Deferred[None]:
        """Fires once the database is :attr:`available`; at once, if it is. Never fails, may be cancelled."""
        if self.available:
            return succeed(None)
        waiting: Deferred[None] = Deferred(self._await_answer.pop)
        self._await_answer[waiting] = None
        return waiting

    @property
    def away_seconds(self) -> float:
        """For how long there was no answer; 0 while the database is available."""
        return 0.0 if self._away_since is None else self._clock.seconds() - self._away_since

    def start(self) -> None:
        """Start the threads; connections are made when they are needed."""
        self._pool.start()
        self._threads.start()  # with a reactor that runs, adbapi had started when it was made

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
        transaction_in_thread: Callable[Concatenate[Transaction, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """The result of one transaction: ``transaction_in_thread(transaction, ...)`` and a commit, in a pool's thread.

        Tries again, without end, unless the data itself is refused (:func:`.failures.is_refusal`): what is wrong with
        the database is the fault of nothing that is to be stored. If it cannot pass by itself, the log says once what
        to do. The function may therefore run more than once, and after a connection lost in the commit its first run
        may have been committed.

        :param name: for the log.
        :raises Unavailable: when the pools are stopped meanwhile.
        :raises Exception: what refuses the data, or is no error of the database.
        """
        backoff = Backoff(first_seconds=0.05, cap_seconds=2.0)
        while True:
            try:
                result = await self._attempt(transaction_in_thread, *args, **kwargs)
            except psycopg2.Error as error:
                if is_refusal(error):
                    self._note_answer(True)
                    raise
                reason = reason_of(error, self._url)
                self._call_for_help(name, remedy(error), reason)
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
        transaction_in_thread: Callable[Concatenate[Transaction, P], T],
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

    def _call_for_help(self, name: str, remedy: str | None, reason: str) -> None:
        """Say once what somebody has to do."""
        if remedy is not None and remedy != self._waits_for:
            self._log.error(
                "{name} waits, and will until somebody helps: {remedy} ({reason})",
                name=name,
                remedy=remedy,
                reason=reason,
            )
        self._waits_for = remedy

    def _note_answer(self, answered: bool) -> None:
        if answered:
            self._away_since = self._waits_for = None
            while self._await_answer:
                waiting, _ = self._await_answer.popitem()
                waiting.callback(None)
        elif self._away_since is None:
            self._away_since = self._clock.seconds()

    def _attempt(
        self, transaction_in_thread: Callable[Concatenate[Transaction, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> Deferred[T]:
        if self._stopping:
            raise Unavailable("the database is being closed")
        return self._threads.run(self._transact_in_thread, transaction_in_thread, args, kwargs)

    def _transact_in_thread(self, transaction_in_thread: Callable[..., T], args: Any, kwargs: Any) -> T:
        # adbapi's own runInteraction logs each failed rollback of a connection that is gone; this drops it instead.
        connection = self._pool.connect()
        try:
            with Transaction(connection, self._limits) as transaction:
                result = transaction_in_thread(transaction, *args, **kwargs)
                transaction.commit()
            return result
        except BaseException as error:
            try:
                with connection.cursor() as cursor:
                    cursor.execute("ROLLBACK")
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
            await self._threads.run(self._recover_in_thread)
        except Exception:
            self._log.failure("the database server was not brought back")


def _opened_in_thread(connection: Connection) -> None:
    # BEGIN and COMMIT are ours, each with what belongs to it in one round trip.
    connection.autocommit = True
