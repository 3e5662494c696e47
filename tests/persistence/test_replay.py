"""A dead letter's messages are stored once, with new numbers, however often and by however many it is replayed."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import psycopg2
import pytest

from chatflow.contracts.envelopes import Envelope
from chatflow.errors import NotStored, Unavailable
from chatflow.persistence.commit import commit_in_thread
from chatflow.persistence.replay import replay, replay_in_thread
from testbed.postgres import execute
from testbed.threads import run_together
from testbed.waiting import eventually
from tests.support.chat import make_envelope, make_message

WAITING = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


@pytest.fixture
def connection(database_url: str) -> Iterator[Any]:
    with closing(psycopg2.connect(database_url)) as connection:
        yield connection


def commit(connection: Any, *envelopes: Envelope) -> None:
    with connection, connection.cursor() as cursor:
        commit_in_thread(cursor, envelopes)


def rows(url: str, room: int = 1) -> list[tuple[int, str]]:
    return execute(url, "SELECT seq, message_text FROM messages WHERE room_id = %s ORDER BY seq", (room,))


def counted(url: str) -> list[tuple[Any, ...]]:
    return execute(url, "SELECT sum(message_count)::int FROM user_activity")


def test_its_messages_follow_those_of_the_room(connection: Any, database_url: str) -> None:
    commit(connection, make_envelope(1, "a", "b"))
    assert replay(connection, make_envelope(1, "c", "d", "e")) == (3, 5)
    assert rows(database_url) == [(1, "a"), (2, "b"), (3, "c"), (4, "d"), (5, "e")]
    assert counted(database_url) == [(5,)]
    commit(connection, make_envelope(1, "f"))
    assert rows(database_url)[-1] == (6, "f")


def test_a_second_time_stores_nothing(connection: Any, database_url: str) -> None:
    envelope = make_envelope(1, "a", "b")
    assert replay(connection, envelope) == (1, 2)
    assert replay(connection, envelope) is None
    assert rows(database_url) == [(1, "a"), (2, "b")]
    assert counted(database_url) == [(2,)]


def test_nor_does_it_when_the_rooms_head_has_forgotten_the_envelope(connection: Any, database_url: str) -> None:
    envelope = make_envelope(1, "a", "b")
    commit(connection, envelope)
    for _ in range(7):
        commit(connection, *(make_envelope(1, "later") for _ in range(10)))
    remembers = "SELECT %s = ANY(recent_envelopes::text[]) FROM rooms"
    assert execute(database_url, remembers, (envelope.envelope_id,)) == [(False,)]
    assert replay(connection, envelope) is None
    assert len(rows(database_url)) == 72
    assert counted(database_url) == [(72,)]


def test_nor_when_the_head_remembers_it_though_retention_took_its_rows(connection: Any, database_url: str) -> None:
    envelope = make_envelope()
    commit(connection, envelope)
    execute(database_url, "DELETE FROM messages")
    assert replay(connection, envelope) is None
    assert rows(database_url) == []


def test_only_what_is_missing_of_it_is_stored(connection: Any, database_url: str) -> None:
    messages = tuple(make_message(text) for text in "abc")
    commit(connection, make_envelope(1, messages=messages[1:2]))
    assert replay(connection, make_envelope(1, messages=messages)) == (2, 3)
    assert rows(database_url) == [(1, "b"), (2, "a"), (3, "c")]


def test_messages_of_other_rooms_and_times_with_these_ids_are_others(connection: Any, database_url: str) -> None:
    message = make_message("a")
    commit(connection, make_envelope(2, messages=(message,)))
    assert replay(connection, make_envelope(1, messages=(message,))) == (1, 1)


def test_of_two_at_once_one_stores(database_url: str) -> None:
    envelope = make_envelope(1, "a", "b")

    def run() -> tuple[int, int] | None:
        with closing(psycopg2.connect(database_url)) as connection:
            return replay(connection, envelope)

    assert sorted(run_together([run] * 4), key=str) == [(1, 2), None, None, None]
    assert rows(database_url) == [(1, "a"), (2, "b")]


@pytest.mark.parametrize("room", [1, 7])
def test_the_second_looks_only_when_the_first_has_ended(connection: Any, database_url: str, room: int) -> None:
    """Even where the head has forgotten the first one's envelope by then, or was not there before (7)."""
    commit(connection, make_envelope(1, "x"))
    envelope = make_envelope(room, "a")
    with closing(psycopg2.connect(database_url)) as first, ThreadPoolExecutor(1) as threads:
        with first.cursor() as cursor:
            cursor.execute("INSERT INTO rooms (room_id) VALUES (%s) ON CONFLICT DO NOTHING", (room,))
            cursor.execute("SELECT FROM rooms WHERE room_id = %s FOR UPDATE", (room,))
            second = threads.submit(replay, connection, envelope)
            eventually(lambda: second.done() or execute(database_url, WAITING) == [(1,)], "the second one waits")
            assert replay_in_thread(cursor, envelope) is not None
            cursor.execute("UPDATE rooms SET recent_envelopes = '{}'")
        first.commit()
        assert second.result() is None
    assert [text for _, text in rows(database_url, room)].count("a") == 1


def test_what_is_refused_again_leaves_nothing_and_the_connection_serves_on(connection: Any, database_url: str) -> None:
    with pytest.raises(NotStored, match="0x00"):
        replay(connection, make_envelope(1, "good", "\0"))
    assert rows(database_url) == []
    assert replay(connection, make_envelope(1, "a")) == (1, 1)


def test_so_is_what_cannot_even_be_looked_up(connection: Any, database_url: str) -> None:
    for message_id in ("\0", "no uuid"):
        letter = make_envelope(1, messages=(make_message(message_id=message_id, client_message_id="own"),))
        with pytest.raises(NotStored):
            replay(connection, letter)
    assert rows(database_url) == []


def test_a_database_that_is_away_is_no_refusal(connection: Any, database_url: str) -> None:
    execute(database_url, "SELECT pg_terminate_backend(%s)", (connection.get_backend_pid(),))
    with pytest.raises(Unavailable):
        replay(connection, make_envelope(1, "a"))
