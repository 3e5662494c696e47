"""An instance of a cluster tells that it lives, however busy its readers are."""

from __future__ import annotations

from contextlib import closing
from threading import Thread

import psycopg2

from testbed.daemon import Daemon
from testbed.emulator import shared_emulator
from testbed.waiting import eventually
from tests.support.cloud import make_objects

_BUSY = """
SELECT EXISTS (SELECT FROM pg_stat_activity
               WHERE application_name LIKE 'chatflow-reader%%' AND wait_event_type = 'Lock'
                 AND datname = current_database())
"""
_ALIVE = "SELECT max(heartbeat_at), (SELECT max(seen_at) FROM presence_instances) FROM instances"


def test_a_query_that_occupies_the_only_reader_does_not_make_it_silent(module_database_url: str) -> None:
    names = make_objects(rooms=1)
    cluster = ("--broker", "sqs", "--queue-prefix", names.prefix, "--rooms", "1", "--long-poll-seconds", "1")
    # The shorter the patience of the others, the more often it beats.
    options = (*cluster, "--database-connections", "1", "--reap-after-seconds", "5")
    with (
        Daemon(*options, database=module_database_url, environment=shared_emulator().environment()) as daemon,
        closing(psycopg2.connect(module_database_url)) as connection,
        connection.cursor() as cursor,
    ):
        daemon.start()
        cursor.execute("LOCK TABLE messages IN ACCESS EXCLUSIVE MODE")
        asking = Thread(target=daemon.get, args=("/api/rooms/1/messages",))
        asking.start()
        eventually(lambda: daemon.sql(_BUSY) == [(True,)], "the reader waits")
        ((heartbeat_at, seen_at),) = daemon.sql(_ALIVE)

        def has_beaten() -> bool:
            ((later, seen_later),) = daemon.sql(_ALIVE)
            return later > heartbeat_at and seen_later > seen_at and daemon.sql(_BUSY) == [(True,)]

        eventually(has_beaten, "both beats have come while the reader waits")
        connection.rollback()
        asking.join()
        assert daemon.stop() == 0
