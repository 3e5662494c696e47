"""Who is in a room: exact here, told to the others once a beat, and to those who watch only when it has changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from twisted.internet.task import Clock
from zope.interface import implementer

from chatflow.contracts.members import IMember
from chatflow.contracts.membership import IPresenceTable, RoomPresence, Who
from chatflow.errors import Unavailable
from chatflow.lifecycle.blocking import at_once
from chatflow.rooms.presence import BEAT_SECONDS, FRESH_SECONDS, MAX_SHOWN_USERS, SILENT_SECONDS, Presence

ANN, BOB = Who(1, "ann"), Who(2, "bob")


@implementer(IPresenceTable)
class Table:
    """What was told, and what the others are said to have told.

    :ivar away: does not answer. ``away_then``: no more, once it has said that this instance was not known.
    """

    def __init__(self) -> None:
        self.told: list[dict[int, RoomPresence]] = []
        self.there: dict[int, RoomPresence] = {}
        self.known = True
        self.away = False
        self.away_then = False
        self.reads = 0

    async def beat(self, changed: Mapping[int, RoomPresence]) -> bool:
        if self.away:
            raise Unavailable("away")
        self.told.append(dict(changed))
        known, self.known = self.known, True
        self.away = not known and self.away_then
        return known

    async def others(self) -> Mapping[int, RoomPresence]:
        self.reads += 1
        if self.away:
            raise Unavailable("away")
        return dict(self.there)

    async def leave(self) -> None:
        if self.away:
            raise Unavailable("away")


@implementer(IMember)
class Watcher:
    def __init__(self, on_deliver: Callable[[], object] = lambda: None) -> None:
        self.blocks: list[bytes] = []
        self._on_deliver = on_deliver

    def deliver(self, block: bytes) -> None:
        self.blocks.append(block)
        self._on_deliver()


class Here:
    def __init__(self) -> None:
        self.clock, self.table = Clock(), Table()
        self.presence = Presence(
            clock=self.clock, table=self.table, encode=lambda room, here: f"{room}:{here.members}".encode()
        )

    def room(self, room: int = 1) -> RoomPresence:
        return at_once(self.presence.room(room))

    def beat(self) -> None:
        at_once(self.presence.beat())
        self.clock.advance(2)


def test_every_connection_counts_and_a_user_is_one_entry() -> None:
    here = Here()
    for who in (ANN, None, BOB, ANN):
        here.presence.joined(1, who)
    assert here.room() == RoomPresence(4, ((ANN, 2), (BOB, 1)))
    here.presence.left(1, ANN)
    here.presence.left(1, BOB)
    assert here.room() == RoomPresence(2, ((ANN, 1),))
    assert here.room(2) == RoomPresence()


def test_those_of_other_instances_are_added() -> None:
    here = Here()
    here.presence.joined(1, ANN)
    here.table.there = {1: RoomPresence(5, ((ANN, 2), (BOB, 1)), True), 3: RoomPresence(7)}
    assert here.room() == RoomPresence(6, ((ANN, 3), (BOB, 1)), True)
    assert at_once(here.presence.members()) == {1: 6, 3: 7}


def test_a_thousand_changes_between_two_beats_are_told_once() -> None:
    here = Here()
    for _ in range(1000):
        here.presence.joined(1, ANN)
        here.presence.left(1, ANN)
    here.presence.joined(1, BOB)
    here.beat()
    here.beat()
    assert here.table.told == [{1: RoomPresence(1, ((BOB, 1),))}, {}]


def test_a_room_that_all_have_left_is_told_as_empty() -> None:
    here = Here()
    here.presence.joined(1, ANN)
    here.beat()
    here.presence.left(1, ANN)
    here.beat()
    assert here.table.told[1:] == [{1: RoomPresence()}]


def test_an_instance_that_was_forgotten_tells_of_all_its_rooms() -> None:
    here = Here()
    here.presence.joined(1, None)
    here.beat()
    here.table.known = False
    here.beat()
    assert here.table.told[-2:] == [{}, {1: RoomPresence(1)}]


def test_so_it_does_later_if_that_could_not_be_told_at_once() -> None:
    here = Here()
    here.presence.joined(1, None)
    here.beat()
    here.table.known, here.table.away_then = False, True
    here.beat()
    here.table.away = here.table.away_then = False
    here.beat()
    assert here.table.told[-2:] == [{}, {1: RoomPresence(1)}]


def test_what_could_not_be_told_is_told_later() -> None:
    here = Here()
    here.presence.joined(1, None)
    here.table.away = True
    here.beat()
    here.table.away = False
    here.beat()
    assert here.table.told == [{1: RoomPresence(1)}]


def test_who_watches_is_told_at_first_and_then_only_of_changes() -> None:
    here, watcher = Here(), Watcher()
    here.presence.watch(1, watcher)
    here.beat()
    here.beat()
    here.presence.joined(1, None)
    here.table.there = {1: RoomPresence(5)}
    here.beat()
    here.presence.unwatch(1, watcher)
    here.presence.joined(1, None)
    here.beat()
    assert watcher.blocks == [b"1:0", b"1:6"]


def test_who_is_closed_by_what_it_is_told_or_by_what_another_is_told_does_not_disturb_the_others() -> None:
    here = Here()
    one, two = Watcher(lambda: here.presence.unwatch(1, one)), Watcher(lambda: here.presence.unwatch(3, three))
    three, four = Watcher(), Watcher()
    for room, member in ((1, one), (2, two), (3, three), (4, four)):
        here.presence.watch(room, member)
    here.beat()
    assert [one.blocks, two.blocks, three.blocks, four.blocks] == [[b"1:0"], [b"2:0"], [], [b"4:0"]]


def test_who_dies_is_gone_within_five_seconds_and_who_misses_a_beat_is_not() -> None:
    assert SILENT_SECONDS + BEAT_SECONDS + FRESH_SECONDS <= 5
    assert 2 * BEAT_SECONDS < SILENT_SECONDS


def test_many_who_ask_share_one_read_and_nobody_reads_while_nobody_asks() -> None:
    here = Here()
    for _ in range(5):
        here.beat()
    assert here.table.reads == 0
    for _ in range(100):
        here.room()
    assert here.table.reads == 1


def test_while_the_database_is_away_the_last_known_of_others_is_shown_until_it_is_too_old() -> None:
    here = Here()
    here.table.there = {1: RoomPresence(5)}
    here.presence.joined(1, None)
    assert here.room().members == 6
    here.table.away = True
    here.clock.advance(5)
    assert here.room().members == 6
    here.clock.advance(20)
    assert here.room().members == 1
    at_once(here.presence.leave())


def test_more_users_than_are_shown_are_counted_all_the_same() -> None:
    here = Here()
    for number in range(MAX_SHOWN_USERS + 1):
        here.presence.joined(1, Who(number + 1, f"user{number}"))
    shown = here.room()
    assert (shown.members, len(shown.users), shown.truncated) == (MAX_SHOWN_USERS + 1, MAX_SHOWN_USERS, True)
