"""Transactions are tried again when that can help and only then, while PostgreSQL dies, hangs up, or comes back."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from typing import Any

import psycopg2
import pytest
import pytest_twisted
from twisted.internet.defer import CancelledError, Deferred, DeferredList, gatherResults

from chatflow.errors import Unavailable
from chatflow.persistence.database import Database, SessionLimits, is_refusal, is_transient
from testbed.postgres import execute
from testbed.postgres_proxy import PostgresProxy
from tests.support.reactor import on_reactor, reactor, until

_NAME = "chatflow test"
_CONNECTIONS = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name = %s"


class MakeDatabase:
    """Makes connections to the test's database, started."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._made: list[Database] = []

    def __call__(self, url: str | None = None, connections: int = 1, **options: Any) -> Database:
        options.setdefault("limits", SessionLimits(application_name=_NAME))
        database = Database(reactor=reactor, url=url or self._url, connections=connections, **options)
        database.start()
        self._made.append(database)
        return database

    def stop(self, database: Database) -> Deferred[Any]:
        self._made.remove(database)
        return database.stop()

    def stop_all(self) -> Deferred[Any]:
        return gatherResults([self.stop(database) for database in tuple(self._made)])


@pytest_twisted.async_yield_fixture
async def make_database(database_url: str) -> AsyncIterator[MakeDatabase]:
    """What a test makes with it is stopped after the test, unless the test did so."""
    make = MakeDatabase(database_url)
    yield make
    await make.stop_all()


def select_in_thread(cursor: Any, sql: str = "SELECT 1", *arguments: Any) -> Any:
    """The first column of the first row."""
    cursor.execute(sql, arguments)
    return cursor.fetchone()[0]


def begin(work: Any) -> Deferred[Any]:
    return Deferred.fromCoroutine(work)


def kill_connections(url: str) -> int:
    """End the connections of the database under test from the server's side; how many."""
    pids = execute(url, _CONNECTIONS, (_NAME,))
    for pid in pids:
        execute(url, "SELECT pg_terminate_backend(%s, 10000)", pid)
    return len(pids)


class TestErrors:
    @pytest.mark.parametrize(
        ("sql", "transient", "refusal"),
        [
            ("SELECT pg_terminate_backend(pg_backend_pid())", True, False),
            ("SET statement_timeout = 1; SELECT pg_sleep(10)", True, False),
            ("SET TRANSACTION READ ONLY; INSERT INTO rooms VALUES (1)", True, False),
            ("DO $$ BEGIN RAISE EXCEPTION 'so' USING ERRCODE = 'serialization_failure'; END $$", True, False),
            ("DO $$ BEGIN RAISE EXCEPTION 'so' USING ERRCODE = 'deadlock_detected'; END $$", True, False),
            ("DO $$ BEGIN RAISE EXCEPTION 'so' USING ERRCODE = 'lock_not_available'; END $$", True, False),
            ("DO $$ BEGIN RAISE EXCEPTION 'so' USING ERRCODE = 'disk_full'; END $$", True, False),
            ("DO $$ BEGIN RAISE EXCEPTION 'so' USING ERRCODE = '25P03'; END $$", True, False),
            ("DO $$ BEGIN RAISE EXCEPTION 'so' USING ERRCODE = '25P02'; END $$", True, False),
            ("INSERT INTO rooms VALUES (NULL)", False, True),
            ("INSERT INTO rooms VALUES (1), (1)", False, True),
            ("SELECT 1 / 0", False, True),
            ("SELECT 'x'::integer", False, True),
            ("SELECT convert_from('\\x00', 'UTF8')", False, True),
            ("SELECT * FROM nowhere", False, False),
        ],
    )
    def test_it_is_known_what_another_try_can_help(
        self, class_database_url: str, sql: str, transient: bool, refusal: bool
    ) -> None:
        with pytest.raises(psycopg2.Error) as caught:
            execute(class_database_url, f"BEGIN; {sql}")
        assert (is_transient(caught.value), is_refusal(caught.value)) == (transient, refusal)

    def test_an_error_of_somebody_else_is_neither(self) -> None:
        assert (is_transient(OSError()), is_refusal(KeyError())) == (False, False)

    def test_a_connection_that_is_closed_can_be_replaced(self, class_database_url: str) -> None:
        connection = psycopg2.connect(class_database_url)
        connection.close()
        with pytest.raises(psycopg2.Error) as caught:
            connection.cursor()
        assert is_transient(caught.value)


