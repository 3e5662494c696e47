"""Instances tell each other of their members through the database, and the silent do not count."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import psycopg2
import pytest
from zope.interface.verify import verifyObject

from chatflow.contracts.membership import IPresenceTable, RoomPresence, Who
from chatflow.persistence.database import Database, SessionLimits
from chatflow.persistence.presence import PresenceTable, Start, beat_in_thread, leave_in_thread, others_in_thread
from chatflow.rooms.presence import SILENT_SECONDS
from tests.support.reactor import on_reactor, reactor

HERE, THERE, THIRD = Start("a", "1"), Start("b", "1"), Start("b", "2")
ANN, BOB = Who(1, "ann"), Who(2, "bob")


@pytest.fixture
def cursor(database_url: str) -> Iterator[Any]:
    with closing(psycopg2.connect(database_url)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            yield cursor


def silence(cursor: Any, instance: Start, seconds: float) -> None:
    moved = "UPDATE presence_instances SET seen_at = seen_at - make_interval(secs => %s) WHERE server_id = %s"
    cursor.execute(f"{moved} AND start = %s", (seconds, instance.server_id, instance.start))


def test_the_rooms_of_all_others_are_put_together(cursor: Any) -> None:
    beat_in_thread(cursor, HERE, {1: RoomPresence(9)})
    beat_in_thread(cursor, THERE, {1: RoomPresence(2, ((ANN, 1), (BOB, 1))), 2: RoomPresence(1)})
    beat_in_thread(cursor, THIRD, {1: RoomPresence(3, ((ANN, 2),), True)})
    found = others_in_thread(cursor, HERE)
    assert found[2] == RoomPresence(1)
    assert (found[1].members, dict(found[1].users), found[1].truncated) == (5, {ANN: 3, BOB: 1}, True)


def test_a_beat_changes_only_the_rooms_that_it_names(cursor: Any) -> None:
    assert not beat_in_thread(cursor, THERE, {1: RoomPresence(2), 2: RoomPresence(2)})
    assert beat_in_thread(cursor, THERE, {1: RoomPresence(5), 2: RoomPresence(0)})
    assert beat_in_thread(cursor, THERE, {})
    assert others_in_thread(cursor, HERE) == {1: RoomPresence(5)}
    cursor.execute("SELECT room_id FROM presence")
    assert cursor.fetchall() == [(1,)]


@pytest.mark.parametrize("seconds", [-3600, 3600])
def test_after_the_databases_clock_was_set_the_silent_do_not_count_and_the_living_do_again_with_their_next_beat(
    cursor: Any, seconds: float
) -> None:
    beat_in_thread(cursor, THERE, {1: RoomPresence(2)})
    beat_in_thread(cursor, THIRD, {1: RoomPresence(3)})
    silence(cursor, THERE, seconds)
    silence(cursor, THIRD, seconds)
    assert others_in_thread(cursor, HERE) == {}
    assert beat_in_thread(cursor, THERE, {})
    assert others_in_thread(cursor, HERE) == {1: RoomPresence(2)}


def test_the_members_of_a_silent_instance_do_not_count_until_it_beats_again(cursor: Any) -> None:
    beat_in_thread(cursor, THERE, {1: RoomPresence(2)})
    silence(cursor, THERE, 5)
    assert others_in_thread(cursor, HERE) == {}
    assert beat_in_thread(cursor, THERE, {})
    assert others_in_thread(cursor, HERE) == {1: RoomPresence(2)}


@on_reactor
async def test_an_instance_that_stops_to_beat_is_gone_for_the_others(database_url: str, cursor: Any) -> None:
    database = Database(reactor=reactor, url=database_url, connections=1, limits=SessionLimits())
    database.start()
    try:
        here, there = PresenceTable(database, "a", "1"), PresenceTable(database, "b", "1")
        assert verifyObject(IPresenceTable, here)
        await there.beat({1: RoomPresence(2)})
        await here.beat({})
        assert await here.others() == {1: RoomPresence(2)}
        silence(cursor, THERE, SILENT_SECONDS)
        await here.beat({})
        assert await here.others() == {}
        assert await there.beat({})
        assert await here.others() == {1: RoomPresence(2)}
        await there.leave()
        assert await here.others() == {}
    finally:
        await database.stop()


def test_who_leaves_is_gone_at_once_and_the_dead_are_removed_by_the_next_who_starts(cursor: Any) -> None:
    beat_in_thread(cursor, THERE, {1: RoomPresence(2)})
    beat_in_thread(cursor, THIRD, {1: RoomPresence(1)})
    leave_in_thread(cursor, THERE)
    assert others_in_thread(cursor, HERE) == {1: RoomPresence(1)}
    silence(cursor, THIRD, 61)
    beat_in_thread(cursor, HERE, {})
    cursor.execute("SELECT count(*) FROM presence")
    assert cursor.fetchall() == [(0,)]
    assert not beat_in_thread(cursor, THIRD, {}), "it is told that it was forgotten"
