"""Who is in a room: exact here, told to the others once a beat, and to those who watch only when it has changed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

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

    :ivar known: the rooms of which something is known; None while nobody can be told.
    :ivar away: does not answer. ``away_then``: no more, once it has been beaten.
    """

    def __init__(self) -> None:
        self.told: list[dict[int, RoomPresence]] = []
        self.there: dict[int, RoomPresence] = {}
        self.known: set[int] | None = set()
        self.away = False
        self.away_then = False
        self.reads = 0
        self.beats = 0

    async def beat(self) -> Collection[int] | None:
        self._answer()
        self.beats += 1
        self.away = self.away_then
        return self.known

    async def tell(self, changed: Mapping[int, RoomPresence]) -> None:
        self._answer()
        self.told.append(dict(changed))
        assert self.known is not None
        for room, presence in changed.items():
            (self.known.add if presence.members else self.known.discard)(room)

    async def others(self) -> Mapping[int, RoomPresence]:
        self.reads += 1
        self._answer()
        return dict(self.there)

    def _answer(self) -> None:
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
    assert here.table.told == [{1: RoomPresence(1, ((BOB, 1),))}]
    assert here.table.beats == 2


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
    here.table.known = set()
    here.beat()
    assert here.table.told == 2 * [{1: RoomPresence(1)}]


def test_one_of_which_a_room_is_known_that_all_have_left_tells_so() -> None:
    here = Here()
    here.table.known = {3}
    here.beat()
    here.beat()
    assert here.table.told == [{3: RoomPresence()}]


def test_what_changed_while_nobody_could_be_told_is_told_later() -> None:
    """Such as while another queue is attached, after this instance was taken for dead."""
    here = Here()
    here.presence.joined(1, None)
    here.beat()
    known, here.table.known = here.table.known, None
    here.presence.joined(1, None)
    here.beat()
    here.table.known = known
    here.beat()
    assert here.table.told == [{1: RoomPresence(1)}, {1: RoomPresence(2)}]


def test_so_it_does_later_if_that_could_not_be_told_at_once() -> None:
    here = Here()
    here.presence.joined(1, None)
    here.beat()
    here.table.known, here.table.away_then = set(), True
    here.beat()
    here.table.away = here.table.away_then = False
    here.beat()
    assert here.table.told == 2 * [{1: RoomPresence(1)}]
    assert here.presence.failed_beats == 1


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


def test_more_users_than_are_shown_are_counted_all_the_same() -> None:
    here = Here()
    for number in range(MAX_SHOWN_USERS + 1):
        here.presence.joined(1, Who(number + 1, f"user{number}"))
    shown = here.room()
    assert (shown.members, len(shown.users), shown.truncated) == (MAX_SHOWN_USERS + 1, MAX_SHOWN_USERS, True)
