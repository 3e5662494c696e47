"""Batches grow while a flush is under way; every envelope is stored once and in order, or set aside, or given back."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any

import psycopg2
import pytest
import pytest_twisted
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import Clock, deferLater
from zope.interface import implementer
from zope.interface.verify import verifyObject

from chatflow.codec import envelopes
from chatflow.contracts.deadletters import IDeadLetters
from chatflow.contracts.envelopes import Envelope
from chatflow.contracts.writer import DeadLettered, Duplicate, IBatchWriter, Outcome, Stored
from chatflow.errors import NotStored, Unavailable
from chatflow.persistence.database import Database, SessionLimits
from chatflow.persistence.deadletters import DeadLetterTable
from chatflow.persistence.rhythm import Rhythm
from chatflow.persistence.writer import BatchWriter
from testbed.postgres import execute
from testbed.postgres_proxy import PostgresProxy
from testbed.recounting import recount
from tests.support.chat import make_envelope, make_message
from tests.support.reactor import on_reactor, reactor, until

_NAME = "chatflow test writer"
_WAITING = "SELECT 1 FROM pg_stat_activity WHERE application_name = %s AND wait_event_type = 'Lock'"
_KILL = "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE application_name = %s"


class Defective(int):
    """A user on whom the code fails, until it is mended: neither PostgreSQL nor the driver refuses anything."""

    mended = False

    def __str__(self) -> str:
        if not self.mended:
            raise RuntimeError("a defect")
        return super().__str__()


def make_defective(text: str, user: Defective) -> Envelope:
    """An envelope of room 1."""
    return make_envelope(1, messages=(make_message(text, user_id=user),))


class WriterRig:
    """A writer on a database of its own.

    :ivar flushes: messages of each flush that stored any, as observed.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.flushes: list[int] = []
        self._databases: list[Database] = []

    def writer(
        self, *, url: str | None = None, dead_letters: IDeadLetters | None = None, **options: Any
    ) -> BatchWriter:
        limits = SessionLimits(application_name=_NAME)
        self.database = Database(reactor=reactor, url=url or self.url, connections=1, limits=limits)
        self.database.start()
        self._databases.append(self.database)
        return BatchWriter(
            clock=(clock := options.pop("clock", reactor)),
            database=self.database,
            rhythm=(rhythm := options.pop("rhythm", Rhythm(clock=clock, ceiling_seconds=0.0))),
            wait_seconds=rhythm.wait_seconds,
            dead_letters=dead_letters or DeadLetterTable(self.database),
            batch_messages=options.pop("batch_messages", 1000),
            observe=lambda messages, seconds: self.flushes.append(messages),
            **options,
        )

    async def observed(self) -> list[int]:
        """The flushes, when the last has been observed; that comes after its envelopes' outcomes."""
        await deferLater(reactor, 0)
        return self.flushes

    def stop(self) -> Deferred[Any]:
        databases, self._databases = self._databases, []
        return gatherResults([database.stop() for database in databases])

    @contextmanager
    def commits_held(self) -> Iterator[Callable[[], Deferred[Any]]]:
        """Nothing can be committed in this context. Gives what waits until a commit is held up."""
        with closing(psycopg2.connect(self.url)) as connection, connection.cursor() as cursor:
            cursor.execute("LOCK TABLE rooms")
            yield lambda: Deferred.fromCoroutine(
                until(lambda: execute(self.url, _WAITING, (_NAME,)), "a commit is under way")
            )

    def refuse(self, condition: str) -> None:
        """PostgreSQL refuses messages that do not meet this."""
        execute(self.url, f"ALTER TABLE messages ADD CONSTRAINT no_poison CHECK ({condition})")

    def stored(self, room: int = 1) -> list[str]:
        """The room's texts in their order."""
        rows = execute(self.url, "SELECT message_text FROM messages WHERE room_id = %s ORDER BY seq", (room,))
        return [text for (text,) in rows]


@pytest_twisted.async_yield_fixture
async def rig(database_url: str) -> AsyncIterator[WriterRig]:
    execute(database_url, "INSERT INTO rooms (room_id) SELECT generate_series(1, 5)")
    rig = WriterRig(database_url)
    yield rig
    await rig.stop()
    assert recount(database_url) == {}


