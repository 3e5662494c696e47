"""History gives back what was committed, in order and complete, from any place on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from typing import Any

import msgspec
import psycopg2
import pytest
import pytest_twisted
from hypothesis import given
from hypothesis import strategies as st
from zope.interface.verify import verifyObject

from chatflow.contracts.envelopes import Envelope
from chatflow.contracts.history import IHistory
from chatflow.contracts.messages import Message, StoredMessage
from chatflow.contracts.writer import Stored
from chatflow.errors import Unavailable
from chatflow.persistence.commit import commit_in_thread
from chatflow.persistence.database import Database, SessionLimits
from chatflow.persistence.history import History, heads_in_thread, messages_after_in_thread
from testbed.postgres import execute
from testbed.postgres_proxy import PostgresProxy
from tests.support.chat import NOW_US, distinct, legal_messages, make_envelope, make_message
from tests.support.reactor import on_reactor, reactor

_DAY_US = 86_400_000_000


@pytest.fixture
def connection(database_url: str) -> Iterator[Any]:
    with closing(psycopg2.connect(database_url)) as connection:
        # As the pool's sessions: times are read back in the session's zone.
        with connection, connection.cursor() as cursor:
            cursor.execute("SET TimeZone = 'UTC'")
        yield connection


def commit(connection: Any, *envelopes: Envelope) -> list[StoredMessage]:
    """One batch of new envelopes; its messages with their places."""
    with connection, connection.cursor() as cursor:
        placed = commit_in_thread(cursor, envelopes)
    return [
        message
        for envelope, place in zip(envelopes, placed, strict=True)
        if place.first_seq is not None
        for message in Stored(envelope, place.first_seq).messages()
    ]


def read(connection: Any, room: int, seq: int = 0, limit: int = 1000) -> list[StoredMessage]:
    with connection, connection.cursor() as cursor:
        return messages_after_in_thread(cursor, room, seq, limit)


def same(read: StoredMessage, sent: StoredMessage) -> bool:
    """Whether they are the same but for how the client's time is written, which PostgreSQL keeps as a moment."""
    here, there = (
        msgspec.structs.replace(one, message=msgspec.structs.replace(one.message, client_timestamp=""))
        for one in (read, sent)
    )
    return here == there


class TestMessages:
    def test_they_come_as_they_were_committed(self, connection: Any) -> None:
        messages = (
            make_message("Hello", client_ip="10.1.2.3", client_message_id="own", message_type="JOIN"),
            make_message('😀 "\\\n\t\r\x01', user_id=1, username="ann", created_at_us=0, client_ip="2001:db8::1"),
            make_message("x", created_at_us=NOW_US + 999_999),
        )
        sent = commit(connection, make_envelope(3, messages=messages, server_id="server-9"))
        found = read(connection, 3)
        assert [one.seq for one in found] == [1, 2, 3]
        assert all(map(same, found, sent))
        assert {one.server_id for one in found} == {"server-9"}

    def test_a_clients_time_comes_in_utc_to_the_microsecond(self, connection: Any) -> None:
        times = ["2026-11-23T10:30:00Z", "2026-11-23T12:30:00.5+02:00", "2026-11-23T10:29:59.123456789Z"]
        commit(connection, make_envelope(1, messages=tuple(make_message(client_timestamp=time) for time in times)))
        assert [one.message.client_timestamp for one in read(connection, 1)] == [
            "2026-11-23T10:30:00+00:00",
            "2026-11-23T10:30:00.5+00:00",
            "2026-11-23T10:29:59.123457+00:00",
        ]

    def test_only_those_after_a_place_come_and_no_more_than_asked_for(self, connection: Any) -> None:
        commit(connection, *[make_envelope(1, str(seq)) for seq in range(1, 11)], make_envelope(2, "other"))
        for seq, limit in ((0, 3), (0, 10), (4, 100), (9, 5), (10, 5), (99, 5), (3, 1)):
            expected = list(range(1, 11))[seq : seq + limit]
            found = read(connection, 1, seq, limit)
            assert [one.seq for one in found] == expected
            assert [one.message.text for one in found] == [str(seq) for seq in expected]
            assert {one.room for one in found} <= {1}

    def test_order_is_that_of_seq_whatever_the_times_are(self, connection: Any, database_url: str) -> None:
        for day in ("20261123", "20261125"):
            execute(
                database_url,
                f"CREATE TABLE messages_{day} PARTITION OF messages"
                f" FOR VALUES FROM ('{day}Z') TO (timestamptz '{day}Z' + interval '1 day')",
            )
        for days in (2, 0, 1, -1, 2, 0):
            commit(connection, make_envelope(1, messages=(make_message(created_at_us=NOW_US + days * _DAY_US),)))
        assert [one.seq for one in read(connection, 1)] == [1, 2, 3, 4, 5, 6]
        assert [one.seq for one in read(connection, 1, 2, 3)] == [3, 4, 5]

    def test_an_unknown_room_has_none(self, connection: Any) -> None:
        assert read(connection, 77) == []


def test_whatever_a_client_may_send_is_read_as_it_was_committed(database_url: str) -> None:
    @given(st.lists(legal_messages(), min_size=1, max_size=20))
    def compare(messages: list[Message]) -> None:
        # PostgreSQL writes some addresses of IPv6 in another way.
        plain = tuple(msgspec.structs.replace(one, client_ip=one.client_ip and "::1") for one in distinct(messages))
        sent = commit(connection, make_envelope(1, messages=plain))
        found = read(connection, 1, sent[0].seq - 1)
        assert len(found) == len(sent)
        assert all(map(same, found, sent))

    with closing(psycopg2.connect(database_url)) as connection:
        compare()


class TestHeads:
    def test_every_room_with_messages_has_its_last_seq(self, connection: Any, database_url: str) -> None:
        execute(database_url, "INSERT INTO rooms (room_id) VALUES (9)")
        commit(connection, make_envelope(1, "a", "b"), make_envelope(4, "c"), make_envelope(1, "d"))
        with connection, connection.cursor() as cursor:
            assert heads_in_thread(cursor) == {1: 3, 4: 1}


class TestOnTheReactor:
    @pytest.fixture
    def proxy(self, database_url: str) -> Iterator[PostgresProxy]:
        with PostgresProxy(database_url) as proxy:
            yield proxy

    @pytest_twisted.async_yield_fixture
    async def history(self, proxy: PostgresProxy) -> AsyncIterator[History]:
        database = Database(reactor=reactor, url=proxy.url, connections=2, limits=SessionLimits())
        database.start()
        yield History(database)
        await database.stop()

    @on_reactor
    async def test_it_reads_messages_and_heads(self, history: History, connection: Any) -> None:
        assert verifyObject(IHistory, history)
        commit(connection, make_envelope(1, "a", "b", "c"))
        assert [one.message.text for one in await history.after(1, 1, 1)] == ["b"]
        assert await history.heads() == {1: 3}

    @on_reactor
    async def test_while_the_database_is_away_it_says_so_at_once_and_then_reads_again(
        self, history: History, connection: Any, proxy: PostgresProxy
    ) -> None:
        commit(connection, make_envelope(1, "a"))
        proxy.cut()
        for reading in (history.after(1, 0, 10), history.heads()):
            with pytest.raises(Unavailable):
                await reading
        proxy.heal()
        assert len(await history.after(1, 0, 10)) == 1
