"""An instance that holds rooms' heads and cannot store: paused, or cut off from the database. The others go on.

What it holds is theirs after a while, and when it is back it stores none of it again, however much was stored since.
"""

from __future__ import annotations

import itertools
import signal
import time
from collections.abc import Iterator

import pytest

from testbed.client import ChatClient
from testbed.cluster import Cluster
from testbed.daemon import Daemon
from testbed.load_client import LoadClient
from testbed.postgres_proxy import PostgresProxy
from testbed.recounting import recount
from testbed.waiting import eventually

_RUN_SECONDS = 90.0
_ROOMS = 4
_OPTIONS = ("--visibility-seconds", "2", "--long-poll-seconds", "1", "--reap-after-seconds", "5")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Two instances that nothing happens to."""
    with Cluster(*_OPTIONS, instances=2, rooms=_ROOMS) as cluster:
        yield cluster.start()


def load(cluster: Cluster) -> LoadClient:
    """In few rooms, so that each soon forgets an envelope; on the instances that nothing happens to."""
    size = ("--messages", 8000, "--rate", 1000, "--connections", 24, "--rooms", _ROOMS, "--warmup-messages", 0)
    urls = cluster.urls_of(cluster.instances[:2])
    return LoadClient(*size, "--timeout-seconds", 60, urls=urls, database_url=cluster.database_url)


def check(cluster: Cluster, client: LoadClient) -> None:
    report = client.report(_RUN_SECONDS)
    assert report["verdict"] == "pass", report["causes"]
    assert recount(cluster.database_url) == {}


def hears(instance: Daemon, cluster: Cluster) -> None:
    """It is one of them again: its clients are given what is sent on another."""
    eventually(instance.is_ready, "it hears the others", _RUN_SECONDS)
    with ChatClient(instance.chat_url(1)) as member, ChatClient(cluster.instances[0].chat_url(1)) as sender:
        sender.send("are you back?")
        while member.receive_kind("broadcast")["message"] != "are you back?":
            pass


def pause_while_it_holds_something(cluster: Cluster, instance: Daemon) -> None:
    """SIGSTOP in polls that SQS answers then: with messages that nobody has stored."""
    clients = [ChatClient(cluster.instances[0].chat_url(room)) for room in range(1, _ROOMS + 1)]
    try:
        for number in itertools.count():
            instance.send_signal(signal.SIGSTOP)
            for client in clients:
                client.send(f"held {number}")
            stored = "SELECT count(*) FROM messages WHERE message_text = %s"
            deadline = time.monotonic() + 1.0
            while time.monotonic() < deadline:
                if cluster.sql(stored, f"held {number}") == [(_ROOMS,)]:
                    break
            else:
                return
            instance.send_signal(signal.SIGCONT)
    finally:
        for client in clients:
            client.__exit__()


def test_one_that_was_paused_stores_nothing_that_others_have_stored_meanwhile(cluster: Cluster) -> None:
    (paused,) = cluster.add()
    try:
        pause_while_it_holds_something(cluster, paused)
        with load(cluster) as client:
            check(cluster, client)
        paused.send_signal(signal.SIGCONT)
        lost = "chatflow_queue_lost_receipts_total"
        eventually(lambda: paused.counter(lost) > 0, "what it held is another's", _RUN_SECONDS)
        hears(paused, cluster)
        assert recount(cluster.database_url) == {}
    finally:
        paused.send_signal(signal.SIGCONT)
        paused.stop()


def test_one_that_alone_has_lost_the_database_lets_go_of_the_rooms_that_it_holds(cluster: Cluster) -> None:
    with PostgresProxy(cluster.database_url) as way:
        (lonely,) = cluster.add(database_url=way.url)
        with load(cluster) as client:
            eventually(lambda: lonely.counter("chatflow_messages_stored_total") > 200, "it takes part", _RUN_SECONDS)
            way.cut()
            check(cluster, client)
        way.heal()
        hears(lonely, cluster)
        assert lonely.stop() == 0