def gathering(clock: Clock) -> Rhythm:
    """A rhythm by which the next flush is to begin in half a second."""
    rhythm = Rhythm(clock=clock, ceiling_seconds=0.5)
    for _ in range(20):
        clock.advance(0.5)
        rhythm.began()
        rhythm.ended(10)
    return rhythm


def seqs(outcomes: Sequence[Outcome]) -> list[int]:
    """The first places of envelopes that are all stored."""
    places = []
    for outcome in outcomes:
        assert isinstance(outcome, Stored)
        places.append(outcome.first_seq)
    return places


def kinds(outcomes: Sequence[Outcome]) -> list[type]:
    return [type(outcome) for outcome in outcomes]


class TestOutcomes:
    @on_reactor
    async def test_each_envelope_gets_its_outcome_in_order(self, rig: WriterRig) -> None:
        writer = rig.writer()
        assert verifyObject(IBatchWriter, writer)
        first, second, other = make_envelope(1, "a", "b"), make_envelope(1, "c"), make_envelope(2, "d")
        assert await writer.write([first, other]) == [Stored(first, 1), Stored(other, 1)]
        outcomes = await writer.write([second, first, second])
        assert outcomes == [Stored(second, 3), Duplicate(1, 3), Duplicate(1, 3)]
        assert [stored.message.text for stored in Stored(first, 1).messages()] == ["a", "b"]
        assert (writer.stored, writer.batches, writer.pending_messages()) == (4, 2, 0)

    @on_reactor
    async def test_writing_nothing_does_nothing(self, rig: WriterRig) -> None:
        writer = rig.writer()
        assert await writer.write([]) == []
        assert seqs(await writer.write([make_envelope(1)])) == [1]
        assert await writer.write([]) == []
        assert seqs(await writer.write([make_envelope(1)])) == [2]
        assert await rig.observed() == [1, 1]

    @on_reactor
    async def test_a_failure_that_is_no_refusal_fails_the_write_and_not_the_writer(self, rig: WriterRig) -> None:
        writer = rig.writer()
        with pytest.raises(RuntimeError):
            await writer.write([make_defective("a", Defective(1)), make_envelope(2)])
        assert seqs(await writer.write([make_envelope(1)])) == [1]

    @on_reactor
    async def test_what_waits_behind_it_fails_too_so_that_it_is_not_stored_first(self, rig: WriterRig) -> None:
        writer = rig.writer(batch_messages=4)
        user = Defective(1)
        batch = [make_defective("0", user), *(make_envelope(1, str(number)) for number in range(1, 8))]
        with pytest.raises(RuntimeError):
            await writer.write(batch)
        assert rig.stored() == []
        user.mended = True
        assert kinds(await writer.write(batch)) == [Stored] * 8
        assert rig.stored() == list("01234567")

    @on_reactor
    async def test_a_failure_in_a_part_of_a_refused_batch_fails_the_later_part_of_the_same_rooms(
        self, rig: WriterRig
    ) -> None:
        # Refused as a whole for the forged one, before anything is written; the code fails on the first in its part.
        user = Defective(1)
        writer = rig.writer()
        forged = make_envelope(1, messages=(make_message("poison", username="a\tb"),))
        batch = [make_defective("first", user), make_envelope(2, "a"), forged, make_envelope(1, "last")]
        writing, other = writer.write(batch), writer.write([make_envelope(3, "b")])
        with pytest.raises(RuntimeError):
            await writing
        assert rig.stored() == []
        assert kinds(await other) == [Stored]
        user.mended = True
        assert kinds(await writer.write(batch)) == [Stored, Stored, DeadLettered, Stored]
        assert rig.stored() == ["first", "last"]

    @on_reactor
    async def test_a_write_is_over_once_all_of_it_is_settled(self, rig: WriterRig) -> None:
        writer = rig.writer(batch_messages=1)
        writing = writer.write([make_defective("bad", Defective(1)), make_envelope(2, "good")])
        with pytest.raises(RuntimeError):
            await writing
        assert rig.stored(2) == ["good"], "which was stored later"


