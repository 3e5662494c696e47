"""Views are refreshed once for all who ask, not too often, and nobody is told of a refresh that was begun too early."""

from __future__ import annotations

from contextlib import closing

import psycopg2
import pytest
from twisted.internet.defer import Deferred

from chatflow.errors import Unavailable
from chatflow.persistence.commit import commit_in_thread
from chatflow.persistence.refresh import ADVISORY_LOCK, MIN_AGE_SECONDS, VIEWS, Refresher, refresh_in_thread
from testbed.postgres import execute
from tests.support.chat import make_envelope


class TestTwoInstances:
    def test_on_a_timer_one_refreshes_and_the_other_finds_it_done(self, database_url: str) -> None:
        assert refresh_in_thread(database_url, "a", 60) == 0.0
        age_seconds = refresh_in_thread(database_url, "b", 60)
        assert age_seconds is not None
        assert 0 < age_seconds < 60
        assert execute(database_url, "SELECT DISTINCT server_id FROM view_refreshes") == [("a",)]

    def test_an_interval_later_the_next_one_does(self, database_url: str) -> None:
        refresh_in_thread(database_url, "a", 60)
        # One of them is enough: a refresh may have ended in the middle.
        old = "UPDATE view_refreshes SET refreshed_at = now() - interval '61 s' WHERE view_name = %s"
        execute(database_url, old, (VIEWS[-1],))
        assert refresh_in_thread(database_url, "b", 60) == 0.0
        assert execute(database_url, "SELECT DISTINCT server_id FROM view_refreshes") == [("b",)]
        execute(database_url, "DELETE FROM view_refreshes WHERE view_name = %s", (VIEWS[0],))
        assert refresh_in_thread(database_url, "a", 60) == 0.0

    def test_while_one_does_the_other_does_not(self, database_url: str) -> None:
        with closing(psycopg2.connect(database_url)) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_lock(%s)", (ADVISORY_LOCK,))
            assert refresh_in_thread(database_url, "b") is None
        assert execute(database_url, "SELECT * FROM view_refreshes") == []


def test_what_is_stored_while_a_view_is_refreshed_makes_it_older_than_what_is_held(database_url: str) -> None:
    refresh_in_thread(database_url, "a")
    with closing(psycopg2.connect(database_url)) as connection, connection, connection.cursor() as cursor:
        commit_in_thread(cursor, [make_envelope(1, "a", "b")])
    assert execute(database_url, "SELECT DISTINCT first_seqs, last_seqs FROM view_refreshes") == [(0, 0)]
    refresh_in_thread(database_url, "a")
    assert execute(database_url, "SELECT DISTINCT first_seqs, last_seqs FROM view_refreshes") == [(1, 2)]


class RefresherRig:
    """:ivar begun: refreshes that the test ends, each with the seconds within which none is needed."""

    def __init__(self, interval_seconds: float = 100.0) -> None:
        self.begun: list[tuple[float, Deferred[float | None]]] = []
        self.refresher = Refresher(self._begin, interval_seconds)

    def _begin(self, unless_within_seconds: float) -> Deferred[float | None]:
        self.begun.append((unless_within_seconds, Deferred()))
        return self.begun[-1][1]

    def ask(self) -> list[object]:
        """What it is told, once it is: an age, or the text of a failure."""
        told: list[object] = []
        asked = Deferred.fromCoroutine(self.refresher.now())
        asked.addCallbacks(told.append, lambda failure: told.append(failure.getErrorMessage()))
        return told


class TestWhoAsks:
    def test_who_asks_during_a_refresh_is_told_of_the_next_one_which_all_of_them_share(self) -> None:
        rig = RefresherRig()
        first, *others = rig.ask(), rig.ask(), rig.ask()
        assert len(rig.begun) == 1
        rig.begun[0][1].callback(0.0)
        assert (first, others) == ([0.0], [[], []])
        assert [seconds for seconds, _ in rig.begun] == [MIN_AGE_SECONDS, MIN_AGE_SECONDS]
        last = rig.ask()
        rig.begun[1][1].callback(2.5)
        assert (others, last) == ([[2.5], [2.5]], [])
        rig.begun[2][1].callback(None)
        assert last == [None]
        assert len(rig.begun) == 3

    def test_a_failure_is_of_those_alone_who_waited_for_it(self) -> None:
        rig = RefresherRig()
        first, other = rig.ask(), rig.ask()
        rig.begun[0][1].errback(Unavailable("away"))
        rig.begun[1][1].callback(0.0)
        assert (first, other) == (["away"], [0.0])

    def test_the_timer_leaves_one_under_way_alone_and_survives_a_failure(self) -> None:
        rig = RefresherRig()
        rig.ask()
        Deferred.fromCoroutine(rig.refresher.on_timer())
        rig.begun[0][1].callback(0.0)
        assert len(rig.begun) == 1
        timer = Deferred.fromCoroutine(rig.refresher.on_timer())
        assert rig.begun[1][0] == pytest.approx(90)
        rig.begun[1][1].errback(Unavailable("away"))
        assert timer.called

    def test_a_stop_waits_for_no_refresh_and_none_is_begun_any_more(self) -> None:
        rig = RefresherRig()
        timer, asked = Deferred.fromCoroutine(rig.refresher.on_timer()), rig.ask()
        rig.refresher.stop()
        assert timer.called
        assert "stops" in str(asked[0])
        assert "stops" in str(rig.ask()[0])
        rig.begun[0][1].callback(0.0)  # later, by the thread
        assert len(rig.begun) == 1
