"""One transaction per batch: numbered without holes, counted exactly, and once however often a queue delivers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from ipaddress import ip_address
from itertools import count
from typing import Any, TypeVar

import msgspec
import psycopg2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatflow.contracts.envelopes import Envelope
from chatflow.contracts.messages import Message
from chatflow.contracts.writer import AreHeld, LastSeqs, always
from chatflow.persistence.commit import CommitResult, commit_in_thread
from chatflow.persistence.driver import Connection
from chatflow.persistence.heads import create_rooms_in_thread
from testbed.postgres import execute
from testbed.recounting import recount
from testbed.threads import run_together
from testbed.waiting import eventually
from tests.persistence.committing import WAYS, Alone, Within, commit_batch
from tests.support.chat import NOW_US, distinct, legal_messages, make_envelope, make_message

T = TypeVar("T")

WAITING = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"

_MINUTE_US = 60_000_000
_REMEMBERED = 64

Placed = list[tuple[int | None, int]]


@pytest.fixture(params=WAYS, ids=["alone", "in a transaction"])
def connection(request: pytest.FixtureRequest, database_url: str) -> Iterator[Any]:
    """Each test is made on both ways to commit."""
    with closing(psycopg2.connect(database_url, connection_factory=request.param)) as connection:
        yield connection


def commit(connection: Any, *envelopes: Envelope) -> Placed:
    """One batch, committed."""
    return [(place.first_seq, place.head) for place in commit_batch(connection, envelopes)]


def stored(url: str, room: int = 1) -> list[tuple[int, str]]:
    """Seq and text of the room's messages."""
    return [
        (seq, text)
        for seq, text in execute(url, "SELECT seq, message_text FROM messages WHERE room_id = %s ORDER BY seq", (room,))
    ]


def remembered(url: str, room: int = 1) -> list[str]:
    (row,) = execute(url, "SELECT recent_envelopes::text[] FROM rooms WHERE room_id = %s", (room,))
    ids: list[str] = row[0]
    return ids


def users(count: int, **fields: Any) -> tuple[Message, ...]:
    """A message of each of so many users."""
    return tuple(make_message(user_id=user, username=f"user{user}", **fields) for user in range(1, count + 1))