class TestBatches:
    @on_reactor
    async def test_what_is_written_in_one_turn_is_one_flush(self, rig: WriterRig) -> None:
        writer = rig.writer()
        writes = [writer.write([make_envelope(room), make_envelope(room)]) for room in (1, 2, 3)]
        assert writer.pending_messages() == 6
        assert [seqs(outcomes) for outcomes in await gatherResults(writes)] == [[1, 2]] * 3
        assert await rig.observed() == [6]

    @on_reactor
    async def test_what_comes_while_a_flush_is_under_way_is_the_next(self, rig: WriterRig) -> None:
        writer = rig.writer()
        with rig.commits_held() as under_way:
            writes = [writer.write([make_envelope(1, "first")])]
            await under_way()
            for number in range(20):
                writes.append(writer.write([make_envelope(1, str(number))]))
            assert writer.pending_messages() == 20
        await gatherResults(writes)
        assert await rig.observed() == [1, 20]
        assert rig.stored() == ["first", *map(str, range(20))]

    @on_reactor
    async def test_a_flush_ends_before_it_exceeds_the_batch_size(self, rig: WriterRig) -> None:
        writer = rig.writer(batch_messages=10)
        sizes = (4, 4, 4, 6, 1, 25, 10, 5, 5, 1)
        await gatherResults([writer.write([make_envelope(1, *map(str, range(size)))]) for size in sizes])
        # An envelope of more than a batch goes alone.
        assert await rig.observed() == [8, 10, 1, 25, 10, 10, 1]
        assert len(rig.stored()) == sum(sizes)

    @on_reactor
    async def test_one_write_may_take_several_flushes(self, rig: WriterRig) -> None:
        writer = rig.writer(batch_messages=3)
        batch = [make_envelope(1, str(number)) for number in range(10)]
        assert seqs(await writer.write(batch)) == list(range(1, 11))
        assert await rig.observed() == [3, 3, 3, 1]

    @on_reactor
    async def test_a_flush_begins_when_the_rhythm_says_so_with_what_has_come_until_then(self, rig: WriterRig) -> None:
        clock = Clock()
        writer = rig.writer(clock=clock, rhythm=gathering(clock))
        writes = [writer.write([make_envelope(1)])]
        clock.advance(0.25)
        writes.append(writer.write([make_envelope(2)]))
        assert writer.pending_messages() == 2
        clock.advance(0.25)
        await gatherResults(writes)
        assert await rig.observed() == [2]


@implementer(IDeadLetters)
class HeldLetters:
    """Keeps letters when the test says so."""

    def __init__(self) -> None:
        self.kept: list[tuple[Envelope, str, Deferred[None]]] = []

    def keep(self, envelope: Envelope, reason: str) -> Deferred[None]:
        self.kept.append((envelope, reason, Deferred()))
        return self.kept[-1][2]

    async def count(self) -> int:
        return len(self.kept)


