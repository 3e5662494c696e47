"""What is wrong, and since when."""

from __future__ import annotations

from typing import Any

import pytest
from attrs import evolve

from chatflow.contracts.membership import InstanceState
from chatflow.edge.alarms import LAG_SECONDS, STUCK_SECONDS, Alarms, Facts, Roster, Server

WELL = Facts(database_away_seconds=None, waiting=0, batches=1, lag_seconds=0.0, ready=True, hears=True, dead_letters=0)


def keys(alarms: Alarms, now: float, **facts: Any) -> list[str]:
    return [alarm.key for alarm in alarms.look(now, evolve(WELL, **facts))]


def test_when_all_is_well_there_is_none() -> None:
    assert keys(Alarms(), 0.0) == []


@pytest.mark.parametrize(
    ("facts", "key", "level"),
    [
        ({"database_away_seconds": 4.0}, "database", "bad"),
        ({"lag_seconds": LAG_SECONDS}, "lag", "warn"),
        ({"hears": False, "ready": False}, "deaf", "bad"),
        ({"ready": False}, "ready", "warn"),
        ({"aws_failures_per_second": 0.5}, "aws", "warn"),
        ({"dead_letters": 1}, "dead letters", "warn"),
        ({"servers": [Server("n", "silent", 9.0, 12.0)]}, "instance n", "bad"),
        ({"servers": [Server("n", "lost", None, 70.0)]}, "instance n", "bad"),
    ],
)
def test_each_trouble_has_its_own(facts: dict[str, Any], key: str, level: str) -> None:
    (alarm,) = Alarms().look(0.0, evolve(WELL, **facts))
    assert (alarm.key, alarm.level) == (key, level)


@pytest.mark.parametrize("state", ["up", "left"])
def test_an_instance_that_lives_or_left_in_order_is_no_trouble(state: str) -> None:
    assert keys(Alarms(), 0.0, servers=[Server("n", state, None, 1.0)]) == []


def test_messages_that_wait_while_nothing_is_committed_are_one() -> None:
    alarms = Alarms()
    assert keys(alarms, 0.0, waiting=5) == []
    assert keys(alarms, STUCK_SECONDS - 0.1, waiting=6) == []
    (alarm,) = alarms.look(STUCK_SECONDS + 1, evolve(WELL, waiting=7))
    assert (alarm.key, alarm.since_seconds) == ("stuck", STUCK_SECONDS + 1)
    assert "7 messages wait" in alarm.text
    assert keys(alarms, STUCK_SECONDS + 2, waiting=7, batches=2) == [], "one was committed"


def test_messages_that_wait_under_load_are_none_while_commits_go_on() -> None:
    alarms = Alarms()
    for second in range(20):
        assert keys(alarms, float(second), waiting=1000, batches=second) == []


def test_a_database_that_is_away_explains_why_nothing_is_stored() -> None:
    alarms = Alarms()
    keys(alarms, 0.0, waiting=5)
    assert keys(alarms, 10.0, waiting=5, database_away_seconds=9.0) == ["database"]


def test_since_is_when_it_began_and_begins_anew_after_an_end() -> None:
    alarms = Alarms()
    keys(alarms, 10.0, lag_seconds=9.0)
    assert alarms.look(14.0, evolve(WELL, lag_seconds=9.0))[0].since_seconds == 4.0
    keys(alarms, 15.0)
    assert alarms.look(20.0, evolve(WELL, lag_seconds=9.0))[0].since_seconds == 0.0


def test_the_worst_comes_first_then_the_oldest() -> None:
    facts = {"dead_letters": 1, "lag_seconds": 9.0, "database_away_seconds": 2.0}
    servers = [Server("n", "silent", 9.0, 12.0)]
    alarms = Alarms()
    keys(alarms, 0.0, dead_letters=1)
    assert keys(alarms, 5.0, servers=servers, **facts) == ["instance n", "database", "dead letters", "lag"]


def _states(roster: Roster, now: float) -> dict[str, str]:
    return {server.id: server.state for server in roster.servers(now)}


def test_who_has_not_been_heard_for_long_is_silent() -> None:
    roster = Roster(11.0)
    roster.note(0.0, [InstanceState("a", 100.0, 4.0), InstanceState("b", 100.0, 11.0)])
    assert _states(roster, 0.0) == {"a": "up", "b": "silent"}


def test_who_is_gone_was_taken_for_dead_if_silent_before_else_it_left() -> None:
    roster = Roster(11.0)
    roster.note(0.0, [InstanceState("a", 9.0, 1.0), InstanceState("b", 9.0, 59.0), InstanceState("c", 9.0, 1.0)])
    roster.note(2.0, [InstanceState("c", 11.0, 3.0)])
    assert _states(roster, 2.0) == {"a": "left", "b": "lost", "c": "up"}
    roster.note(4.0, [InstanceState("b", 1.0, 0.5), InstanceState("c", 13.0, 0.0)])
    assert _states(roster, 4.0) == {"a": "left", "b": "up", "c": "up"}, "it came back"
    roster.note(700.0, [InstanceState("c", 709.0, 0.0)])
    assert _states(roster, 700.0) == {"c": "up"}, "nobody is remembered for good"


def test_who_cannot_read_the_table_blames_nobody() -> None:
    roster = Roster(11.0)
    roster.note(0.0, [InstanceState("a", 9.0, 1.0)])
    assert _states(roster, 10.0) == {"a": "up"}
    (server,) = roster.servers(500.0)
    assert (server.state, server.silent_seconds) == ("unknown", 501.0)
    assert keys(Alarms(), 500.0, servers=[server]) == []
