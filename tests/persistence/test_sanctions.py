"""The table of sanctions: ordered, replaced, over, lifted; by the database's clock."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from ipaddress import ip_network
from typing import Any

import psycopg2
import pytest
from zope.interface.verify import verifyObject

from chatflow.contracts import moderation
from chatflow.contracts.moderation import Action, ISanctionTable, Sanction, Sanctions, Subject
from chatflow.errors import StartupError, TooManySanctions, Unavailable
from chatflow.lifecycle.blocking import at_once
from chatflow.persistence import sanctions
from chatflow.persistence.membership import BlockingTransactions
from chatflow.persistence.sanctions import SanctionTable, open_sanctions
from chatflow.persistence.sessions import SessionLimits
from testbed.postgres import execute
from testbed.threads import run_together

USER = Subject(user_id=7)
EVERYTHING = Subject(7, ip_network("2001:db8::/64"), 3)


@pytest.fixture
def connection(database_url: str) -> Iterator[Any]:
    with closing(psycopg2.connect(database_url)) as connection:
        yield connection


@pytest.fixture
def table(connection: Any) -> SanctionTable:
    table = SanctionTable(BlockingTransactions(connection, SessionLimits(lock_seconds=5)))
    assert verifyObject(ISanctionTable, table)
    return table


def order(
    table: SanctionTable,
    action: Action = "ban",
    subject: Subject = USER,
    seconds: float | None = None,
    reason: str = "",
) -> Sanction:
    return at_once(table.order(action, subject, reason=reason, by="me", for_seconds=seconds))


def read(table: SanctionTable, version: str | None = None) -> Sanctions:
    found = at_once(table.read(version))
    assert found is not None
    return found


def in_force(table: SanctionTable) -> list[tuple[Action, Subject]]:
    return [(one.action, one.subject) for one in read(table).in_force]


def test_what_is_ordered_is_read_as_it_is(table: SanctionTable) -> None:
    ordered = order(table, "mute", EVERYTHING, 60, "spam “so”")
    (found,) = read(table).in_force
    assert (found.action, found.subject, found.reason, found.by) == ("mute", EVERYTHING, "spam “so”", "me")
    assert found.ordered_at_us == ordered.ordered_at_us
    assert found.ends_at_us == found.ordered_at_us + 60_000_000
    assert found.left_seconds is not None and 0 < found.left_seconds <= 60
    assert found.age_seconds + found.left_seconds == pytest.approx(60)


def test_who_knows_the_version_is_told_nothing_until_something_changes(table: SanctionTable) -> None:
    nothing = read(table)
    assert nothing.in_force == [] and at_once(table.read(nothing.version)) is None
    order(table)
    banned = read(table, nothing.version)
    assert len(banned.in_force) == 1 and at_once(table.read(banned.version)) is None
    order(table, "mute")
    assert at_once(table.lift("ban", USER, by="you")) is not None
    found = read(table, banned.version)
    assert [one.action for one in found.in_force] == ["mute"]
    assert [(one.action, one.lifted_by) for one in found.ended] == [("ban", "you")]


def test_the_same_order_again_takes_the_place_of_the_first(table: SanctionTable) -> None:
    order(table, seconds=60, reason="first")
    order(table, reason="second")
    (found,) = read(table).in_force
    assert (found.reason, found.ends_at_us) == ("second", None)


def test_subjects_that_differ_in_any_part_are_different(table: SanctionTable) -> None:
    subjects = [Subject(7), Subject(8), Subject(7, room=1), Subject(room=1), Subject(network=ip_network("10.0.0.0/8"))]
    subjects.append(Subject(network=ip_network("10.0.0.0/9")))
    for subject in subjects:
        order(table, "ban", subject)
        order(table, "mute", subject)
    assert in_force(table) == [(action, one) for one in subjects for action in ("ban", "mute")]
    assert at_once(table.lift("ban", Subject(7), by="me")) is not None
    assert ("ban", Subject(7)) not in in_force(table) and len(in_force(table)) == 2 * len(subjects) - 1


def test_one_that_has_ended_or_is_lifted_is_not_in_force_and_cannot_be_lifted(
    table: SanctionTable, database_url: str
) -> None:
    order(table, seconds=60)
    execute(database_url, "UPDATE sanctions SET ends_at = now() - interval '1 second'")
    assert in_force(table) == []
    assert at_once(table.lift("ban", USER, by="me")) is None
    order(table)
    assert in_force(table) == [("ban", USER)]
    assert at_once(table.lift("ban", USER, by="me")) is not None
    assert at_once(table.lift("ban", USER, by="me")) is None
    assert in_force(table) == []
    order(table)
    assert in_force(table) == [("ban", USER)], "what was lifted may be ordered again"


def test_one_that_is_lifted_is_not_in_force_for_who_began_to_read_before(
    table: SanctionTable, connection: Any, database_url: str
) -> None:
    order(table)
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT now()")
        with open_sanctions(database_url) as other:
            assert at_once(other.lift("ban", USER, by="me")) is not None
        found = sanctions._read_in_thread(cursor, None)
        assert found is not None and found.in_force == []


def test_versions_grow_when_the_clock_was_set_back(table: SanctionTable, database_url: str) -> None:
    order(table)
    execute(database_url, "UPDATE sanctions SET changed_at = changed_at + interval '1 hour'")
    before = read(table)
    order(table, "mute")
    after = read(table, before.version)
    assert after.version > before.version and len(after.in_force) == 2
    assert at_once(table.lift("mute", USER, by="me")) is not None
    assert [one.action for one in read(table, after.version).in_force] == ["ban"]


def test_orders_at_once_all_count_and_each_has_a_version_of_its_own(database_url: str) -> None:
    def one(user: int) -> None:
        with open_sanctions(database_url) as table:
            order(table, "ban", Subject(user))

    run_together([lambda user=user: one(user) for user in range(1, 9)])  # type: ignore[misc]
    assert execute(database_url, "SELECT count(*), count(DISTINCT changed_at) FROM sanctions") == [(8, 8)]


def test_a_disconnection_is_told_for_an_hour(table: SanctionTable, database_url: str) -> None:
    order(table, "disconnect")
    assert in_force(table) == [("disconnect", USER)]
    execute(database_url, "UPDATE sanctions SET ends_at = ends_at - interval '1 hour'")
    assert in_force(table) == []


def test_what_ended_long_ago_is_forgotten_and_what_is_in_force_never(table: SanctionTable, database_url: str) -> None:
    for user in (1, 2, 3):
        order(table, "ban", Subject(user), seconds=60 if user > 1 else None)
    execute(database_url, "UPDATE sanctions SET ordered_at = ordered_at - interval '40 days' WHERE user_id < 3")
    execute(database_url, "UPDATE sanctions SET ends_at = ends_at - interval '40 days' WHERE user_id = 2")
    order(table, "ban", Subject(4))
    assert execute(database_url, "SELECT user_id FROM sanctions ORDER BY 1") == [(1,), (3,), (4,)]


def test_there_is_a_limit_and_lifting_makes_room(table: SanctionTable, database_url: str) -> None:
    execute(
        database_url,
        "INSERT INTO sanctions SELECT 'ban', user_id, NULL, NULL, '', 'me', now(), NULL, NULL,"
        " now() + user_id * interval '1 microsecond' FROM generate_series(1, %s) AS user_id",
        (moderation.MAX_SANCTIONS,),
    )
    with pytest.raises(TooManySanctions, match="10000 mutes and bans"):
        order(table, "mute")
    assert at_once(table.lift("ban", USER, by="me")) is not None
    order(table, "mute")
    assert len(read(table).in_force) == moderation.MAX_SANCTIONS


def test_a_subject_of_nothing_is_refused_by_the_database(table: SanctionTable) -> None:
    with pytest.raises(Unavailable, match="violates check constraint"):
        order(table, "ban", Subject())


def test_a_database_that_is_away_is_told_as_such(database_url: str) -> None:
    with open_sanctions(database_url) as table:
        execute(
            database_url,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'chatflow-admin'"
            " AND datname = current_database()",
        )
        with pytest.raises(Unavailable):
            read(table)
    with pytest.raises(StartupError, match="cannot connect"), open_sanctions("postgresql://localhost:1/x"):
        pass


def test_an_instance_asks_at_little_cost(table: SanctionTable, connection: Any) -> None:
    order(table)
    with connection, connection.cursor() as cursor:
        cursor.execute("SET enable_seqscan = off")
        cursor.execute(f"EXPLAIN {sanctions._VERSION}")
        plan = "\n".join(line for (line,) in cursor.fetchall())
    assert "Index Only Scan Backward using sanctions_changed_at" in plan, plan