class TestNumbering:
    def test_messages_of_a_room_are_numbered_from_one_in_the_order_given(
        self, connection: Any, database_url: str
    ) -> None:
        first, second, third = (make_envelope(1, *texts) for texts in (("a", "b"), ("c",), ("d", "e", "f")))
        assert commit(connection, first, second) == [(1, 2), (3, 3)]
        assert commit(connection, third) == [(4, 6)]
        assert stored(database_url) == [(1, "a"), (2, "b"), (3, "c"), (4, "d"), (5, "e"), (6, "f")]
        assert execute(database_url, "SELECT last_seq FROM rooms") == [(6,)]
        assert recount(database_url) == {}

    def test_rooms_are_numbered_apart_also_within_a_batch(self, connection: Any, database_url: str) -> None:
        batch = [make_envelope(room, f"{room}.{number}") for number in range(3) for room in (7, 2, 5)]
        assert commit(connection, *batch) == [(1, 1)] * 3 + [(2, 2)] * 3 + [(3, 3)] * 3
        for room in (2, 5, 7):
            assert stored(database_url, room) == [(1, f"{room}.0"), (2, f"{room}.1"), (3, f"{room}.2")]
        assert commit(connection, make_envelope(9), make_envelope(2)) == [(1, 1), (4, 4)]
        assert recount(database_url) == {}

    def test_a_room_that_was_made_before_is_used(self, connection: Any, database_url: str) -> None:
        execute(database_url, "INSERT INTO rooms (room_id) VALUES (1)")
        assert commit(connection, make_envelope(1), make_envelope(2)) == [(1, 1), (1, 1)]

    def test_a_room_whose_head_was_lost_goes_on_behind_its_messages(self, connection: Any, database_url: str) -> None:
        yesterday = make_message("yesterday", created_at_us=NOW_US - 86_400_000_000)
        commit(connection, make_envelope(1, messages=(yesterday,)), make_envelope(1, "b", "c"), make_envelope(2))
        execute(database_url, "DELETE FROM rooms")
        assert commit(connection, make_envelope(1, "d"), make_envelope(3)) == [(4, 4), (1, 1)]
        assert [seq for seq, _ in stored(database_url)] == [1, 2, 3, 4]
        with connection, connection.cursor() as cursor:
            create_rooms_in_thread(cursor, range(1, 5))
        assert recount(database_url) == {}
        assert execute(database_url, "SELECT room_id, first_seq, last_seq FROM rooms ORDER BY 1") == [
            *((1, 1, 4), (2, 1, 1), (3, 1, 1), (4, 1, 0)),
        ]

    def test_every_column_holds_what_it_is_named_after(self, connection: Any, database_url: str) -> None:
        message = Message(
            "0190a7b0-0000-7000-8000-000000000001",
            NOW_US,
            42,
            "ann",
            "Hello",
            "JOIN",
            "2026-11-23T12:29:59.123456789+02:00",
            "2001:db8::1",
            "own",
        )
        plain = msgspec.structs.replace(message, message_id=message.message_id[:-1] + "2", client_ip=None)
        plain = msgspec.structs.replace(plain, client_message_id=None)
        commit(connection, make_envelope(3, messages=(message, plain), server_id="server-7"))
        columns = (
            "room_id, seq, message_id::text, user_id, username, message_text, message_type, server_id,"
            " host(client_ip), client_message_id"
        )
        rows = execute(database_url, f"SELECT {columns} FROM messages ORDER BY seq")
        assert rows == [
            (3, 1, message.message_id, 42, "ann", "Hello", "JOIN", "server-7", "2001:db8::1", "own"),
            (3, 2, plain.message_id, 42, "ann", "Hello", "JOIN", "server-7", None, None),
        ]
        assert execute(
            database_url,
            "SELECT DISTINCT created_at = '2026-11-23T10:30:00.123456Z', client_timestamp ="
            " '2026-11-23T10:29:59.123457Z' FROM messages",
        ) == [(True, True)]


class TestRedelivery:
    def test_an_envelope_is_stored_once_and_its_rooms_head_told(self, connection: Any, database_url: str) -> None:
        first, second = make_envelope(1, "a", "b"), make_envelope(1, "c")
        commit(connection, first)
        assert commit(connection, first, second) == [(None, 2), (3, 3)]
        assert commit(connection, second, first) == [(None, 3), (None, 3)]
        assert stored(database_url) == [(1, "a"), (2, "b"), (3, "c")]
        assert recount(database_url) == {}

    def test_also_when_it_is_twice_in_one_batch(self, connection: Any, database_url: str) -> None:
        first, second = make_envelope(1, "a"), make_envelope(1, "b")
        assert commit(connection, first, second, first) == [(1, 1), (2, 2), (None, 2)]
        assert stored(database_url) == [(1, "a"), (2, "b")]
        assert recount(database_url) == {}

    def test_a_batch_of_nothing_new_changes_nothing(self, connection: Any, database_url: str) -> None:
        envelope = make_envelope(1)
        commit(connection, envelope)
        before = execute(database_url, "SELECT * FROM rooms")
        commit(connection, envelope)
        assert execute(database_url, "SELECT * FROM rooms") == before

    def test_a_room_remembers_its_last_64_envelopes_in_order(self, connection: Any, database_url: str) -> None:
        envelopes = [make_envelope(1, str(number)) for number in range(_REMEMBERED + 6)]
        commit(connection, *envelopes[:40], make_envelope(2))
        for envelope in envelopes[40:]:
            commit(connection, envelope)
        assert remembered(database_url) == [envelope.envelope_id for envelope in envelopes[-_REMEMBERED:]]
        placed = commit(connection, *envelopes[-_REMEMBERED:])
        assert placed == [(None, len(envelopes))] * _REMEMBERED
        assert len(stored(database_url)) == len(envelopes)

    def test_a_batch_larger_than_that_is_remembered_as_far(self, connection: Any, database_url: str) -> None:
        envelopes = [make_envelope(1, str(number)) for number in range(2 * _REMEMBERED)]
        commit(connection, *envelopes)
        assert remembered(database_url) == [envelope.envelope_id for envelope in envelopes[-_REMEMBERED:]]

    def test_each_room_remembers_its_own_envelopes(self, connection: Any, database_url: str) -> None:
        envelope = make_envelope(1, "a")
        commit(connection, envelope)
        commit(connection, *[make_envelope(2) for _ in range(_REMEMBERED)])
        assert commit(connection, envelope) == [(None, 1)]


