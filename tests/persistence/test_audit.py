"""Whether what was acknowledged is stored, on a real PostgreSQL."""

from __future__ import annotations

import uuid

import pytest

from chatflow.errors import Unavailable
from chatflow.persistence.audit import Acknowledged, Audit, audit_in_thread
from testbed.postgres import execute


def _id(number: int) -> uuid.UUID:
    return uuid.UUID(int=number)


def _store(url: str, room: int, seq: int, number: int, day: int = 1) -> None:
    execute(
        url,
        "INSERT INTO messages (room_id, user_id, seq, created_at, client_timestamp, message_id, username,"
        " message_text, message_type, server_id) VALUES (%s, 1, %s, %s, now(), %s, 'user1', 'hi', 'TEXT', 's')",
        (room, seq, f"2026-01-{day:02d}T00:00:00Z", str(_id(number))),
    )


def _acknowledged(room: int, first: int, last: int, *numbers: int) -> Acknowledged:
    return Acknowledged(room, first, last, b"".join(_id(number).bytes for number in numbers))


def test_all_is_there_once(database_url: str) -> None:
    for room in (1, 2):
        for seq in range(1, 6):
            _store(database_url, room, seq, 100 * room + seq)
    rooms = [_acknowledged(1, 2, 5, 105, 102, 104, 103), _acknowledged(2, 1, 2, 201, 202)]
    assert audit_in_thread(database_url, rooms) == Audit(checked=6)


def test_what_is_not_there_is_missing(database_url: str) -> None:
    _store(database_url, 1, 1, 101)
    _store(database_url, 1, 2, 102)
    assert audit_in_thread(database_url, [_acknowledged(1, 1, 2, 101, 103)]) == Audit(checked=2, missing=1)


def test_what_is_in_another_room_is_missing(database_url: str) -> None:
    _store(database_url, 1, 1, 101)
    _store(database_url, 2, 1, 102)
    assert audit_in_thread(database_url, [_acknowledged(1, 1, 1, 102)]).missing == 1


def test_what_is_there_twice_is_duplicated_however_late_it_came(database_url: str) -> None:
    for seq, number in enumerate((101, 102, 102, 103, 101), 1):
        _store(database_url, 1, seq, number)
    assert audit_in_thread(database_url, [_acknowledged(1, 1, 4, 101, 102, 103)]) == Audit(checked=3, duplicated=2)


def test_two_messages_with_the_same_seq_are_a_duplicate(database_url: str) -> None:
    _store(database_url, 1, 1, 101, day=1)
    _store(database_url, 1, 1, 102, day=2)
    assert audit_in_thread(database_url, [_acknowledged(1, 1, 1, 101, 102)]) == Audit(checked=2, duplicated=1)


def test_an_id_that_was_acknowledged_twice_stands_for_two_messages(database_url: str) -> None:
    _store(database_url, 1, 1, 101)
    assert audit_in_thread(database_url, [_acknowledged(1, 1, 1, 101, 101)]) == Audit(checked=2, missing=1)


@pytest.mark.parametrize(("seqs", "holes"), [((1, 2, 4), 1), ((2, 3, 4), 1), ((1, 2), 2), ((1, 9), 3), ((), 4)])
def test_a_seq_from_first_to_last_without_a_row_is_a_hole(database_url: str, seqs: tuple[int, ...], holes: int) -> None:
    for seq in seqs:
        _store(database_url, 1, seq, 100 + seq)
    assert audit_in_thread(database_url, [_acknowledged(1, 1, 4)]) == Audit(holes=holes)


def test_messages_before_the_run_are_not_looked_at(database_url: str) -> None:
    _store(database_url, 1, 1, 101)
    _store(database_url, 1, 5, 105)
    assert audit_in_thread(database_url, [_acknowledged(1, 5, 5, 105)]) == Audit(checked=1)


def test_a_database_that_does_not_answer_is_unavailable() -> None:
    with pytest.raises(Unavailable, match="cannot check the database") as caught:
        audit_in_thread("postgresql://me:secret@127.0.0.1:1/none", [])
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)
