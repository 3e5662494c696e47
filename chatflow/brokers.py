"""Which broker a daemon has, and what it is given of the database."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from chatflow.broker.embedded_broker import EmbeddedBroker
from chatflow.config import Config
from chatflow.contracts.broker import IBroker
from chatflow.lifecycle.callback_service import CallbackService
from chatflow.lifecycle.clocks import WallTime
from chatflow.metrics import Metrics
from chatflow.persistence.clock_watch import ClockWatch
from chatflow.persistence.database import Database
from chatflow.persistence.deadletters import DeadLetterTable
from chatflow.persistence.membership import MembershipTable, open_membership
from chatflow.persistence.rhythm import Rhythm


def make_broker(
    config: Config,
    reactor: Any,
    now: WallTime,
    watch: ClockWatch,
    metrics: Metrics,
    commits: Database,
    rhythm: Rhythm,
    database: Callable[[str, int], Database],
    address: Callable[[], str],
) -> IBroker:
    """What carries messages between the instances, or within the only one.

    :param rhythm: of the commits.
    :param address: of this instance's HTTP, for whoever looks after all instances.
    """
    if config.broker == "embedded":
        return EmbeddedBroker(
            rooms=config.rooms, dead_letters=DeadLetterTable(commits), until_commit_seconds=rhythm.wait_seconds
        )
    # Imported only here, because boto3 takes its time and memory.
    from chatflow.broker.sqs_broker import SqsBroker

    beats = database("beats", 1)  # of its own, so that no slow query makes the others take this instance for dead
    return SqsBroker(
        reactor=reactor,
        now=now,
        options=config,
        table=MembershipTable(beats, address),
        connection=CallbackService(beats.start, beats.stop),
        open_table=partial(open_membership, config.database, "chatflow-start"),
        is_steady=watch.is_steady,
        database_away_seconds=lambda: commits.away_seconds,
        histogram=metrics.histogram,
    )
