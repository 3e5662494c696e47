"""The table of runs: alive, dead, claimed by one, forgotten; by the database's clock."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import psycopg2
import pytest
from zope.interface.verify import verifyObject

from chatflow.contracts.membership import IMembershipTable, Run
from chatflow.errors import StartupError, Unavailable
from chatflow.lifecycle.blocking import at_once
from chatflow.persistence.membership import BlockingTransactions, MembershipTable, _claim_in_thread, open_membership
from chatflow.persistence.sessions import SessionLimits
from testbed.postgres import execute
from testbed.threads import run_together

A = Run("a", "1", "queue-a-1")
B = Run("b", "1", "queue-b-1")
SILENT_SECONDS = 60.0


@pytest.fixture
def connection(database_url: str) -> Iterator[Any]:
    with closing(psycopg2.connect(database_url)) as connection:
        yield connection


@pytest.fixture
def table(connection: Any) -> MembershipTable:
    # Who has to wait for a lock fails instead.
    table = MembershipTable(BlockingTransactions(connection, SessionLimits(lock_seconds=5)))
    assert verifyObject(IMembershipTable, table)
    return table


def age(url: str, run: Run, seconds: float, column: str = "heartbeat_at") -> None:
    """Let it have been so long ago."""
    execute(
        url,
        f"UPDATE instances SET {column} = now() - make_interval(secs => %s) WHERE server_id = %s AND start = %s",
        (seconds, run.server_id, run.run_id),
    )


def register(table: MembershipTable, *instances: Run) -> None:
    for instance in instances:
        at_once(table.register(instance, None))


def claim(table: MembershipTable) -> list[Run]:
    return sorted(at_once(table.claim_dead(SILENT_SECONDS)), key=str)


def test_one_that_registered_is_known_and_one_that_left_is_not(table: MembershipTable) -> None:
    assert at_once(table.beat(A)) is None
    register(table, A, B)
    assert at_once(table.beat(A)) == []
    assert set(at_once(table.fanout_queues())) == {"queue-a-1", "queue-b-1"}
    at_once(table.leave(A))
    assert at_once(table.beat(A)) is None
    assert at_once(table.beat(B)) == []


def test_each_start_of_a_server_has_its_own_entry(table: MembershipTable) -> None:
    again = Run("a", "2", "queue-a-2")
    register(table, A, again)
    at_once(table.leave(A))
    assert at_once(table.beat(again)) == []


def test_the_dead_are_those_that_were_silent_for_too_long(table: MembershipTable, database_url: str) -> None:
    register(table, A, B)
    age(database_url, A, 61)
    age(database_url, B, 59)
    assert at_once(table.dead(SILENT_SECONDS)) == [A]
    assert at_once(table.dead(SILENT_SECONDS)) == [A]  # to look changes nothing
    assert claim(table) == [A]


def test_a_heartbeat_makes_alive_again_before_a_claim_and_not_after_it(
    table: MembershipTable, database_url: str
) -> None:
    register(table, A)
    age(database_url, A, 61)
    assert at_once(table.beat(A)) == []
    assert claim(table) == []
    age(database_url, A, 61)
    assert claim(table) == [A]
    assert at_once(table.beat(A)) is None
    assert at_once(table.dead(SILENT_SECONDS)) == [A]


def test_what_is_claimed_is_given_to_nobody_else_until_the_claim_is_old(
    table: MembershipTable, database_url: str
) -> None:
    register(table, A)
    age(database_url, A, 61)
    assert claim(table) == [A]
    assert claim(table) == []
    age(database_url, A, 121, "claimed_at")
    assert claim(table) == [A]
    at_once(table.forget(A))
    assert at_once(table.fanout_queues()) == set()


def test_of_many_that_claim_at_once_one_is_given_each(table: MembershipTable, database_url: str) -> None:
    dead = [Run(f"s{number}", "1", f"queue-{number}") for number in range(20)]
    register(table, *dead)
    for instance in dead:
        age(database_url, instance, 61)

    def run() -> list[Run]:
        with closing(psycopg2.connect(database_url)) as connection:
            return claim(MembershipTable(BlockingTransactions(connection)))

    claimed = [instance for result in run_together([run] * 4) for instance in result]
    assert sorted(claimed, key=str) == sorted(dead, key=str)


def test_who_comes_second_does_not_wait(table: MembershipTable, database_url: str) -> None:
    register(table, A)
    age(database_url, A, 61)
    with closing(psycopg2.connect(database_url)) as first:
        with first.cursor() as cursor:
            assert _claim_in_thread(cursor, SILENT_SECONDS) == [A]
            execute(database_url, "INSERT INTO instances VALUES ('b', '1', 'q', now(), now() - interval '1 hour')")
            assert claim(table) == []
        first.commit()
    assert claim(table) == [Run("b", "1", "q")]


def test_an_instance_that_registers_again_is_alive_again(table: MembershipTable, database_url: str) -> None:
    register(table, A)
    age(database_url, A, 61)
    claim(table)
    register(table, A)
    assert at_once(table.beat(A)) == []
    assert at_once(table.dead(SILENT_SECONDS)) == []


def test_it_can_be_registered_before_the_reactor_runs(table: MembershipTable, database_url: str) -> None:
    with open_membership(database_url) as blocking:
        at_once(blocking.register(A, None))
    assert at_once(table.beat(A)) == []


def test_a_database_that_is_away_is_said_to_be(table: MembershipTable, connection: Any, database_url: str) -> None:
    execute(database_url, "SELECT pg_terminate_backend(%s)", (connection.get_backend_pid(),))
    with pytest.raises(Unavailable, match="heartbeat"):
        at_once(table.beat(A))
    with pytest.raises(StartupError, match="cannot connect"), open_membership(f"{database_url}_not_there"):
        pass
