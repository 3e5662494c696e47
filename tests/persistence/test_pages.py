"""A page of history holds what the broadcasts of its messages were, frame for frame."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import msgspec
import psycopg2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from zope.interface.verify import verifyObject

from chatflow.contracts.envelopes import Envelope
from chatflow.contracts.history import IPageHistory, Page
from chatflow.contracts.messages import Message, StoredMessage
from chatflow.edge.frames import text_frame
from chatflow.persistence.commit import commit_in_thread
from chatflow.persistence.database import Database, SessionLimits
from chatflow.persistence.history import History, page_in_thread
from chatflow.rooms.messages import broadcast
from testbed.postgres import execute
from tests.support.chat import legal_messages, make_envelope
from tests.support.reactor import on_reactor, reactor


@pytest.fixture
def connection(database_url: str) -> Iterator[Any]:
    with closing(psycopg2.connect(database_url)) as connection:
        # As the pool's sessions: times are written in the session's zone.
        with connection, connection.cursor() as cursor:
            cursor.execute("SET TimeZone = 'UTC'")
        yield connection


def commit(connection: Any, envelope: Envelope) -> list[StoredMessage]:
    """Its messages with their places."""
    with connection, connection.cursor() as cursor:
        [(first, *_)] = commit_in_thread(cursor, [envelope])
    assert first is not None
    return [
        StoredMessage(envelope.room, seq, envelope.server_id, message)
        for seq, message in enumerate(envelope.messages, first)
    ]


def read(connection: Any, first: int, last: int, room: int = 1) -> Page:
    with connection, connection.cursor() as cursor:
        return page_in_thread(cursor, room, first, last, text_frame)


def payloads(page: Page) -> list[bytes]:
    """The frames' contents; their heads must be right."""
    starts = [0, *page.ends]
    frames = [page.data[start:end] for start, end in zip(starts, page.ends, strict=False)]
    found = [frame[{126: 4, 127: 10}.get(frame[1], 2) :] for frame in frames]
    assert [text_frame(payload) for payload in found] == frames
    return found


def test_whatever_a_client_may_send_comes_as_it_was_broadcast(database_url: str) -> None:
    @given(st.lists(legal_messages(), min_size=1, max_size=20))
    def compare(messages: list[Message]) -> None:
        # A repeated clientMessageId would not be stored again.
        plain = tuple(msgspec.structs.replace(one, client_message_id=None) for one in messages)
        sent = commit(connection, make_envelope(1, messages=plain))
        page = read(connection, sent[0].seq, sent[-1].seq)
        assert list(page.seqs) == [one.seq for one in sent]
        for payload, message in zip(payloads(page), sent, strict=True):
            live = msgspec.json.encode(broadcast(message))
            assert msgspec.json.decode(payload) == msgspec.json.decode(live)
            assert list(msgspec.json.decode(payload)) == list(msgspec.json.decode(live)), "the order of fields"

    with closing(psycopg2.connect(database_url)) as connection:
        with connection, connection.cursor() as cursor:
            cursor.execute("SET TimeZone = 'UTC'")
        compare()


def test_it_holds_the_range_in_order_and_the_head(connection: Any) -> None:
    commit(connection, make_envelope(1, *map(str, range(1, 26))))
    commit(connection, make_envelope(2, "other"))
    for first, last, expected in ((1, 10, range(1, 11)), (11, 20, range(11, 21)), (21, 30, range(21, 26))):
        page = read(connection, first, last)
        assert list(page.seqs) == list(expected)
        assert [msgspec.json.decode(payload)["message"] for payload in payloads(page)] == list(map(str, expected))
        assert (page.last, page.head, page.next_seq) == (last, 25, None)
        assert page.complete == (last <= 25)
    nothing = read(connection, 31, 40)
    assert (list(nothing.seqs), nothing.data, nothing.head, nothing.next_seq) == ([], b"", 25, None)
    assert read(connection, 1, 10, room=77).head == 0


def test_an_empty_one_names_the_next_message_that_is_held(connection: Any, database_url: str) -> None:
    commit(connection, make_envelope(1, *map(str, range(1, 51))))
    execute(database_url, "DELETE FROM messages WHERE seq <= 33")
    assert read(connection, 11, 20).next_seq == 34
    assert list(read(connection, 31, 40).seqs) == list(range(34, 41))
    execute(database_url, "DELETE FROM messages")
    gone = read(connection, 11, 20)
    assert (gone.head, gone.next_seq) == (50, None)


@on_reactor
async def test_a_page_is_read_in_the_pool_and_the_reactor_gets_it(database_url: str) -> None:
    with closing(psycopg2.connect(database_url)) as connection:
        commit(connection, make_envelope(1, "a", "b"))
    execute(database_url, "DELETE FROM messages WHERE seq = 1")
    execute(database_url, "UPDATE rooms SET first_seq = 2")
    database = Database(reactor=reactor, url=database_url, connections=2, limits=SessionLimits())
    database.start()
    history = History(database, text_frame)
    try:
        assert verifyObject(IPageHistory, history)
        assert list((await history.page(1, 1, 1000)).seqs) == [2]
        assert await history.first_seq(1) == 2
        assert await history.first_seq(2) == 1
    finally:
        await database.stop()
