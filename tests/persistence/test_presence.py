"""Instances tell each other of their members through the database, and the silent do not count."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from typing import Any

import psycopg2
import pytest

from chatflow.contracts.membership import RoomPresence, Run, Who
from chatflow.lifecycle.blocking import at_once
from chatflow.persistence.membership import BlockingTransactions, MembershipTable
from chatflow.rooms.presence import SILENT_SECONDS
from testbed.postgres import execute

HERE, THERE, THIRD = Run("a", "1", "queue-a"), Run("b", "1", "queue-b"), Run("b", "2", "queue-b-2")
ANN, BOB = Who(1, "ann"), Who(2, "bob")

# What the previous version does, while it runs beside this one; see the migration.
_PREVIOUS_BEAT = """
INSERT INTO presence_instances AS known (server_id, start) VALUES (%s, %s)
ON CONFLICT (server_id, start) DO UPDATE SET seen_at = now()
RETURNING xmax <> 0
"""
_PREVIOUS_CHANGE = """
INSERT INTO presence (server_id, start, room_id, members, users, truncated) VALUES (%s, %s, %s, %s, '[]', false)
ON CONFLICT (server_id, start, room_id) DO UPDATE SET
       members = excluded.members, users = excluded.users, truncated = excluded.truncated
"""
_PREVIOUS_OTHERS = """
SELECT room_id, members, users, truncated FROM presence JOIN presence_instances USING (server_id, start)
WHERE (server_id, start) <> (%s, %s) AND abs(extract(epoch FROM now() - seen_at)) < %s
"""
_PREVIOUS_FORGET = "DELETE FROM presence_instances WHERE seen_at < now() - make_interval(secs => 60)"
_PREVIOUS_LEAVE = "DELETE FROM presence_instances WHERE server_id = %s AND start = %s"


class Table:
    """The runs of these tests, with calls that block."""

    def __init__(self, url: str, connection: Any) -> None:
        self.url = url
        self._table = MembershipTable(BlockingTransactions(connection))
        for run in (HERE, THERE, THIRD):
            self.register(run)

    def register(self, run: Run, former: Run | None = None) -> None:
        at_once(self._table.register(run, former))

    def beat(self, run: Run) -> set[int] | None:
        known = at_once(self._table.beat(run))
        return None if known is None else set(known)

    def tell(self, run: Run, changed: Mapping[int, RoomPresence]) -> None:
        at_once(self._table.tell(run, changed))

    def others(self, run: Run = HERE) -> Mapping[int, RoomPresence]:
        return at_once(self._table.others(run))

    def leave(self, run: Run) -> None:
        at_once(self._table.leave(run))

    def sql(self, statement: str, *arguments: object) -> list[tuple[Any, ...]]:
        return execute(self.url, statement, arguments)

    def silence(self, run: Run, seconds: float) -> None:
        """Let its last beat have been so long ago."""
        self.sql(
            "UPDATE instances SET heartbeat_at = heartbeat_at - make_interval(secs => %s)"
            " WHERE server_id = %s AND start = %s",
            seconds,
            run.server_id,
            run.run_id,
        )


@pytest.fixture
def table(database_url: str) -> Iterator[Table]:
    with closing(psycopg2.connect(database_url)) as connection:
        yield Table(database_url, connection)


def test_the_rooms_of_all_others_are_put_together(table: Table) -> None:
    table.tell(HERE, {1: RoomPresence(9)})
    table.tell(THERE, {1: RoomPresence(2, ((ANN, 1), (BOB, 1))), 2: RoomPresence(1)})
    table.tell(THIRD, {1: RoomPresence(3, ((ANN, 2),), True)})
    found = table.others()
    assert found[2] == RoomPresence(1)
    assert (found[1].members, dict(found[1].users), found[1].truncated) == (5, {ANN: 3, BOB: 1}, True)


def test_only_the_rooms_that_are_named_change_and_a_beat_says_which_are_known(table: Table) -> None:
    assert table.beat(THERE) == set()
    table.tell(THERE, {1: RoomPresence(2), 2: RoomPresence(2)})
    assert table.beat(THERE) == {1, 2}
    table.tell(THERE, {1: RoomPresence(5), 2: RoomPresence(0)})
    table.tell(THERE, {})
    assert table.beat(THERE) == {1}
    assert table.others() == {1: RoomPresence(5)}
    assert table.sql("SELECT room_id FROM presence") == [(1,)]


@pytest.mark.parametrize("seconds", [-3600, 3600])
def test_after_the_databases_clock_was_set_the_silent_do_not_count_and_the_living_do_again_with_their_next_beat(
    table: Table, seconds: float
) -> None:
    table.tell(THERE, {1: RoomPresence(2)})
    table.tell(THIRD, {1: RoomPresence(3)})
    table.silence(THERE, seconds)
    table.silence(THIRD, seconds)
    assert table.others() == {}
    assert table.beat(THERE) == {1}
    assert table.others() == {1: RoomPresence(2)}


@pytest.mark.parametrize("seconds", [SILENT_SECONDS, 5])
def test_the_members_of_a_silent_instance_do_not_count_until_it_beats_again(table: Table, seconds: float) -> None:
    table.tell(THERE, {1: RoomPresence(2)})
    table.silence(THERE, seconds)
    table.beat(HERE)
    assert table.others() == {}
    assert table.beat(THERE) == {1}
    assert table.others() == {1: RoomPresence(2)}


def test_who_leaves_is_gone_at_once_with_its_rooms(table: Table) -> None:
    table.tell(THERE, {1: RoomPresence(2)})
    table.tell(THIRD, {1: RoomPresence(1)})
    table.leave(THERE)
    assert table.others() == {1: RoomPresence(1)}
    table.leave(THIRD)
    assert table.sql("SELECT count(*) FROM presence") == [(0,)]
    assert table.beat(THIRD) is None, "it is told that it was forgotten"


def test_what_is_told_of_a_run_that_was_forgotten_meanwhile_is_of_no_consequence(table: Table) -> None:
    table.leave(THERE)
    table.tell(THERE, {1: RoomPresence(2), 2: RoomPresence(0)})
    assert table.others() == {}


def test_a_run_takes_over_the_rooms_of_the_former_one(table: Table) -> None:
    table.tell(THERE, {1: RoomPresence(2)})
    table.register(THIRD, THERE)
    assert table.others() == {1: RoomPresence(2)}
    assert (table.beat(THERE), table.beat(THIRD)) == (set(), {1})
    table.leave(THERE)
    assert table.others() == {1: RoomPresence(2)}


def test_after_a_crash_of_the_server_an_instance_lives_and_nothing_is_known_of_its_rooms(table: Table) -> None:
    """Which empties what is not logged."""
    table.tell(THERE, {1: RoomPresence(2)})
    table.sql("TRUNCATE presence, presence_instances")
    assert table.beat(THERE) == set()
    table.tell(THERE, {1: RoomPresence(2)})
    assert table.others() == {1: RoomPresence(2)}


class TestBesideThePreviousVersion:
    def test_either_sees_the_members_of_the_other_while_they_live(self, table: Table) -> None:
        assert table.sql(_PREVIOUS_BEAT, "old", "1") == [(False,)]
        table.sql(_PREVIOUS_CHANGE, "old", "1", 4, 5)
        table.tell(THERE, {1: RoomPresence(2, ((ANN, 1),))})
        assert table.others() == {1: RoomPresence(2, ((ANN, 1),)), 4: RoomPresence(5)}
        assert table.sql(_PREVIOUS_OTHERS, "old", "1", SILENT_SECONDS) == [(1, 2, [[1, "ann", 1]], False)]
        table.silence(THERE, 5)
        table.sql("UPDATE presence_instances SET seen_at = seen_at - interval '5 seconds' WHERE server_id = 'old'")
        assert table.others() == {}
        assert table.sql(_PREVIOUS_OTHERS, "old", "1", SILENT_SECONDS) == []
        assert table.beat(THERE) == {1}
        assert table.sql(_PREVIOUS_BEAT, "old", "1") == [(True,)]
        assert table.others() == {1: RoomPresence(2, ((ANN, 1),)), 4: RoomPresence(5)}
        assert len(table.sql(_PREVIOUS_OTHERS, "old", "1", SILENT_SECONDS)) == 1

    def test_when_either_leaves_the_other_does_not_see_it_any_more(self, table: Table) -> None:
        table.sql(_PREVIOUS_BEAT, "old", "1")
        table.sql(_PREVIOUS_CHANGE, "old", "1", 4, 5)
        table.tell(THERE, {1: RoomPresence(2)})
        table.leave(THERE)
        assert table.sql(_PREVIOUS_OTHERS, "old", "1", SILENT_SECONDS) == []
        table.sql(_PREVIOUS_LEAVE, "old", "1")
        assert table.others() == {}

    def test_one_that_it_forgets_while_it_is_paused_has_its_rooms_told_anew(self, table: Table) -> None:
        table.tell(THERE, {1: RoomPresence(2)})
        table.silence(THERE, 61)
        table.sql(_PREVIOUS_FORGET)
        assert table.beat(THERE) == set()
        table.tell(THERE, {1: RoomPresence(2)})
        assert table.others() == {1: RoomPresence(2)}
        assert len(table.sql(_PREVIOUS_OTHERS, "old", "1", SILENT_SECONDS)) == 1