class TestPoison:
    @on_reactor
    async def test_what_postgresql_refuses_is_set_aside_and_the_others_are_stored_in_order(
        self, rig: WriterRig
    ) -> None:
        rig.refuse("message_text NOT LIKE 'poison%'")
        writer = rig.writer()
        batch = [
            make_envelope(1, "a"),
            make_envelope(2, "b"),
            make_envelope(1, "good", "poison 1"),
            make_envelope(3, "c", "d"),
            make_envelope(1, "e"),
            make_envelope(2, "poison 2"),
            make_envelope(2, "f"),
        ]
        outcomes = await writer.write(batch)
        assert kinds(outcomes) == [Stored, Stored, DeadLettered, Stored, Stored, DeadLettered, Stored]
        assert [rig.stored(room) for room in (1, 2, 3)] == [["a", "e"], ["b", "f"], ["c", "d"]]
        for outcome in (outcomes[2], outcomes[5]):
            assert isinstance(outcome, DeadLettered)
            assert isinstance(outcome.reason, NotStored)
            assert "no_poison" in str(outcome.reason)
            assert "\n" not in str(outcome.reason)
        assert (writer.stored, writer.set_aside) == (6, 2)
        letters = execute(
            rig.url, "SELECT room_id, envelope_id::text, payload, attempts, reason FROM dead_letters ORDER BY room_id"
        )
        assert [(room, key, envelopes.decode(payload), tries) for room, key, payload, tries, _ in letters] == [
            (1, batch[2].envelope_id, batch[2], 1),
            (2, batch[5].envelope_id, batch[5], 1),
        ]
        assert all("no_poison" in reason for *_, reason in letters)
        # Its room goes on, and a redelivery changes nothing but the count of attempts.
        outcomes = await writer.write([batch[2], batch[0], make_envelope(1, "g")])
        assert kinds(outcomes) == [DeadLettered, Duplicate, Stored]
        assert execute(rig.url, "SELECT attempts FROM dead_letters ORDER BY room_id") == [(2,), (1,)]

    @pytest.mark.parametrize("place", [0, 1, 7, 8, 15])
    @on_reactor
    async def test_it_is_found_at_any_place_of_the_batch(self, rig: WriterRig, place: int) -> None:
        rig.refuse("message_text <> 'poison'")
        texts = [f"text {number}" for number in range(16)]
        batch = [make_envelope(1, "poison" if number == place else text) for number, text in enumerate(texts)]
        outcomes = await rig.writer().write(batch)
        assert [number for number, kind in enumerate(kinds(outcomes)) if kind is DeadLettered] == [place]
        assert rig.stored() == [text for number, text in enumerate(texts) if number != place]

    @pytest.mark.parametrize(
        "fields",
        [
            {"message_id": "\0", "client_message_id": "own"},
            {"message_id": "no uuid", "client_message_id": "own"},
            {"message_id": "no uuid"},
            {"username": "ann\t"},
            {"username": "\0"},
            {"client_ip": "10.0.0.1\n1"},
            {"client_ip": "nowhere"},
            {"client_timestamp": "2026-11-23T10:30:00Z\t\\N\n1\t9"},
            {"client_message_id": "\0"},
            {"user_id": 2**70},
        ],
    )
    @on_reactor
    async def test_so_is_what_no_edge_lets_through(self, rig: WriterRig, fields: dict[str, Any]) -> None:
        poison = make_envelope(1, messages=(make_message("bad", **fields),))
        outcomes = await rig.writer().write([make_envelope(1, "a"), poison, make_envelope(1, "b")])
        assert kinds(outcomes) == [Stored, DeadLettered, Stored]
        assert rig.stored() == ["a", "b"]

    @on_reactor
    async def test_no_name_of_an_instance_makes_rows_of_its_own(self, rig: WriterRig) -> None:
        row = "1\t9\t2026-11-23T10:30:00Z\t00000000-0000-0000-0000-000000000000\t1\tann\tforged\tTEXT\ts"
        poison = make_envelope(1, "bad", server_id=f"s\t\\N\t2026-11-23T10:30:00Z\t\\N\n{row}")
        assert kinds(await rig.writer().write([poison])) == [DeadLettered]
        assert rig.stored() == []

    @on_reactor
    async def test_a_batch_of_nothing_but_poison_is_set_aside(self, rig: WriterRig) -> None:
        rig.refuse("false")
        outcomes = await rig.writer().write([make_envelope(room) for room in (1, 2, 1)])
        assert kinds(outcomes) == [DeadLettered] * 3
        assert execute(rig.url, "SELECT count(*)::int FROM dead_letters") == [(3,)]

    @on_reactor
    async def test_while_dead_letters_are_out_of_reach_only_their_own_write_waits(self, rig: WriterRig) -> None:
        rig.refuse("message_text <> 'poison'")
        letters = HeldLetters()
        assert verifyObject(IDeadLetters, letters)
        writer = rig.writer(dead_letters=letters)
        poison = make_envelope(1, "poison")
        waiting, other = writer.write([make_envelope(1, "a"), poison]), writer.write([make_envelope(2, "b")])
        assert seqs(await other) == [1]
        assert seqs(await writer.write([make_envelope(2, "c")])) == [2]
        assert not waiting.called
        ((kept, reason, done),) = letters.kept
        assert kept == poison
        assert "no_poison" in reason
        assert writer.set_aside == 0
        done.callback(None)
        assert kinds(await waiting) == [Stored, DeadLettered]
        assert writer.set_aside == 1

    @on_reactor
    async def test_if_they_cannot_be_kept_the_write_fails_so_that_the_queue_gives_them_again(
        self, rig: WriterRig
    ) -> None:
        rig.refuse("message_text <> 'poison'")
        letters = HeldLetters()
        writer = rig.writer(dead_letters=letters)
        waiting = writer.write([make_envelope(1, "poison")])
        await until(lambda: letters.kept, "it is set aside")
        letters.kept[0][2].errback(Unavailable("stopped"))
        with pytest.raises(Unavailable):
            await waiting
        assert writer.set_aside == 0


