"""What an instance knows of orders: from the start on, with every look, and while the database is away."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
from attrs import evolve
from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent
from zope.interface import implementer
from zope.interface.verify import verifyObject

from chatflow.contracts.moderation import Action, ISanctionTable, Sanction, Sanctions, Subject
from chatflow.errors import Refused, Unavailable
from chatflow.lifecycle.blocking import at_once
from chatflow.lifecycle.callback_service import CallbackService
from chatflow.rooms.moderator import Moderator
from chatflow.rooms.sanction_watch import SanctionWatch
from tests.rooms.test_rules import order


@implementer(ISanctionTable)
class Table:
    """Tells what the test says."""

    def __init__(self) -> None:
        self.found: Sanctions | None = Sanctions("0", [])
        self.asked: list[str | None] = []

    async def read(self, known_version: str | None) -> Sanctions | None:
        self.asked.append(known_version)
        if self.found is None:
            raise Unavailable("away")
        return None if self.found.version == known_version else self.found

    async def order(self, action: Action, subject: Subject, **_: Any) -> Sanction:
        raise NotImplementedError

    async def lift(self, action: Action, subject: Subject, **_: Any) -> Sanction | None:
        raise NotImplementedError


class Rig:
    def __init__(self) -> None:
        self.clock = Clock()
        self.table = Table()
        verifyObject(ISanctionTable, self.table)
        self.moderator = Moderator()
        self.orders: list[Sanction] = []

        @contextmanager
        def open_table() -> Iterator[Table]:
            yield self.table

        self.watch = SanctionWatch(
            clock=self.clock,
            moderator=self.moderator,
            table=self.table,
            open_table=open_table,
            connection=CallbackService(),
        )
        self.watch.on_orders = self.orders.extend

    def tell(self, version: str, *in_force: Sanction, ended: Sequence[Sanction] = ()) -> None:
        """The database says so at the next look."""
        self.table.found = Sanctions(version, in_force, ended)
        at_once(self.watch.refresh())

    def is_banned(self, user_id: int) -> bool:
        try:
            self.moderator.check_entry(1, (user_id,), None)
        except Refused:
            return True
        return False


@pytest.fixture
def rig() -> Rig:
    return Rig()


def log_of(events: Sequence[Any]) -> list[str | None]:
    return [formatEvent(event) for event in events]


def test_a_daemon_that_starts_knows_what_is_in_force_and_carries_nothing_out(rig: Rig) -> None:
    rig.table.found = Sanctions("1", [order("ban", 7), order("disconnect", 8)])
    rig.watch.load()
    assert rig.is_banned(7) and not rig.is_banned(8)
    assert rig.orders == []


def test_a_change_is_learnt_once(rig: Rig) -> None:
    rig.watch.load()
    ban, kick, mute = order("ban", 7), order("disconnect", 8), order("mute", 9)
    rig.tell("1", ban, kick, mute)
    assert rig.is_banned(7) and rig.orders == [ban, kick]
    at_once(rig.watch.refresh())
    rig.tell("2", ban, kick, mute, order("mute", 10))
    assert rig.orders == [ban, kick]
    assert rig.table.asked == [None, "0", "1", "1"]


def test_the_same_order_again_is_carried_out_again(rig: Rig) -> None:
    kick = order("disconnect", 8)
    rig.tell("1", kick)
    rig.tell("2", evolve(kick, ordered_at_us=5))
    assert [one.ordered_at_us for one in rig.orders] == [0, 5]


def test_what_is_lifted_is_out_of_force(rig: Rig) -> None:
    rig.tell("1", order("ban", 7), order("ban", 8))
    rig.tell("2", order("ban", 8), ended=[evolve(order("ban", 7), lifted_by="you")])
    assert not rig.is_banned(7) and rig.is_banned(8)
    rig.tell("3")
    assert rig.moderator.rules is None, "nothing more is paid for it"


def test_one_with_an_end_ends_even_while_the_database_is_away(rig: Rig) -> None:
    rig.tell("1", order("ban", 7, until_us=1), order("ban", 8))  # 60 s
    rig.table.found = None
    rig.clock.advance(59)
    at_once(rig.watch.refresh())
    assert rig.is_banned(7)
    rig.clock.advance(1)
    at_once(rig.watch.refresh())
    assert not rig.is_banned(7) and rig.is_banned(8)


def test_while_the_database_is_away_what_is_known_stays_and_its_age_is_told(rig: Rig) -> None:
    rig.tell("1", order("ban", 7))
    rig.table.found = None
    rig.clock.advance(100)
    at_once(rig.watch.refresh())
    figures = {reading.name: reading.read() for reading in rig.watch.readings()}
    assert rig.is_banned(7)
    assert figures["chatflow_sanctions"] == {"mute": 0, "ban": 1}
    assert figures["chatflow_sanctions_age_seconds"] == 100


def test_each_order_and_its_end_are_a_line_in_the_log_with_who_what_and_until_when(rig: Rig) -> None:
    mute = evolve(order("mute", 7, "192.0.2.0/24", 3, reason="sp\nam", until_us=1_795_429_800_000_000), by="me@host")
    with capturedLogs() as events:
        rig.tell("1", mute, order("ban", 8))
        rig.tell("2", ended=[evolve(mute, lifted_by="you"), evolve(order("ban", 99), lifted_by="you")])
        rig.tell("3", order("ban", 9, until_us=1))
        rig.clock.advance(60)
        at_once(rig.watch.refresh())
    assert log_of(events) == [
        "mute of user 7, address 192.0.2.0/24, room 3 until 2026-11-23T10:30:00.000000Z, ordered by me@host: sp\\nam",
        "ban of user 8 until it is lifted, ordered by me: no reason is given",
        "mute of user 7, address 192.0.2.0/24, room 3 is lifted by you",
        "ban of user 9 until 1970-01-01T00:00:00.000001Z, ordered by me: no reason is given",
        "ban of user 9 is over",
    ]
    fields = {name: events[0][name] for name in ("action", "user_id", "network", "room", "by", "until")}
    assert fields == {
        "action": "mute",
        "user_id": 7,
        "network": "192.0.2.0/24",
        "room": 3,
        "by": "me@host",
        "until": "2026-11-23T10:30:00.000000Z",
    }
