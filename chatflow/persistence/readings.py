"""The figures of what one instance stores, and of its connections to the database."""

from __future__ import annotations

from collections.abc import Sequence

from chatflow.persistence.database import Database
from chatflow.persistence.migrations import load_migrations
from chatflow.persistence.refresh import Refresher
from chatflow.persistence.writer import BatchWriter
from chatflow.readings import Reading


def database_readings(writer: BatchWriter, databases: Sequence[Database], refresher: Refresher) -> list[Reading]:
    """For Prometheus.

    :param databases: all pools of this instance that messages depend on.
    """
    counter, gauge = True, False
    schema_version = len(load_migrations())

    def retries() -> int:
        return sum(database.retries for database in databases)

    def available() -> bool:
        return all(database.available for database in databases)

    return [
        Reading("chatflow_messages_stored", "Committed rows", lambda: writer.stored, counter),
        Reading("chatflow_batches_committed", "Transactions of messages", lambda: writer.batches, counter),
        Reading("chatflow_envelopes_set_aside", "Dead letters", lambda: writer.set_aside, counter),
        Reading("chatflow_writer_waiting_messages", "Wait for a flush", writer.pending_messages, gauge),
        Reading("chatflow_commit_under_way_seconds", "Since the flush began, or 0", writer.busy_seconds, gauge),
        Reading("chatflow_database_retries", "Transactions tried again", retries, counter),
        Reading("chatflow_database_available", "1 if the last try worked", available, gauge),
        Reading("chatflow_views_age_seconds", "Since their refresh, by whomever", refresher.age_seconds, gauge),
        Reading("chatflow_schema_version", "That this version works with", lambda: schema_version, gauge),
    ]