class TestTransactions:
    @on_reactor
    async def test_a_result_is_given_back_and_what_was_done_is_committed(
        self, make_database: MakeDatabase, database_url: str
    ) -> None:
        def insert_in_thread(cursor: Any, room: int, *, seq: int) -> str:
            cursor.execute("INSERT INTO rooms (room_id, last_seq) VALUES (%s, %s)", (room, seq))
            return threading.current_thread().name

        database = make_database()
        thread = await database.run("insert", insert_in_thread, 5, seq=7)
        assert thread != threading.current_thread().name
        assert execute(database_url, "SELECT room_id, last_seq FROM rooms") == [(5, 7)]
        assert await database.run_once("read", select_in_thread, "SELECT last_seq FROM rooms") == 7
        assert (database.transactions, database.retries, database.available) == (2, 0, True)

    @pytest.mark.parametrize("once", [False, True])
    @on_reactor
    async def test_an_error_rolls_back_is_not_tried_again_and_does_no_harm_to_the_next(
        self, make_database: MakeDatabase, database_url: str, once: bool
    ) -> None:
        def fail_in_thread(cursor: Any, error: str) -> None:
            tries.append(error)
            cursor.execute("INSERT INTO rooms VALUES (1)")
            if error == "ours":
                raise KeyError(error)
            cursor.execute(error)

        database = make_database()
        run = database.run_once if once else database.run
        tries: list[str] = []
        with pytest.raises(KeyError):
            await run("fail", fail_in_thread, "ours")
        with pytest.raises(psycopg2.errors.UniqueViolation):
            await run("fail", fail_in_thread, "INSERT INTO rooms VALUES (1)")
        with pytest.raises(psycopg2.errors.DivisionByZero):
            await run("fail", fail_in_thread, "SELECT 1 / 0")
        assert len(tries) == 3
        assert execute(database_url, "SELECT * FROM rooms") == []
        before = execute(database_url, _CONNECTIONS, (_NAME,))
        assert await run("read", select_in_thread) == 1
        assert execute(database_url, _CONNECTIONS, (_NAME,)) == before

    @on_reactor
    async def test_so_many_run_at_a_time_as_there_are_connections(self, make_database: MakeDatabase) -> None:
        def meet_in_thread(cursor: Any) -> int:
            both.wait(30)
            return int(select_in_thread(cursor, "SELECT pg_backend_pid()"))

        both = threading.Barrier(2)
        database = make_database(connections=2)
        pids = await gatherResults([begin(database.run("meet", meet_in_thread)) for _ in range(2)])
        assert len(set(pids)) == 2

    @on_reactor
    async def test_sessions_have_their_limits(self, make_database: MakeDatabase) -> None:
        database = make_database(limits=SessionLimits(5, 0.25, 2.5, _NAME))
        shown = {}
        for setting in (
            "statement_timeout",
            "lock_timeout",
            "idle_in_transaction_session_timeout",
            "application_name",
            "TimeZone",
        ):
            shown[setting] = await database.run("show", select_in_thread, f"SHOW {setting}")
        assert list(shown.values()) == ["5s", "250ms", "2500ms", _NAME, "UTC"]


