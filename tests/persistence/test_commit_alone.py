"""A batch is one round trip where that can be, and then no less than on the long way."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import msgspec
import psycopg2
import pytest

from chatflow.contracts.envelopes import Envelope
from chatflow.contracts.messages import Message
from chatflow.contracts.writer import LastSeqs
from chatflow.persistence.commit import CommitResult, commit_alone_in_thread, commit_in_thread
from chatflow.persistence.sessions import SessionLimits
from chatflow.persistence.transactions import Transaction
from chatflow.rooms.identifiers import derived_id
from testbed.postgres import execute
from testbed.recounting import recount
from tests.support.chat import NOW_US, make_envelope, make_message

_LAST_US = 253_402_300_799_999_999
_WORD_ID = "0190a7b0-0000-7000-8000-000000000001"


class Counted(Transaction):
    """Counts its round trips."""

    trips = 0

    def execute(self, query: Any, vars: Any = None) -> None:
        self.trips += 1
        super().execute(query, vars)

    def execute_alone(self, query: str, vars: Any = None) -> None:
        self.trips += 1
        super().execute_alone(query, vars)

    def commit(self) -> None:
        self.trips += self._begun
        super().commit()


@pytest.fixture
def connection(database_url: str) -> Iterator[Any]:
    with closing(psycopg2.connect(database_url)) as connection:
        connection.autocommit = True
        yield connection


def commit(connection: Any, *envelopes: Envelope, limits: SessionLimits | None = None) -> list[CommitResult]:
    with Transaction(connection, limits or SessionLimits()) as transaction:
        return commit_alone_in_thread(transaction, envelopes)


def trips(connection: Any, *envelopes: Envelope, **options: Any) -> int:
    with Counted(connection, SessionLimits()) as transaction:
        commit_alone_in_thread(transaction, envelopes, **options)
        return transaction.trips


def named(own_id: str, text: str) -> Message:
    return make_message(text, message_id=derived_id(1, 12345, own_id, text), client_message_id=own_id)


def record(url: str, setting: str) -> None:
    """Keep what a setting is in each transaction that stores messages."""
    execute(
        url,
        "CREATE TABLE recorded (value text);"
        "CREATE FUNCTION record() RETURNS trigger LANGUAGE plpgsql AS"
        f" $$BEGIN INSERT INTO recorded VALUES (current_setting('{setting}')); RETURN NULL; END$$;"
        "CREATE TRIGGER record AFTER UPDATE ON rooms FOR EACH STATEMENT EXECUTE FUNCTION record()",
    )


def set_for_database(url: str, setting: str, value: str) -> None:
    ((name,),) = execute(url, "SELECT current_database()")
    execute(url, f"ALTER DATABASE {name} SET {setting} = {value}")


class TestRoundTrips:
    def test_what_is_new_is_one_whatever_it_is(self, connection: Any, database_url: str) -> None:
        commit(connection, make_envelope(1), make_envelope(2))
        assert trips(connection, make_envelope(1)) == 1
        assert trips(connection, *[make_envelope(room, "a", "b") for room in (2, 1, 2)]) == 1
        assert trips(connection, make_envelope(1, messages=(named("a", "x"), named("b", "x")))) == 1
        assert recount(database_url) == {}

    @pytest.mark.parametrize("again", ["the envelope", "a name", "twice an envelope", "twice a name"])
    def test_what_may_have_been_stored_is_judged_by_the_long_way(
        self, connection: Any, database_url: str, again: str
    ) -> None:
        first = make_envelope(1, messages=(named("a", "first"),))
        commit(connection, first)
        fresh = make_envelope(1, messages=(named("b", "fresh"),))
        batch = {
            "the envelope": [fresh, first],
            "a name": [make_envelope(1, messages=(named("a", "first"), *fresh.messages))],
            "twice an envelope": [fresh, fresh],
            "twice a name": [fresh, make_envelope(1, messages=fresh.messages)],
        }[again]
        assert trips(connection, *batch) > 1
        assert execute(database_url, "SELECT seq, message_text FROM messages ORDER BY seq") == [
            *((1, "first"), (2, "fresh")),
        ]
        assert recount(database_url) == {}

    def test_a_room_without_a_head_gets_one(self, connection: Any, database_url: str) -> None:
        commit(connection, make_envelope(1))
        assert trips(connection, make_envelope(1), make_envelope(7)) > 1
        assert trips(connection, make_envelope(1), make_envelope(7)) == 1
        assert execute(database_url, "SELECT room_id, last_seq FROM rooms ORDER BY 1") == [(1, 3), (7, 2)]

    def test_who_has_to_be_asked_is_asked_under_the_lock(self, connection: Any, database_url: str) -> None:
        commit(connection, make_envelope(1))
        free: list[object] = []

        def is_held(last_seqs: LastSeqs) -> bool:
            free.append(execute(database_url, "SELECT room_id FROM rooms FOR UPDATE SKIP LOCKED"))
            return last_seqs == {1: 1}

        assert trips(connection, make_envelope(1), are_held=[is_held]) == 3
        assert free == [[]]
        assert execute(database_url, "SELECT last_seq FROM rooms") == [(2,)]


class TestWithOthers:
    def test_what_another_instance_stored_meanwhile_is_counted_on(self, connection: Any, database_url: str) -> None:
        with closing(psycopg2.connect(database_url)) as other:
            other.autocommit = True
            first_seqs = [
                place.first_seq
                for turn in (connection, other, other, connection, other)
                for place in commit(turn, make_envelope(1, "a", "b"))
            ]
        assert first_seqs == [1, 3, 5, 7, 9]
        assert recount(database_url) == {}

    def test_what_another_instance_has_stored_of_it_is_not_stored_again(
        self, connection: Any, database_url: str
    ) -> None:
        envelope, fresh = make_envelope(1, "a", "b"), make_envelope(1, "c")
        commit(connection, envelope)
        with closing(psycopg2.connect(database_url)) as other:
            other.autocommit = True
            places = commit(other, envelope, fresh)
        assert [(place.first_seq, place.head) for place in places] == [(None, 2), (3, 3)]
        assert recount(database_url) == {}

    def test_a_head_that_stays_locked_ends_the_wait_and_nothing_is_stored(
        self, connection: Any, database_url: str
    ) -> None:
        commit(connection, make_envelope(1))
        with closing(psycopg2.connect(database_url)) as other, other.cursor() as cursor:
            commit_in_thread(cursor, [make_envelope(1)])
            with pytest.raises(psycopg2.errors.LockNotAvailable):
                commit(connection, make_envelope(1), limits=SessionLimits(lock_seconds=0.02))
        assert execute(database_url, "SELECT last_seq FROM rooms") == [(1,)]


class TestSettings:
    @pytest.mark.parametrize(("value", "effective"), [("off", "on"), ("local", "on"), ("remote_apply", "remote_apply")])
    def test_it_is_durable_whatever_role_and_database_have_set(
        self, database_url: str, value: str, effective: str
    ) -> None:
        record(database_url, "synchronous_commit")
        set_for_database(database_url, "synchronous_commit", value)
        with closing(psycopg2.connect(database_url)) as connection:
            connection.autocommit = True
            assert trips(connection, make_envelope(1)) > 1
            assert trips(connection, make_envelope(1)) == 1
        assert execute(database_url, "SELECT value FROM recorded") == [(effective,)] * 2

    def test_it_stays_so_until_the_commit(self, database_url: str) -> None:
        set_for_database(database_url, "synchronous_commit", "off")
        with closing(psycopg2.connect(database_url)) as connection, connection.cursor() as cursor:
            commit_in_thread(cursor, [make_envelope(1)])
            cursor.execute("SHOW synchronous_commit")
            assert cursor.fetchall() == [("on",)]

    @pytest.mark.parametrize(
        ("setting", "value", "effective"),
        [
            ("default_transaction_isolation", "'serializable'", "read committed"),
            ("statement_timeout", "'1h'", "0"),
            ("lock_timeout", "'1h'", "10s"),
        ],
    )
    def test_it_relies_on_no_other_setting(self, database_url: str, setting: str, value: str, effective: str) -> None:
        record(database_url, setting.replace("default_transaction", "transaction"))
        execute(database_url, "INSERT INTO rooms VALUES (1)")
        set_for_database(database_url, setting, value)
        with closing(psycopg2.connect(database_url)) as connection:
            connection.autocommit = True
            assert trips(connection, make_envelope(1)) == 1
        assert execute(database_url, "SELECT value FROM recorded") == [(effective,)]

    def test_it_leaves_nothing_behind_for_the_next_who_gets_the_session(self, connection: Any) -> None:
        names = ("statement_timeout", "lock_timeout", "enable_seqscan", "plan_cache_mode", "synchronous_commit")
        query = f"SELECT {', '.join(f'current_setting({name!r})' for name in names)}"

        def show() -> Any:
            with connection.cursor() as cursor:
                cursor.execute(query)
                return cursor.fetchone()

        before = show()
        commit(connection, make_envelope(1), make_envelope(2))
        assert trips(connection, make_envelope(1)) == 1
        assert show() == before
        assert connection.info.transaction_status == psycopg2.extensions.TRANSACTION_STATUS_IDLE
        assert connection.notices == []


class TestColumns:
    """They travel as arrays, and none of what anybody sends is a part of an array."""

    @pytest.mark.parametrize(
        "word", ["NULL", "null", "{}", "{a}", '"', '""', ",", '","', "\\", '\\"', " ", "a,b", "%s"]
    )
    def test_a_word_that_means_something_in_an_array_is_a_word(
        self, connection: Any, database_url: str, word: str
    ) -> None:
        messages = tuple(
            make_message(text, username=username, client_message_id=own_id)
            for text, username, own_id in (("a", "ann", None), (word, word, word), ("b", "bob", "own"))
        )
        messages = (*messages[:1], msgspec.structs.replace(messages[1], message_id=_WORD_ID), *messages[2:])
        commit(connection, make_envelope(1, "before"), make_envelope(1, messages=messages, server_id=word))
        assert execute(
            database_url, "SELECT message_text, username, client_message_id, server_id FROM messages ORDER BY seq"
        ) == [
            ("before", "user12345", None, "s1"),
            ("a", "ann", None, word),
            (word, word, word, word),
            ("b", "bob", "own", word),
        ]
        assert recount(database_url) == {}

    @pytest.mark.parametrize("forged", ["x,y", 'x","y', "{x}", "x\ty", "x\0y", "\ud800"])
    @pytest.mark.parametrize("field", ["message_id", "client_ip", "client_timestamp"])
    def test_what_is_none_of_its_kind_is_refused_and_makes_no_row(
        self, connection: Any, database_url: str, field: str, forged: str
    ) -> None:
        commit(connection, make_envelope(1, "a"))
        with pytest.raises((psycopg2.DataError, ValueError)):
            commit(connection, make_envelope(1, messages=(make_message("b", **{field: forged}),)))
        assert execute(database_url, "SELECT message_text FROM messages") == [("a",)]

    @pytest.mark.parametrize("at_us", [0, 1, NOW_US, 9_007_199_254_740_993, _LAST_US - 1, _LAST_US])
    def test_a_time_is_stored_to_the_microsecond_and_counted_in_its_minute(
        self, connection: Any, database_url: str, at_us: int
    ) -> None:
        commit(connection, make_envelope(1, messages=(make_message(created_at_us=at_us),)))
        microseconds = "(extract(epoch FROM {}) * 1000000)::bigint"
        assert execute(database_url, f"SELECT {microseconds.format('created_at')} FROM messages") == [(at_us,)]
        assert execute(database_url, f"SELECT {microseconds.format('last_activity')} FROM rooms") == [(at_us,)]
        assert recount(database_url) == {}


def test_however_large_the_tables_are_rows_are_found_by_index(connection: Any, database_url: str) -> None:
    execute(database_url, "INSERT INTO rooms (room_id) SELECT generate_series(1, 2000)")
    commit(connection, make_envelope(1))  # planned while the tables were empty and unknown
    execute(
        database_url,
        "INSERT INTO user_activity SELECT user_id, 1, 'ann', 1, 1, 0, 0, now(), now()"
        " FROM generate_series(20001, 40000) AS user_id",
    )
    users = [make_message(user_id=20_000 + user) for user in range(300)]
    with Transaction(connection, SessionLimits()) as transaction:
        for _ in range(8):  # more than after which PostgreSQL chooses plans anew
            commit_in_thread(transaction, [make_envelope(1, messages=tuple(users)), make_envelope(2)])
        transaction.execute(
            "SELECT relname, seq_scan FROM pg_stat_xact_user_tables"
            " WHERE relname IN ('rooms', 'user_activity', 'message_stats_minute') AND seq_scan > 0"
        )
        assert transaction.fetchall() == []
