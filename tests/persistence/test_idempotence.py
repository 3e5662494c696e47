"""A message that its client has named is stored once within the window, however often and wherever it is sent."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from hashlib import blake2b
from typing import Any

import msgspec
import psycopg2
import pytest

from chatflow.contracts.envelopes import Envelope
from chatflow.contracts.messages import Message
from chatflow.persistence.commit import _NAMED, REPEAT_HOURS, CommitResult
from chatflow.rooms.identifiers import derived_id, same_name
from chatflow.rooms.messages import content
from testbed.postgres import execute
from testbed.recounting import recount
from testbed.threads import run_together
from tests.persistence.committing import WAYS, commit_batch
from tests.support.chat import NOW_US, make_envelope, make_message

_HOUR_US = 3_600_000_000


@pytest.fixture(params=WAYS, ids=["alone", "in a transaction"])
def connection(request: pytest.FixtureRequest, database_url: str) -> Iterator[Any]:
    """Each test is made on both ways to commit."""
    with closing(psycopg2.connect(database_url, connection_factory=request.param)) as connection:
        yield connection


def named(own_id: str, text: str = "Hello", room: int = 1, user_id: int = 7, at_us: int = NOW_US) -> Message:
    return make_message(
        text,
        message_id=derived_id(room, user_id, own_id, content("user12345", "TEXT", text)),
        user_id=user_id,
        client_message_id=own_id,
        created_at_us=at_us,
    )


def envelope(*messages: Message, room: int = 1) -> Envelope:
    return make_envelope(room, messages=messages)


def commit(connection: Any, *envelopes: Envelope) -> list[CommitResult]:
    return commit_batch(connection, envelopes)


def texts(url: str, room: int = 1) -> list[str]:
    rows = execute(url, "SELECT seq, message_text FROM messages WHERE room_id = %s ORDER BY seq", (room,))
    assert [seq for seq, _ in rows] == list(range(1, len(rows) + 1))
    assert recount(url) == {}
    return [text for _, text in rows]


def test_within_an_envelope_the_first_one_stands(connection: Any, database_url: str) -> None:
    first, again, other = named("a", "first"), named("a", "first"), named("b", "other")
    (place,) = commit(connection, envelope(first, again, other))
    assert place == CommitResult(1, 2, [first, other])
    assert texts(database_url) == ["first", "other"]


def test_within_a_batch_and_in_later_ones_it_is_left_out(connection: Any, database_url: str) -> None:
    places = commit(connection, envelope(named("a", "1")), envelope(named("a", "1"), named("b", "3")))
    assert [(place.first_seq, place.head) for place in places] == [(1, 1), (2, 2)]
    (place,) = commit(connection, envelope(named("b", "3"), make_message("4"), named("a", "1")))
    assert (place.first_seq, place.head, [one.text for one in place.messages]) == (3, 3, ["4"])
    assert texts(database_url) == ["1", "3", "4"]


def test_an_envelope_that_holds_nothing_new_was_stored_before(connection: Any, database_url: str) -> None:
    commit(connection, envelope(named("a")))
    assert commit(connection, envelope(named("a"))) == [CommitResult(None, 1, ())]
    assert texts(database_url) == ["Hello"]


def test_a_name_belongs_to_its_user_and_its_room(connection: Any, database_url: str) -> None:
    commit(connection, envelope(named("a", "1"), named("a", "2", user_id=8)))
    commit(connection, envelope(named("a", "3", room=2), room=2))
    assert texts(database_url) == ["1", "2"]
    assert texts(database_url, 2) == ["3"]


def test_messages_without_a_name_are_never_the_same(connection: Any, database_url: str) -> None:
    commit(connection, envelope(make_message("x"), make_message("x"), named("a", "x")))
    assert texts(database_url) == ["x"] * 3


def test_it_is_recognised_within_the_window_whichever_came_first(connection: Any, database_url: str) -> None:
    commit(connection, envelope(named("a", "1")))
    commit(connection, envelope(named("a", "1", at_us=NOW_US + REPEAT_HOURS * _HOUR_US)))
    commit(connection, envelope(named("a", "1", at_us=NOW_US - _HOUR_US)))
    assert texts(database_url) == ["1"]


def test_after_the_window_it_is_a_new_message(connection: Any, database_url: str) -> None:
    commit(connection, envelope(named("a", "1")))
    commit(connection, envelope(named("a", "2", at_us=NOW_US + REPEAT_HOURS * _HOUR_US + 1)))
    rows = execute(database_url, "SELECT seq, message_text FROM messages ORDER BY seq")
    assert rows == [(1, "1"), (2, "2")]


def test_of_copies_that_race_over_several_connections_one_is_stored(database_url: str) -> None:
    def send(sender: int) -> list[CommitResult]:
        with closing(psycopg2.connect(database_url, connection_factory=WAYS[sender % 2])) as connection:
            return [
                place
                for number in range(20)
                for place in commit(connection, envelope(named(str(number), f"{number}"), make_message(f"of {sender}")))
            ]

    run_together(partial(send, sender) for sender in range(4))
    stored = texts(database_url)
    assert sorted(text for text in stored if not text.startswith("of")) == sorted(map(str, range(20)))
    assert len(stored) == 20 + 4 * 20


def test_the_search_for_repeated_ones_reads_an_index_of_the_days_in_the_window(database_url: str) -> None:
    lookup = f"EXPLAIN {_NAMED.partition(';')[2]}"
    with closing(psycopg2.connect(database_url)) as connection, connection.cursor() as cursor:
        low, high = same_name(derived_id(1, 1, "a", "b"))
        cursor.execute(lookup, ([low], [high], "2026-11-23T00:00:00Z"))
        plan = "\n".join(line for (line,) in cursor.fetchall())
    assert "message_id_idx" in plan
    assert "Filter: (message_id" not in plan


def test_a_room_was_last_active_when_its_newest_message_came_and_never_before(
    connection: Any, database_url: str
) -> None:
    def last_activity() -> dict[int, int]:
        rows = "SELECT room_id, (extract(epoch FROM last_activity) * 1000000)::bigint FROM rooms"
        return dict(execute(database_url, rows))

    late, early = NOW_US + 5_000_000, NOW_US - 5_000_000
    commit(connection, make_envelope(1), make_envelope(2, messages=(make_message(created_at_us=late),)))
    assert last_activity() == {1: NOW_US, 2: late}
    commit(connection, make_envelope(2, messages=(make_message(created_at_us=early),)))
    assert last_activity()[2] == late


class TestAnotherMessageUnderTheSameName:
    def refusing(self, connection: Any, *envelopes: Envelope) -> list[CommitResult]:
        return commit_batch(connection, envelopes, refuse_conflicts=True)

    def test_it_is_refused_where_its_sender_can_be_told(self, connection: Any, database_url: str) -> None:
        first, other = named("a", "first"), named("a", "other")
        (place,) = self.refusing(connection, envelope(first, other, named("b", "b")))
        assert (place.head, place.conflicts) == (2, (1,))
        (place,) = self.refusing(connection, envelope(other, first))
        assert (place.first_seq, place.conflicts) == (None, (0,))
        assert texts(database_url) == ["first", "b"]

    def test_so_it_is_when_the_same_envelope_comes_again(self, connection: Any) -> None:
        sent = envelope(named("a", "first"), named("a", "other"), make_message("x"))
        assert [self.refusing(connection, sent)[0].conflicts for _ in range(2)] == [(1,), (1,)]

    def test_it_is_stored_as_its_own_where_it_was_acknowledged_before_and_once(
        self, connection: Any, database_url: str
    ) -> None:
        first, other = named("a", "first"), named("a", "other")
        commit(connection, envelope(first, other), envelope(other))
        commit(connection, envelope(first, other))
        assert texts(database_url) == ["first", "other"]
        assert first.message_id != other.message_id

    @pytest.mark.parametrize(
        "fields", [{"text": "other"}, {"username": "other"}, {"message_type": "JOIN"}, {"text": "Hello "}]
    )
    def test_what_makes_it_another_is_text_name_and_type(self, connection: Any, fields: dict[str, str]) -> None:
        other = msgspec.structs.replace(named("a"), **fields)
        (place,) = self.refusing(connection, envelope(named("a"), other))
        assert place.conflicts == (1,)

    @pytest.mark.parametrize("fields", [{"client_timestamp": "2027-01-01T00:00:00Z"}, {"client_ip": "192.0.2.1"}])
    def test_time_and_place_do_not(self, connection: Any, fields: dict[str, str]) -> None:
        again = msgspec.structs.replace(named("a"), **fields)
        (place,) = self.refusing(connection, envelope(named("a"), again))
        assert (place.head, place.conflicts) == (1, ())

    def test_what_an_earlier_version_stored_under_the_name_is_known(self, connection: Any, database_url: str) -> None:
        name = b"1\x007\x00a"
        bits = int.from_bytes(blake2b(name, digest_size=16, person=b"chatflow").digest(), "big")
        earlier = str(uuid.UUID(int=bits & ~(0xF << 76 | 0b11 << 62) | 8 << 76 | 0b10 << 62))
        commit(connection, envelope(msgspec.structs.replace(named("a"), message_id=earlier)))
        (place,) = self.refusing(connection, envelope(named("a"), named("a", "other")))
        assert (place.head, place.conflicts) == (1, (1,))
        assert texts(database_url) == ["Hello"]
