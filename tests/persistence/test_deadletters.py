"""Dead letters in the table keep the contract; the batch writer hands over what PostgreSQL refuses, and goes on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import psycopg2
import pytest
from attrs import define, field
from twisted.internet.defer import Deferred
from zope.interface import implementer

from chatflow.contracts.deadletters import IDeadLetters
from chatflow.contracts.envelopes import Envelope
from chatflow.contracts.writer import DeadLettered, Stored
from chatflow.persistence.database import Database, SessionLimits
from chatflow.persistence.deadletters import DeadLetterRows, DeadLetterTable
from chatflow.persistence.rhythm import Rhythm
from chatflow.persistence.writer import BatchWriter
from testbed.postgres import execute
from tests.broker.contract_dead_letters import DeadLettersContract
from tests.support.chat import make_envelope
from tests.support.reactor import on_reactor, reactor


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = Database(reactor=reactor, url=database_url, connections=2, limits=SessionLimits())
    database.start()
    yield database
    database.stop()


class TestContract(DeadLettersContract):
    @pytest.fixture
    def keeper(self, database: Database) -> DeadLetterTable:
        return DeadLetterTable(database)

    @pytest.fixture
    def box(self, keeper: DeadLetterTable, database_url: str) -> Iterator[DeadLetterRows]:
        with closing(psycopg2.connect(database_url)) as connection:
            yield DeadLetterRows(connection)


@on_reactor
async def test_a_second_refusal_of_an_envelope_counts(database: Database, database_url: str) -> None:
    table, envelope = DeadLetterTable(database), make_envelope()
    await table.keep(envelope, "first")
    await table.keep(envelope, "second")
    assert execute(database_url, "SELECT reason, attempts, last_failed_at > first_failed_at FROM dead_letters") == [
        ("second", 2, True)
    ]


@implementer(IDeadLetters)
@define
class OutOfReach:
    """Keeps nothing until the test says so."""

    asked: list[tuple[Envelope, str, Deferred[None]]] = field(factory=list)

    def keep(self, envelope: Envelope, reason: str) -> Deferred[None]:
        kept: Deferred[None] = Deferred()
        self.asked.append((envelope, reason, kept))
        return kept

    async def count(self) -> int:
        raise AssertionError("nobody asks for it here")


@on_reactor
async def test_while_the_dead_letters_are_out_of_reach_other_rooms_go_on(database: Database) -> None:
    dead_letters = OutOfReach()
    rhythm = Rhythm(clock=reactor, ceiling_seconds=0.0)
    writer = BatchWriter(
        clock=reactor, database=database, rhythm=rhythm, dead_letters=dead_letters, batch_messages=1000
    )
    poison, good, later = make_envelope(1, "\0"), make_envelope(2), make_envelope(3)
    refused = writer.write([poison])
    (stored,) = await writer.write([good])
    assert stored == Stored(good, 1)
    ((envelope, reason, kept),) = dead_letters.asked
    assert (envelope, "0x00" in reason) == (poison, True)
    await writer.write([later])
    assert not refused.called
    assert writer.set_aside == 0
    kept.callback(None)
    (outcome,) = await refused
    assert isinstance(outcome, DeadLettered)
    assert writer.set_aside == 1
