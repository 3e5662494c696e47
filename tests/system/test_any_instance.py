"""Several instances, SQS and SNS between them: a client may send again, resume and be seen on whichever it reaches."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from testbed.client import ChatClient
from testbed.cluster import Cluster
from testbed.daemon import Daemon
from testbed.haproxy import HAProxy, find_haproxy
from testbed.load_client import LoadClient
from testbed.recounting import recount
from testbed.waiting import eventually
from tests.system.test_moderation import admin, refusal, until

_RUN_SECONDS = 120.0
_ROOMS, _CONNECTIONS = 8, 24
# What waits for somebody dead is due sooner than by default, and a stop does not wait for long polls.
_OPTIONS = ("--visibility-seconds", "2", "--long-poll-seconds", "1", "--reap-after-seconds", "5")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster(*_OPTIONS, instances=3, rooms=_ROOMS, haproxy=HAProxy() if find_haproxy() else None) as cluster:
        yield cluster.start()


@pytest.fixture(autouse=True)
def exact_counts(cluster: Cluster) -> Iterator[None]:
    """After each test, all counts are those of a recount."""
    yield
    assert recount(cluster.database_url) == {}


def test_copies_of_a_message_that_race_over_two_instances_are_one_message(cluster: Cluster) -> None:
    room, number = 1, 40
    with ExitStack() as stack:
        listener, *senders = [stack.enter_context(ChatClient(one.chat_url(room))) for one in cluster.running]
        for index in range(number):
            for sender in senders:
                sender.send(f"copy {index}", clientMessageId=f"id {index}")
        first, second = ([sender.receive_kind("ack")["messageId"] for _ in range(number)] for sender in senders)
        assert first == second
        assert len(set(first)) == number
        seen = [listener.receive_kind("broadcast") for _ in range(number)]
        assert sorted(frame["messageId"] for frame in seen) == sorted(first)
        listener.send("nothing is between")
        assert listener.receive_kind("broadcast")["message"] == "nothing is between"
    stored = "SELECT count(*), count(DISTINCT client_message_id) FROM messages WHERE message_text LIKE 'copy %%'"
    assert cluster.sql(stored) == [(number, number)]


def test_what_was_sent_on_one_instance_is_resumed_on_any_without_a_seam(cluster: Cluster) -> None:
    room, number = 2, 300
    with ChatClient(cluster.running[0].chat_url(room)) as sender:
        sender.talk(f"before {index}" for index in range(number))
        with ExitStack() as stack:
            resumed = [stack.enter_context(ChatClient(f"{one.chat_url(room)}?since=10")) for one in cluster.running]
            sender.talk(f"after {index}" for index in range(number))
            for client in resumed:
                seqs = [client.receive_kind("broadcast")["seq"] for _ in range(2 * number - 10)]
                assert seqs == list(range(11, 2 * number + 1))


def test_who_is_in_a_room_is_known_on_every_instance_and_forgotten_with_the_one_that_dies(cluster: Cluster) -> None:
    room, asked = 3, cluster.running[0]
    (dying,) = cluster.add()
    with ExitStack() as stack:
        for one in cluster.running:
            stack.enter_context(ChatClient(one.chat_url(room)))
        eventually(lambda: members(asked, room) == 4, "everyone is seen")
        dying.kill()
        eventually(lambda: members(asked, room) == 3, "the dead one's member is not")


def members(instance: Daemon, room: int) -> Any:
    return json.loads(instance.get(f"/api/rooms/{room}/presence").body)["members"]


def test_the_proof_holds_over_cut_connections_and_an_instance_that_is_killed(cluster: Cluster) -> None:
    (killed,) = cluster.add()
    size = ("--connections", _CONNECTIONS, "--rooms", _ROOMS, "--messages", 4000, "--rate", 600, "--warmup-messages", 0)
    where: dict[str, Any] = {"urls": cluster.urls, "database_url": cluster.database_url}
    with LoadClient(*size, "--reconnect", 2, "--timeout-seconds", 60, **where) as client:
        goal = sum(one.counter("chatflow_messages_acknowledged_total") for one in cluster.running) + 1500
        eventually(lambda: cluster.totals()["chatflow_messages_acknowledged_total"] > goal, "the load goes on", 60)
        killed.kill()
        report = client.report(_RUN_SECONDS)
    assert report["verdict"] == "pass", report["causes"]
    assert report["stored"]["checked"] == report["acked"] == 4000
    assert report["reconnects"] > _CONNECTIONS


def test_what_an_operator_orders_is_in_force_on_every_instance(cluster: Cluster) -> None:
    url, room, who = cluster.database_url, 5, "?userId=7&username=somebody"
    with ExitStack() as stack:
        clients = [stack.enter_context(ChatClient(one.chat_url(room) + who)) for one in cluster.running]
        admin(url, "mute", "--user", "7")
        for client in clients:
            until("muted", client, 7)
        admin(url, "ban", "--user", "7")
        assert [client.wait_closed() for client in clients] == [4403] * len(clients)
    assert {refusal(instance, room, who) for instance in cluster.running} == {(403, "banned")}
    admin(url, "unban", "--user", "7")
    admin(url, "unmute", "--user", "7")
    for instance in cluster.running:
        eventually(lambda instance=instance: refusal(instance, room, who) == (101, ""), "let in again")  # type: ignore[misc]
    with ExitStack() as stack:
        clients = [stack.enter_context(ChatClient(one.chat_url(room))) for one in cluster.running]
        admin(url, "disconnect", "--room", str(room))
        assert [client.wait_closed() for client in clients] == [4000] * len(clients)