class TestRetries:
    @on_reactor
    async def test_a_connection_killed_in_a_transaction_is_replaced_and_it_runs_again(
        self, make_database: MakeDatabase, database_url: str
    ) -> None:
        def die_once_in_thread(cursor: Any) -> int:
            tries.append(1)
            cursor.execute("INSERT INTO rooms VALUES (%s)", (len(tries),))
            if len(tries) == 1:
                cursor.execute("SELECT pg_terminate_backend(pg_backend_pid())")
            return len(tries)

        tries: list[int] = []
        database = make_database()
        assert await database.run("die", die_once_in_thread) == 2
        assert execute(database_url, "SELECT room_id FROM rooms") == [(2,)]
        assert (database.transactions, database.retries, database.available) == (1, 1, True)
        assert len(execute(database_url, _CONNECTIONS, (_NAME,))) == 1

    @on_reactor
    async def test_who_waits_for_the_database_is_told_when_it_answers_again(self, make_database: MakeDatabase) -> None:
        def die_in_thread(cursor: Any) -> None:
            cursor.execute("SELECT pg_terminate_backend(pg_backend_pid())")

        database = make_database()
        assert database.when_available().called
        with pytest.raises(Unavailable):
            await database.run_once("die", die_in_thread)
        waiting, given_up = database.when_available(), database.when_available()
        given_up.addErrback(lambda failure: failure.trap(CancelledError))
        given_up.cancel()
        assert not waiting.called
        await database.run_once("read", select_in_thread, "SELECT 1")
        assert waiting.called
        assert database.when_available().called

    @on_reactor
    async def test_so_is_one_killed_at_rest(self, make_database: MakeDatabase, database_url: str) -> None:
        database = make_database()
        await database.run("read", select_in_thread)
        assert kill_connections(database_url) == 1
        assert await database.run("read", select_in_thread) == 1

    @on_reactor
    async def test_so_is_one_that_was_left_idle_in_its_transaction(
        self, make_database: MakeDatabase, database_url: str
    ) -> None:
        """As when this process is paused."""

        def stay_in_thread(cursor: Any) -> int:
            tries.append(1)
            cursor.execute("INSERT INTO rooms VALUES (%s)", (len(tries),))
            while len(tries) == 1 and execute(database_url, _CONNECTIONS, (_NAME,)):
                pass
            return len(tries)

        tries: list[int] = []
        database = make_database(limits=SessionLimits(idle_in_transaction_seconds=0.05, application_name=_NAME))
        assert await database.run("stay", stay_in_thread) == 2
        assert execute(database_url, "SELECT room_id FROM rooms") == [(2,)]

    @on_reactor
    async def test_one_whose_server_became_read_only_is_replaced(
        self, make_database: MakeDatabase, database_url: str
    ) -> None:
        """As when Aurora makes another instance the writer."""
        database = make_database()
        await database.run("read only", lambda cursor: cursor.execute("SET default_transaction_read_only = on"))
        await database.run("insert", lambda cursor: cursor.execute("INSERT INTO rooms VALUES (1)"))
        assert execute(database_url, "SELECT room_id FROM rooms") == [(1,)]

    @on_reactor
    async def test_a_server_that_takes_no_writes_is_waited_for(
        self, make_database: MakeDatabase, database_url: str
    ) -> None:
        (name,) = execute(database_url, "SELECT quote_ident(current_database())")[0]
        execute(database_url, f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        database = make_database()
        running = begin(database.run("insert", lambda cursor: cursor.execute("INSERT INTO rooms VALUES (1)")))
        await until(lambda: database.retries >= 2, "it is tried again")
        assert not running.called
        # Nor is anything read from what is, perhaps, an old writer.
        with pytest.raises(Unavailable, match="read-only"):
            await make_database().run_once("read", select_in_thread)
        # A session may still write if it says so.
        execute(database_url, f"BEGIN READ WRITE; ALTER DATABASE {name} RESET default_transaction_read_only; COMMIT")
        await running
        assert execute(database_url, "SELECT room_id FROM rooms") == [(1,)]

    @on_reactor
    async def test_what_is_locked_too_long_is_tried_again(self, make_database: MakeDatabase, database_url: str) -> None:
        database = make_database(limits=SessionLimits(lock_seconds=0.02, application_name=_NAME))
        holder = psycopg2.connect(database_url)
        with holder.cursor() as cursor:
            cursor.execute("LOCK TABLE rooms")
            running = begin(database.run("insert", lambda cursor: cursor.execute("INSERT INTO rooms VALUES (1)")))
            await until(lambda: database.retries >= 2, "it is tried again")
        holder.close()
        await running

    @on_reactor
    async def test_run_once_tells_at_once_that_the_database_is_away_and_the_next_call_connects(
        self, make_database: MakeDatabase, database_url: str
    ) -> None:
        database = make_database()
        await database.run("read", select_in_thread)
        kill_connections(database_url)
        with pytest.raises(Unavailable, match=r"^read history: "):
            await database.run_once("read history", select_in_thread)
        assert await database.run_once("read history", select_in_thread) == 1
        assert database.retries == 0

    @on_reactor
    async def test_an_answer_lost_in_the_commit_makes_it_run_again(
        self, make_database: MakeDatabase, database_url: str
    ) -> None:
        def insert_in_thread(cursor: Any) -> int:
            cursor.execute("INSERT INTO rooms SELECT count(*) + 1 FROM rooms")
            return int(select_in_thread(cursor, "SELECT count(*) FROM rooms"))

        with PostgresProxy(database_url) as proxy:
            database = make_database(proxy.url)
            proxy.lose_answers_to_commits()
            assert await database.run("insert", insert_in_thread) == 2, "the first run was committed"
            assert database.retries == 1


class TestAwayAndBack:
    @on_reactor
    async def test_a_read_that_is_not_tried_again_tells_as_well_whether_the_database_answered(
        self, make_database: MakeDatabase, database_url: str
    ) -> None:
        with PostgresProxy(database_url) as proxy:
            database = make_database(proxy.url)
            await database.run_once("read", select_in_thread)
            proxy.cut()
            with pytest.raises(Unavailable):
                await database.run_once("read", select_in_thread)
            assert not database.available
            proxy.heal()
            with pytest.raises(psycopg2.Error):
                await database.run_once("read", select_in_thread, "SELECT * FROM nowhere")
            assert database.available, "it answered"

    @on_reactor
    async def test_a_read_that_was_ended_since_it_took_too_long_was_answered(self, make_database: MakeDatabase) -> None:
        database = make_database()
        with pytest.raises(Unavailable):
            await database.run_once("read", select_in_thread, "SET LOCAL statement_timeout = 1; SELECT pg_sleep(10)")
        assert database.available
        with pytest.raises(Unavailable):
            await database.run_once("read", select_in_thread, "SELECT pg_terminate_backend(pg_backend_pid())")
        assert not database.available

    @on_reactor
    async def test_it_waits_for_the_database_and_says_so(self, make_database: MakeDatabase, database_url: str) -> None:
        with PostgresProxy(database_url) as proxy:
            database = make_database(proxy.url)
            await database.run("read", select_in_thread)
            proxy.cut()
            running = begin(database.run("read", select_in_thread))
            await until(lambda: database.retries >= 2, "it is tried again")
            assert not database.available
            with pytest.raises(Unavailable):
                await database.run_once("read", select_in_thread)
            proxy.heal()
            assert await running == 1
            assert database.available

    @on_reactor
    async def test_before_each_try_the_server_is_brought_back(
        self, make_database: MakeDatabase, database_url: str
    ) -> None:
        def recover_in_thread() -> None:
            recoveries.append(threading.current_thread())
            if len(recoveries) < 3:
                raise OSError("not yet")
            proxy.heal()

        recoveries: list[threading.Thread] = []
        with PostgresProxy(database_url) as proxy:
            proxy.cut()
            database = make_database(proxy.url, recover_in_thread=recover_in_thread)
            assert await database.run("read", select_in_thread) == 1
        assert len(recoveries) == database.retries == 3
        assert threading.current_thread() not in recoveries


class TestStop:
    @on_reactor
    async def test_connections_are_closed_and_nothing_more_runs(
        self, make_database: MakeDatabase, database_url: str
    ) -> None:
        database = make_database(connections=2)
        await gatherResults([begin(database.run("read", select_in_thread)) for _ in range(4)])
        await make_database.stop(database)
        await until(lambda: execute(database_url, _CONNECTIONS, (_NAME,)) == [], "PostgreSQL sees them closed")
        for run in (database.run, database.run_once):
            with pytest.raises(Unavailable):
                await run("read", select_in_thread)

    @on_reactor
    async def test_what_is_under_way_is_finished_first(self, make_database: MakeDatabase, database_url: str) -> None:
        def insert_in_thread(cursor: Any) -> str:
            started.set()
            assert go_on.wait(30)
            cursor.execute("INSERT INTO rooms VALUES (1)")
            return "done"

        started, go_on = threading.Event(), threading.Event()
        database = make_database()
        running = begin(database.run("insert", insert_in_thread))
        await until(started.is_set, "the transaction runs")
        stopped = make_database.stop(database)
        assert not stopped.called
        go_on.set()
        assert await running == "done"
        await stopped
        assert execute(database_url, "SELECT room_id FROM rooms") == [(1,)]

    @pytest.mark.parametrize("recovers", [False, True])
    @on_reactor
    async def test_what_waits_for_another_try_fails(
        self, make_database: MakeDatabase, database_url: str, recovers: bool
    ) -> None:
        with PostgresProxy(database_url) as proxy:
            proxy.cut()
            database = make_database(proxy.url, recover_in_thread=(lambda: None) if recovers else None)
            running = [begin(database.run("read", select_in_thread)) for _ in range(3)]
            await until(lambda: database.retries >= 3, "it is tried again")
            await make_database.stop(database)
            outcomes = await DeferredList(running, consumeErrors=True)
        assert [(succeeded, type(failure.value)) for succeeded, failure in outcomes] == [(False, Unavailable)] * 3

    @on_reactor
    async def test_a_database_that_was_never_needed_stops(self, make_database: MakeDatabase) -> None:
        await make_database.stop(make_database("postgresql://nobody@127.0.0.1:1/nowhere"))


def test_the_proxy_of_these_tests_passes_everything_else_through(database_url: str) -> None:
    with PostgresProxy(database_url) as proxy:
        assert execute(proxy.url, "SELECT repeat('x', 1000000)") == [("x" * 1_000_000,)]
        proxy.cut()
        with pytest.raises(psycopg2.OperationalError):
            execute(proxy.url, "SELECT 1")
        proxy.heal()
        assert execute(proxy.url, "SELECT 1") == [(1,)]