class TestHeld:
    """A consumer that was paused, or cut off from the database, wakes with envelopes that may be another's by now."""

    def place(self, connection: Any, *envelopes: tuple[Envelope, AreHeld]) -> list[CommitResult]:
        return commit_batch(connection, [one for one, _ in envelopes], [is_held for _, is_held in envelopes])

    def test_what_is_held_no_more_is_left_out_and_the_others_are_stored(
        self, connection: Any, database_url: str
    ) -> None:
        late = [make_envelope(1, "late"), make_envelope(1, "later")]
        (first, second, third) = self.place(
            connection, (late[0], never), (make_envelope(2, "in time"), always), (late[1], never)
        )
        assert (first.held, second.held, third.held) == (False, True, False)
        assert (first.first_seq, second.first_seq, third.first_seq) == (None, 1, None)
        assert (stored(database_url), stored(database_url, 2)) == ([], [(1, "in time")])
        assert recount(database_url) == {}

    def test_so_nothing_is_stored_twice_that_others_stored_so_long_ago_that_it_is_forgotten(
        self, connection: Any, database_url: str
    ) -> None:
        late = make_envelope(1, "late")
        others = [late, *[make_envelope(1, str(number)) for number in range(_REMEMBERED)]]
        commit(connection, *others)
        assert late.envelope_id not in remembered(database_url)
        (place,) = self.place(connection, (late, never))
        assert not place.held
        assert len(stored(database_url)) == len(others)

    def test_what_is_remembered_was_stored_whoever_holds_it(self, connection: Any) -> None:
        envelope = make_envelope(1)
        commit(connection, envelope)
        (place,) = self.place(connection, (envelope, never))
        assert place.held
        assert (place.first_seq, place.head) == (None, 1)

    def test_it_is_asked_while_the_head_is_locked(self, connection: Any, database_url: str) -> None:
        execute(database_url, "INSERT INTO rooms (room_id) VALUES (1)")
        free: list[object] = []

        def is_held(last_seqs: LastSeqs) -> bool:
            free.append(execute(database_url, "SELECT room_id FROM rooms FOR UPDATE SKIP LOCKED"))
            return True

        self.place(connection, (make_envelope(1), is_held), (make_envelope(1), is_held))
        assert free == [[]], "once, since it is one answer for both"


def never(last_seqs: LastSeqs) -> bool:
    return False


