"""Whatever role, database and environment have set: text is stored as it is, and what is acknowledged is durable."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import closing
from typing import Any
from urllib.parse import urlsplit

import psycopg2
import pytest
import pytest_twisted

from chatflow.admin import main
from chatflow.contracts.envelopes import Envelope
from chatflow.contracts.writer import DeadLettered, Stored
from chatflow.errors import StartupError
from chatflow.persistence.bootstrap import bootstrap
from chatflow.persistence.commit import commit_in_thread
from chatflow.persistence.database import Database, SessionLimits
from chatflow.persistence.deadletters import DeadLetterTable
from chatflow.persistence.failures import is_refusal, is_transient, remedy
from chatflow.persistence.history import messages_after_in_thread, page_in_thread
from chatflow.persistence.refresh import refresh_in_thread
from chatflow.persistence.rhythm import Rhythm
from chatflow.persistence.writer import BatchWriter
from testbed.postgres import execute, server_url
from tests.support.chat import NOW_US, make_envelope, make_message
from tests.support.reactor import on_reactor, reactor, until

_TEXT = "ü🙂 \\ ' \" \t\n $1 %s"


@pytest_twisted.async_yield_fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = Database(reactor=reactor, url=database_url, connections=1, limits=SessionLimits())
    database.start()
    yield database
    await database.stop()


def set_for_database(url: str, setting: str, value: str) -> None:
    name = urlsplit(url).path.removeprefix("/")
    execute(url, f"ALTER DATABASE {name} SET {setting} = {value}")


def show_in_thread(cursor: Any, *settings: str) -> list[str]:
    cursor.execute(f"SELECT {', '.join(f'''current_setting('{name}')''' for name in settings)}")
    return list(cursor.fetchone())


def writer(database: Database, dead_letters: DeadLetterTable | None = None) -> BatchWriter:
    return BatchWriter(
        clock=reactor,
        database=database,
        rhythm=Rhythm(clock=reactor, ceiling_seconds=0.0),
        dead_letters=dead_letters or DeadLetterTable(database),
        batch_messages=1000,
    )


class TestSettings:
    @pytest.mark.parametrize(
        ("setting", "value"),
        [
            ("datestyle", "'German, DMY'"),
            ("timezone", "'Asia/Kathmandu'"),
            ("standard_conforming_strings", "off"),
            ("escape_string_warning", "on"),
            ("backslash_quote", "off"),
            ("bytea_output", "'escape'"),
            ("client_encoding", "'LATIN1'"),
            ("default_transaction_isolation", "'serializable'"),
            ("default_transaction_deferrable", "on"),
            ("statement_timeout", "'40ms'"),
            ("lock_timeout", "'40ms'"),
            ("idle_in_transaction_session_timeout", "'40ms'"),
            ("transaction_timeout", "'40ms'"),
            ("synchronous_commit", "off"),
            ("array_nulls", "off"),
            ("transform_null_equals", "on"),
            ("extra_float_digits", "-15"),
            ("intervalstyle", "'iso_8601'"),
            ("quote_all_identifiers", "on"),
            ("row_security", "off"),
            ("search_path", "'$user', public, pg_catalog"),
            ("session_replication_role", "replica"),
            ("enable_partition_pruning", "off"),
            ("lc_messages", "'C'"),
        ],
    )
    @on_reactor
    async def test_what_role_or_database_have_set_changes_nothing(
        self, database: Database, database_url: str, setting: str, value: str
    ) -> None:
        set_for_database(database_url, setting, value)
        bootstrap(database_url, migrate=True, rooms=2, ahead_days=1, now=lambda: _now(database_url))
        (stored,) = await writer(database).write([make_envelope(1, _TEXT)])
        assert isinstance(stored, Stored)
        (read,) = await database.run("read", messages_after_in_thread, 1, 0, 10)
        assert read.message.text == _TEXT
        page = await database.run("page", page_in_thread, 1, 1, 10, bytes)
        assert b'"timestamp":"2026-11-23T10:30:00.123456Z"' in page.data
        assert refresh_in_thread(database_url, "s") == 0.0

    @pytest.mark.parametrize(
        ("value", "effective"),
        [
            ("off", "on"),
            ("local", "on"),
            ("on", "on"),
            ("remote_write", "remote_write"),
            ("remote_apply", "remote_apply"),
        ],
    )
    @on_reactor
    async def test_a_commit_is_durable_and_nothing_stronger_is_lowered(
        self, database: Database, database_url: str, value: str, effective: str
    ) -> None:
        set_for_database(database_url, "synchronous_commit", value)
        assert await database.run("show", show_in_thread, "synchronous_commit") == [effective]

    @on_reactor
    async def test_nothing_is_left_behind_for_the_next_who_gets_the_session(
        self, database: Database, database_url: str
    ) -> None:
        names = ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout", "TimeZone")
        set_for_database(database_url, "timezone", "'Asia/Kathmandu'")

        def end_in_thread(cursor: Any) -> list[str]:
            cursor.execute("COMMIT")
            left = show_in_thread(cursor, *names)
            cursor.execute("BEGIN")
            return left

        assert await database.run("show", end_in_thread) == ["0", "0", "0", "Asia/Kathmandu"]

    def test_a_database_that_is_read_only_by_default_is_named(self, database_url: str) -> None:
        set_for_database(database_url, "default_transaction_read_only", "on")
        with pytest.raises(StartupError, match="default_transaction_read_only is set"):
            bootstrap(database_url, migrate=True, rooms=1, ahead_days=1, now=lambda: 0.0)

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("PGCLIENTENCODING", "LATIN1"),
            ("PGDATESTYLE", "German"),
            ("PGTZ", "Asia/Kathmandu"),
            ("PGAPPNAME", "ü"),
            ("PGTARGETSESSIONATTRS", "any"),
            ("PGCONNECT_TIMEOUT", "1000"),
            ("PGOPTIONS", "-c synchronous_commit=off -c statement_timeout=40 -c datestyle=German"),
        ],
    )
    @on_reactor
    async def test_variables_of_the_environment_change_nothing(
        self, database: Database, name: str, value: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(name, value)
        (stored,) = await writer(database).write([make_envelope(1, _TEXT)])
        assert isinstance(stored, Stored)
        assert await database.run("show", show_in_thread, "synchronous_commit", "application_name") == [
            "on",
            "chatflow",
        ]


def _now(url: str) -> float:
    ((seconds,),) = execute(url, "SELECT extract(epoch FROM now())::float8")
    return float(seconds)


class TestServer:
    @pytest.fixture(params=["LATIN1", "SQL_ASCII", "EUC_JP"])
    def other_url(self, request: pytest.FixtureRequest) -> Iterator[str]:
        """A database with another encoding."""
        name = f"chatflow_encoding_{os.getpid()}"
        execute(server_url(), f"CREATE DATABASE {name} ENCODING '{request.param}' LOCALE 'C' TEMPLATE template0")
        yield server_url().replace("/postgres?", f"/{name}?")
        execute(server_url(), f"DROP DATABASE {name} WITH (FORCE)")

    def test_a_database_that_does_not_hold_every_character_is_refused(
        self, other_url: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(StartupError, match="ENCODING 'UTF8' LOCALE 'C' TEMPLATE template0"):
            bootstrap(other_url, migrate=True, rooms=1, ahead_days=1, now=lambda: _now(other_url))
        assert main(["migrate", "--database", other_url]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert "ENCODING 'UTF8'" in line
        assert execute(other_url, "SELECT to_regclass('schema_version')") == [(None,)]

    @pytest.mark.parametrize("table", ["rooms", "messages_default", "dead_letters", "user_activity"])
    def test_a_table_that_a_crash_would_empty_is_refused(self, database_url: str, table: str) -> None:
        execute(database_url, f"ALTER TABLE {table} SET UNLOGGED")
        with pytest.raises(StartupError, match=rf"table {table} is unlogged.*SET LOGGED"):
            bootstrap(database_url, migrate=False, rooms=1, ahead_days=1, now=lambda: _now(database_url))
        execute(database_url, f"ALTER TABLE {table} SET LOGGED")
        bootstrap(database_url, migrate=False, rooms=1, ahead_days=1, now=lambda: _now(database_url))


class TestRefusals:
    @pytest.mark.parametrize(
        "message",
        [
            make_message("no Unicode \ud83d"),
            make_message("a\0b"),
            make_message(client_message_id="a\0b"),
            make_message(client_message_id="\udfff"),
            make_message(client_ip="nowhere"),
            make_message(client_ip="fe80::1%eth0"),
            make_message(client_timestamp="2026-02-30T00:00:00Z"),
            make_message(user_id=2**31),
            make_message(user_id=10**30),
            make_message(message_id="x"),
            make_message(message_id="\ud83d", client_message_id="a"),
            make_message(created_at_us=10**30),
        ],
    )
    @on_reactor
    async def test_what_cannot_be_sent_or_stored_is_refused_alone_and_at_once(
        self, database: Database, database_url: str, message: Any
    ) -> None:
        batch = [make_envelope(1, "a"), make_envelope(1, messages=(message,)), make_envelope(1, "b")]
        kept: list[Envelope] = []

        class Box(DeadLetterTable):
            def keep(self, envelope: Envelope, reason: str) -> Any:
                kept.append(envelope)
                return super().keep(make_envelope(1, "stands for it"), reason)

        outcomes = await writer(database, Box(database)).write(batch)
        assert [type(outcome) for outcome in outcomes] == [Stored, DeadLettered, Stored]
        assert kept == [batch[1]]
        assert database.retries == 0
        assert len(execute(database_url, "SELECT reason FROM dead_letters")) == 1

    @pytest.mark.parametrize("state", ["22001", "22P05", "23502", "23505", "23514", "44000", "54000", "P0001"])
    def test_states_about_the_data_are_refusals(self, class_database_url: str, state: str) -> None:
        error = raised(class_database_url, state, constraint="some")
        assert (is_refusal(error), is_transient(error), remedy(error)) == (True, False, None)

    @pytest.mark.parametrize(
        ("state", "word"),
        [
            ("42P01", "migrate"),
            ("42703", "migrate"),
            ("42883", "migrate"),
            ("42501", "grant"),
            ("3F000", "search_path"),
            ("3D000", "database"),
            ("28P01", "password"),
            ("25006", "read only"),
            ("53100", "disk"),
            ("53200", "max_locks_per_transaction"),
            ("53300", "max_connections"),
            ("0A000", "15 or newer"),
            ("58030", "disk"),
            ("XX000", "log"),
            ("XX001", "damaged"),
            ("XX002", "REINDEX"),
        ],
    )
    def test_states_that_somebody_must_mend_name_the_remedy(
        self, class_database_url: str, state: str, word: str
    ) -> None:
        error = raised(class_database_url, state)
        assert not is_refusal(error)
        assert word in (remedy(error) or "")

    @pytest.mark.parametrize("state", ["40001", "40P01", "55P03", "57014", "57P01", "08006", "25P02", "25P03"])
    def test_states_that_pass_are_waited_for_in_silence(self, class_database_url: str, state: str) -> None:
        error = raised(class_database_url, state)
        assert (is_refusal(error), remedy(error)) == (False, None)


def raised(url: str, state: str, constraint: str = "") -> psycopg2.Error:
    option = f", CONSTRAINT = '{constraint}'" if constraint else ""
    with pytest.raises(psycopg2.Error) as caught:
        execute(url, f"DO $$BEGIN RAISE EXCEPTION 'x' USING ERRCODE = '{state}'{option}; END$$")
    assert caught.value.pgcode == state
    return caught.value


class TestWhatSomebodyMustMend:
    @pytest.mark.parametrize(
        ("breaks", "mends"),
        [
            (["ALTER TABLE messages RENAME TO elsewhere"], ["ALTER TABLE elsewhere RENAME TO messages"]),
            (["ALTER TABLE rooms RENAME last_seq TO other"], ["ALTER TABLE rooms RENAME other TO last_seq"]),
            (
                ["DROP TABLE messages_default"],
                ["CREATE TABLE messages_default PARTITION OF messages DEFAULT"],
            ),
            (["ALTER FUNCTION store_messages RENAME TO other"], ["ALTER FUNCTION other RENAME TO store_messages"]),
        ],
    )
    @on_reactor
    async def test_messages_wait_are_not_set_aside_and_are_stored_when_it_is_mended(
        self, database: Database, database_url: str, breaks: Sequence[str], mends: Sequence[str]
    ) -> None:
        for sql in breaks:
            execute(database_url, sql)
        writing = writer(database).write([make_envelope(1, "a"), make_envelope(1, "b")])
        await until(lambda: database.retries >= 2, "it is tried again")
        assert not database.available
        for sql in mends:
            execute(database_url, sql)
        assert [type(outcome) for outcome in await writing] == [Stored, Stored]
        assert execute(database_url, "SELECT count(*) FROM dead_letters") == [(0,)]
        assert database.available


def test_a_time_of_creation_is_what_the_page_says(database_url: str) -> None:
    with closing(psycopg2.connect(database_url)) as connection, connection, connection.cursor() as cursor:
        commit_in_thread(cursor, [make_envelope(1, "a")])
    assert execute(database_url, "SELECT (extract(epoch FROM created_at) * 1000000)::bigint FROM messages") == [
        (NOW_US,)
    ]