class TestFaults:
    @on_reactor
    async def test_a_connection_killed_in_the_middle_of_a_batch_makes_it_stored_once_by_another(
        self, rig: WriterRig
    ) -> None:
        writer = rig.writer()
        batch = [make_envelope(room, "a", "b") for room in (1, 2, 1)]
        with rig.commits_held() as under_way:
            writing = writer.write(batch)
            await under_way()
            later = writer.write([make_envelope(1, "c")])
            execute(rig.url, _KILL, (_NAME,))
            await until(lambda: rig.database.retries, "it is tried again")
        assert seqs(await writing) == [1, 1, 3]
        assert seqs(await later) == [5]
        assert rig.stored() == ["a", "b", "a", "b", "c"]
        assert await rig.observed() == [6, 1]

    @on_reactor
    async def test_an_answer_lost_in_the_commit_makes_it_known_as_stored_and_not_stored_twice(
        self, rig: WriterRig
    ) -> None:
        with PostgresProxy(rig.url) as proxy:
            writer = rig.writer(url=proxy.url)
            await writer.write([make_envelope(1, "before")])
            proxy.lose_answers_to_commits()
            outcomes = await writer.write([make_envelope(1, "a", "b"), make_envelope(2, "c"), make_envelope(1, "d")])
            assert outcomes == [Duplicate(1, 4), Duplicate(2, 1), Duplicate(1, 4)]
            assert rig.database.retries == 1
            assert seqs(await writer.write([make_envelope(1, "after")])) == [5]
        assert rig.stored() == ["before", "a", "b", "d", "after"]

    @on_reactor
    async def test_while_the_database_is_away_envelopes_wait_and_are_stored_in_order_when_it_is_back(
        self, rig: WriterRig
    ) -> None:
        with PostgresProxy(rig.url) as proxy:
            writer = rig.writer(url=proxy.url)
            proxy.cut()
            writes = [writer.write([make_envelope(1, str(number))]) for number in range(3)]
            await until(lambda: rig.database.retries >= 2, "it is tried again")
            writes += [writer.write([make_envelope(1, str(number))]) for number in range(3, 6)]
            assert not any(write.called for write in writes)
            proxy.heal()
            assert [seqs(outcomes) for outcomes in await gatherResults(writes)] == [[seq] for seq in range(1, 7)]
        assert rig.stored() == list("012345")

    @on_reactor
    async def test_a_dead_letter_survives_a_lost_connection_too(self, rig: WriterRig) -> None:
        rig.refuse("message_text <> 'poison'")
        with PostgresProxy(rig.url) as proxy:
            writer = rig.writer(url=proxy.url)
            await writer.write([make_envelope(1, "a")])
            proxy.lose_answers_to_commits()
            outcomes = await writer.write([make_envelope(1, "poison")])
        assert kinds(outcomes) == [DeadLettered]
        assert execute(rig.url, "SELECT count(*)::int FROM dead_letters") == [(1,)]


class TestStop:
    @on_reactor
    async def test_what_waits_and_what_comes_fails_and_what_is_under_way_is_stored(self, rig: WriterRig) -> None:
        writer = rig.writer()
        with rig.commits_held() as under_way:
            flushing = writer.write([make_envelope(1, "a")])
            await under_way()
            waiting = writer.write([make_envelope(1, "b"), make_envelope(2, "c")])
            writer.stop()
            for write in (waiting, writer.write([make_envelope(1, "d")])):
                with pytest.raises(Unavailable):
                    await write
            assert writer.pending_messages() == 0
        assert seqs(await flushing) == [1]
        assert rig.stored() == ["a"]

    @on_reactor
    async def test_envelopes_that_wait_for_others_fail_when_the_writer_is_stopped(self, rig: WriterRig) -> None:
        clock = Clock()
        writer = rig.writer(clock=clock, rhythm=gathering(clock))
        waiting = writer.write([make_envelope(1)])
        writer.stop()
        clock.advance(1.0)
        with pytest.raises(Unavailable):
            await waiting
        assert rig.stored() == []

    @on_reactor
    async def test_with_the_database_closed_what_is_tried_again_fails(self, rig: WriterRig) -> None:
        with PostgresProxy(rig.url) as proxy:
            writer = rig.writer(url=proxy.url)
            proxy.cut()
            writing = writer.write([make_envelope(1)])
            await until(lambda: rig.database.retries, "it is tried again")
            await rig.stop()
            with pytest.raises(Unavailable):
                await writing