class TestRollups:
    def test_counts_of_users_rooms_minutes_and_types_equal_a_recount(self, connection: Any, database_url: str) -> None:
        kinds = ("TEXT", "JOIN", "LEAVE", "TEXT", "TEXT")
        sent: list[tuple[int, Message]] = []
        for flush in range(4):
            batch = []
            for room in (3, 1, 2):
                messages = tuple(
                    make_message(
                        user_id=1 + number % 4,
                        username=f"user{1 + number % 4}x{flush}x{number}",
                        message_type=kinds[(number + flush) % 5],
                        created_at_us=NOW_US + flush * 40_000_000 - number * _MINUTE_US,
                    )
                    for number in range(10 * room)
                )
                batch.append(make_envelope(room, messages=messages))
                sent += [(room, message) for message in messages]
            commit(connection, *batch, *batch[:1])
        assert recount(database_url) == {}
        # That the recount is right is counted here, once.
        own = [message.message_type for room, message in sent if (room, message.user_id) == (3, 1)]
        assert execute(
            database_url,
            "SELECT message_count, text_count, join_count, leave_count, username FROM user_activity"
            " WHERE room_id = 3 AND user_id = 1",
        ) == [(len(own), own.count("TEXT"), own.count("JOIN"), own.count("LEAVE"), "user1x3x28")]
        assert execute(database_url, "SELECT sum(message_count)::int FROM message_stats_minute") == [(len(sent),)]

    def test_a_users_activity_begins_with_the_earliest_and_ends_with_the_latest_of_any_batch(
        self, connection: Any, database_url: str
    ) -> None:
        for shift_minutes in (5, 0, 3, 9, 2):
            message = make_message(created_at_us=NOW_US + shift_minutes * _MINUTE_US)
            commit(connection, make_envelope(1, messages=(message,)))
        assert recount(database_url) == {}
        assert execute(
            database_url,
            "SELECT first_activity = '2026-11-23T10:30:00.123456Z', last_activity = '2026-11-23T10:39:00.123456Z'"
            " FROM user_activity",
        ) == [(True, True)]

    def test_older_messages_of_the_same_room_and_time_are_not_counted_again(
        self, connection: Any, database_url: str
    ) -> None:
        for _ in range(3):
            commit(connection, make_envelope(1, messages=users(5)), make_envelope(2, messages=users(5)))
        assert recount(database_url) == {}

    def test_batches_over_midnight_fill_both_days(self, connection: Any, database_url: str) -> None:
        for day in ("20261123", "20261124"):
            execute(database_url, f"CREATE TABLE messages_{day} (LIKE messages INCLUDING ALL)")
            execute(
                database_url,
                f"ALTER TABLE messages ATTACH PARTITION messages_{day}"
                f" FOR VALUES FROM ('{day}Z') TO (timestamptz '{day}Z' + interval '1 day')",
            )
        midnight_us = NOW_US - NOW_US % 86_400_000_000 + 86_400_000_000
        times = [midnight_us - 1, midnight_us, midnight_us - 1, midnight_us + 1]
        messages = tuple(make_message(created_at_us=time) for time in times)
        commit(connection, make_envelope(1, messages=messages))
        assert execute(
            database_url, "SELECT tableoid::regclass::text, count(*) FROM messages GROUP BY 1 ORDER BY 1"
        ) == [("messages_20261123", 2), ("messages_20261124", 2)]
        assert recount(database_url) == {}


AWKWARD_TEXTS = [
    "\\",
    "\\\\",
    "\\.",  # the end of data, of old
    "\\N",  # NULL
    "\\n",
    "\n",
    "\r",
    "\r\n",
    "\t",
    "a\tb\nc\rd\\e",
    "\\\n",
    "\\.\n",
    "'; DROP TABLE messages; --",
    "\"'`$$%s%(a)s{}",
    " leading and trailing ",
    "\x01\x07\x08\x0b\x0c\x1b\x7f",
    "\x80\x85\xa0\u2028\u2029\u200b\ufeff\ufffe\uffff",
    "😀👩‍👩‍👧‍👦🏳️‍🌈\U0010ffff",
    "e\u0301 é ß ﷽ 漢字 עברית",
    "N",
    ".",
    "x" * 500,
    "😀" * 500,
    "\\" * 500,
    "\n" * 500,
]


class TestTexts:
    def test_every_text_is_stored_as_it_is(self, connection: Any, database_url: str) -> None:
        commit(connection, make_envelope(1, *AWKWARD_TEXTS))
        assert [text for _, text in stored(database_url)] == AWKWARD_TEXTS
        owns = [text[:64] for text in AWKWARD_TEXTS]
        commit(connection, make_envelope(2, messages=tuple(make_message(client_message_id=own) for own in owns)))
        rows = execute(database_url, "SELECT client_message_id FROM messages WHERE room_id = 2 ORDER BY seq")
        assert [own for (own,) in rows] == owns

    def test_whatever_a_client_may_send_is_stored_as_it_is(self, class_database_url: str) -> None:
        with closing(psycopg2.connect(class_database_url, connection_factory=Alone)) as connection:
            _store_and_compare(connection)


def _store_and_compare(connection: Any) -> None:
    select = (
        "SELECT message_id::text, (extract(epoch FROM created_at) * 1000000)::bigint, user_id, username, message_text,"
        " message_type, host(client_ip), client_message_id FROM messages WHERE room_id = %s ORDER BY seq"
    )
    rooms = count(1)

    # What a user has named is stored once in a room.
    @given(
        st.lists(legal_messages(), min_size=1, max_size=20, unique_by=lambda one: (one.user_id, one.client_message_id))
    )
    def compare(generated: list[Message]) -> None:
        messages, room = distinct(generated), next(rooms)
        commit(connection, make_envelope(room, messages=messages))
        with connection, connection.cursor() as cursor:
            cursor.execute(select, (room,))
            rows = cursor.fetchall()
        for row, one in zip(rows, messages, strict=True):
            *fields, address, own_id = row
            assert fields == [
                *(one.message_id, one.created_at_us, one.user_id, one.username, one.text, one.message_type)
            ]
            assert own_id == one.client_message_id
            # PostgreSQL writes some addresses of IPv6 in another way.
            assert (address and ip_address(address)) == (one.client_ip and ip_address(one.client_ip))

    compare()


class TestTogether:
    def test_batches_in_opposite_order_neither_deadlock_nor_leave_holes(self, database_url: str) -> None:
        """As two instances that hold parts of the same rooms."""
        rooms = list(range(1, 6))
        rounds = 30
        barrier = threading.Barrier(2)

        def instance(order: Sequence[int], way: type[Connection]) -> Callable[[], int]:
            def work() -> int:
                with closing(psycopg2.connect(database_url, connection_factory=way)) as connection:
                    for _ in range(rounds):
                        barrier.wait(30)
                        commit(connection, *[make_envelope(room, messages=users(3)) for room in order])
                return 1

            return work

        # The rooms exist: bootstrap makes them before any instance serves.
        execute(database_url, "INSERT INTO rooms (room_id) SELECT generate_series(1, 5)")
        assert run_together([instance(rooms, Alone), instance(rooms[::-1], Within)]) == [1, 1]
        assert execute(database_url, "SELECT DISTINCT last_seq FROM rooms") == [(2 * 3 * rounds,)]
        assert execute(
            database_url, "SELECT deadlocks::int FROM pg_stat_database WHERE datname = current_database()"
        ) == [(0,)]
        assert recount(database_url) == {}

    def test_rooms_are_locked_in_their_order_not_in_the_one_they_lie_in(
        self, connection: Any, database_url: str
    ) -> None:
        execute(database_url, "INSERT INTO rooms (room_id) SELECT generate_series(5, 1, -1)")
        alone = psycopg2.connect(database_url, connection_factory=Alone)
        with closing(alone) as other, connection.cursor() as cursor:
            cursor.execute("SELECT 1 FROM rooms WHERE room_id = 3 FOR UPDATE")
            batch = threading.Thread(target=commit, args=[other, *[make_envelope(room) for room in (4, 5, 1, 3, 2)]])
            batch.start()
            try:
                eventually(lambda: execute(database_url, WAITING), "the batch waits for room 3")
                free = execute(database_url, "SELECT room_id FROM rooms ORDER BY room_id FOR UPDATE SKIP LOCKED")
            finally:
                connection.rollback()
                batch.join(30)
        assert free == [(4,), (5,)]

    def test_the_second_of_two_for_a_room_waits_and_goes_on_where_the_first_ended(
        self, connection: Any, database_url: str
    ) -> None:
        redelivered = make_envelope(1, "a")
        alone = psycopg2.connect(database_url, connection_factory=Alone)
        with closing(alone) as other, connection.cursor() as cursor:
            commit_in_thread(cursor, [redelivered])  # not committed yet
            second = threading.Thread(target=lambda: placed.extend(commit(other, redelivered, make_envelope(1, "b"))))
            placed: Placed = []
            second.start()
            try:
                eventually(lambda: execute(database_url, WAITING), "the second waits for the first")
            finally:
                connection.commit()
            second.join(30)
        assert placed == [(None, 1), (2, 2)]
        assert stored(database_url) == [(1, "a"), (2, "b")]


class TestCrashes:
    def test_a_connection_killed_before_the_commit_leaves_nothing(self, connection: Any, database_url: str) -> None:
        kept, lost = make_envelope(1, "kept"), make_envelope(1, "lost")
        commit(connection, kept)
        with pytest.raises(psycopg2.OperationalError), connection.cursor() as cursor:
            commit_in_thread(cursor, [lost])
            kill(database_url, connection)
            connection.commit()
        assert stored(database_url) == [(1, "kept")]
        assert recount(database_url) == {}
        with closing(psycopg2.connect(database_url)) as anew:
            assert commit(anew, kept, lost) == [(None, 1), (2, 2)]
        assert recount(database_url) == {}

    def test_one_killed_after_the_commit_leaves_the_envelope_remembered(
        self, connection: Any, database_url: str
    ) -> None:
        envelope = make_envelope(1, "a")
        commit(connection, envelope)
        kill(database_url, connection)
        with closing(psycopg2.connect(database_url)) as anew:
            assert commit(anew, envelope) == [(None, 1)]
        assert stored(database_url) == [(1, "a")]


def kill(url: str, connection: Any) -> None:
    """End a connection from the server's side, and wait until its backend has gone."""
    pid = connection.info.backend_pid
    execute(url, "SELECT pg_terminate_backend(%s, 10000)", (pid,))


class TestRecount:
    """The helper of these tests finds what it is there to find."""

    @pytest.mark.parametrize(
        "damage",
        [
            "DELETE FROM messages WHERE room_id = 1 AND seq = 2",
            "DELETE FROM messages WHERE room_id = 1 AND seq = 1",
            "DELETE FROM messages WHERE room_id = 1 AND seq = 3",
            "UPDATE messages SET seq = 4 WHERE room_id = 1 AND seq = 3",
            "UPDATE messages SET message_id = (SELECT message_id FROM messages WHERE room_id = 2 AND seq = 1)"
            " WHERE room_id = 1 AND seq = 1",
            "UPDATE messages SET message_type = 'JOIN' WHERE room_id = 1 AND seq = 1",
            "UPDATE rooms SET last_seq = 4 WHERE room_id = 1",
            "DELETE FROM rooms WHERE room_id = 1",
            "INSERT INTO rooms (room_id, last_seq) VALUES (3, 1)",
            "UPDATE user_activity SET message_count = message_count + 1 WHERE room_id = 1 AND user_id = 1",
            "UPDATE user_activity SET username = 'other' WHERE room_id = 1 AND user_id = 1",
            "UPDATE user_activity SET last_activity = last_activity + interval '1 microsecond' WHERE user_id = 2",
            "DELETE FROM user_activity WHERE room_id = 1 AND user_id = 1",
            "INSERT INTO user_activity SELECT user_id, 9, username, 1, 1, 0, 0, first_activity, last_activity"
            " FROM user_activity WHERE room_id = 1 AND user_id = 1",
            "UPDATE message_stats_minute SET leave_count = 1 WHERE room_id = 1",
            "DELETE FROM message_stats_minute WHERE room_id = 2",
            "UPDATE message_stats_minute SET minute = minute + interval '1 minute' WHERE room_id = 2",
        ],
    )
    def test_a_planted_difference_is_found(self, class_database_url: str, damage: str) -> None:
        execute(class_database_url, "TRUNCATE rooms, messages, user_activity, message_stats_minute")
        with closing(psycopg2.connect(class_database_url)) as connection:
            commit(connection, make_envelope(1, messages=users(3)), make_envelope(2, messages=users(2)))
        assert recount(class_database_url) == {}
        execute(class_database_url, damage)
        assert recount(class_database_url) != {}
