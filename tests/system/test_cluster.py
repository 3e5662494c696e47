"""Several instances, SQS and SNS between them: what the promises say, held on every instance, whatever happens to one.

The load client is the judge of what clients see: on each connection every message of the room once, in one order,
without a hole, and every acknowledged one in the database.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator

import pytest

from testbed.client import ChatClient
from testbed.cluster import Cluster, check_left_behind
from testbed.crowd import Crowd
from testbed.haproxy import HOW_TO_INSTALL, HAProxy, find_haproxy
from testbed.http_client import request
from testbed.load_client import LoadClient
from testbed.recounting import recount
from testbed.waiting import eventually
from tests.support.documentation import figures_named_in, figures_served_by

_RUN_SECONDS = 60.0
_REAP_SECONDS = 5
_ROOMS = 8  # every instance asks each of their queues again and again

# What waits for somebody dead is due sooner than by default, and a stop does not wait for long polls.
_OPTIONS = ("--visibility-seconds", "3", "--reap-after-seconds", str(_REAP_SECONDS), "--long-poll-seconds", "2")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Three instances that outlive every test: what a test kills, it has added before."""
    haproxy = HAProxy() if find_haproxy() else None
    if haproxy is None:
        warnings.warn(f"clients choose their instances themselves: {HOW_TO_INSTALL}", stacklevel=1)
    with Cluster(*_OPTIONS, instances=3, rooms=_ROOMS, haproxy=haproxy, faults=()) as cluster:
        yield cluster.start()
        instances = len(cluster.running)
        assert cluster.stop() == [0] * instances
        assert cluster.fanout_names() == set(), "nothing is left in AWS that only an instance needs"


@pytest.fixture(autouse=True)
def exact_counts(cluster: Cluster) -> Iterator[None]:
    """After each test, all counts are those of a recount, and no envelope was set aside."""
    yield
    assert recount(cluster.database_url) == {}
    assert cluster.totals()["chatflow_envelopes_set_aside_total"] == 0


def load(cluster: Cluster, urls: list[str], *, messages: int = 2000, rate: int = 500) -> LoadClient:
    """Some seconds of load in all rooms, checked against the database."""
    size = ("--messages", messages, "--rate", rate, "--connections", 24, "--rooms", _ROOMS, "--warmup-messages", 0)
    patience = ("--timeout-seconds", _RUN_SECONDS / 2)
    return LoadClient(*size, *patience, urls=urls, database_url=cluster.database_url)


def check_pass(client: LoadClient) -> None:
    """The run ends, and its verdict is *pass*."""
    report = client.report(_RUN_SECONDS)
    assert report["verdict"] == "pass", report["causes"]
    assert report["stored"]["checked"] == report["acked"] > 0


def wait_for_acks(cluster: Cluster, client: LoadClient, more: int) -> None:
    """Return once all instances together have acknowledged so many further messages."""
    goal = acknowledged(cluster) + more

    def reached() -> bool:
        assert client.runs, f"the load ended too soon: {client.report(0)['causes']}"
        return acknowledged(cluster) >= goal

    eventually(reached, f"{more} more acknowledgements", _RUN_SECONDS)


def acknowledged(cluster: Cluster) -> float:
    return cluster.totals()["chatflow_messages_acknowledged_total"]


def test_what_is_sent_on_one_instance_is_seen_on_all_in_one_order(cluster: Cluster) -> None:
    room, each = _ROOMS, 25
    members = [ChatClient(instance.chat_url(room)) for instance in cluster.running]
    try:
        for number in range(each):
            for place, member in enumerate(members):
                member.send(f"{number} from {place}")
        seen = []
        for member in members:
            broadcasts = [member.receive_kind("broadcast") for _ in range(each * len(members))]
            seen.append([(frame["seq"], frame["messageId"], frame["message"]) for frame in broadcasts])
            first = seen[-1][0][0]
            assert [seq for seq, *_ in seen[-1]] == list(range(first, first + each * len(members)))
            servers = {frame["message"].rpartition(" ")[2]: frame["serverId"] for frame in broadcasts}
            assert len(set(servers.values())) == len(members), "each message tells the instance that took it"
        assert all(other == seen[0] for other in seen)
        for place in range(len(members)):
            own = [text for _, _, text in seen[0] if text.endswith(f"from {place}")]
            assert own == [f"{number} from {place}" for number in range(each)], "in the order it was sent"
    finally:
        for member in members:
            member.__exit__()


def test_a_run_through_the_load_balancer_passes(cluster: Cluster) -> None:
    with load(cluster, cluster.urls, messages=3000, rate=0) as client:
        check_pass(client)
    received = [instance.metric("handler", "messagesReceived") for instance in cluster.running]
    assert all(received), f"some instance had no clients: {received}"


def test_every_figure_that_the_documentation_of_clusters_names_is_served(cluster: Cluster) -> None:
    assert figures_named_in("cluster") - figures_served_by(cluster.running[0]) == set()


def test_it_is_told_what_messages_cost_in_calls(cluster: Cluster) -> None:
    (instance,) = cluster.add()
    with ChatClient(instance.chat_url(1)) as client:
        for _ in range(3):
            client.send("hello")
            client.receive_kind("broadcast")
    figures = cluster.figures_of(instance)  # of one moment
    calls = sum(value for name, value in figures if name == "chatflow_aws_calls_total")
    told = dict(figures)["chatflow_aws_calls_per_1000_messages"]
    assert told == pytest.approx(calls / 3 * 1000)
    assert instance.stop() == 0


def test_nothing_is_lost_or_doubled_while_instances_are_killed_stopped_and_added(cluster: Cluster) -> None:
    survivors = cluster.running
    killed, stopped = cluster.add(2)
    first, second = Crowd(killed, each=1, window=5), Crowd(stopped, each=1, window=5)
    with load(cluster, cluster.urls_of(survivors), messages=4000, rate=200) as client, first, second:
        wait_for_acks(cluster, client, 500)
        killed.kill()
        assert cluster.fanout_names(killed), "it could not take its queue and subscription away"
        (added,) = cluster.add()
        with load(cluster, cluster.urls_of([added]), messages=1000, rate=100) as late:
            wait_for_acks(cluster, late, 500)  # on a busy machine the first load may be over when this one begins
            assert stopped.stop() == 0
            assert cluster.fanout_names(stopped) == set(), "this one did"
            check_pass(late)
        check_pass(client)
    check_left_behind(cluster, first)
    check_left_behind(cluster, second)
    eventually(
        lambda: not cluster.fanout_names(killed), "the dead one's queue and subscription are reaped", _RUN_SECONDS
    )
    assert len(cluster.fanout_names()) == len(cluster.running), "and only those"
    assert added.stop() == 0


def test_nothing_is_lost_or_doubled_while_calls_to_aws_fail(cluster: Cluster) -> None:
    injected = cluster.faults.faults.injected
    # Fan-out has few calls, since rooms share them: more of those fail, so that enough do.
    cluster.faults.set_rules("PublishBatch:drop=0.2,fail=0.2", "*:drop=0.05,fail=0.05,delay_ms=100", seed=3)
    try:
        with load(cluster, cluster.urls) as client:
            check_pass(client)
    finally:
        cluster.faults.set_rules()
    for operation in ("SendMessageBatch", "ReceiveMessage", "DeleteMessageBatch", "PublishBatch"):
        assert injected[operation, "drop"] + injected[operation, "fail"], f"{operation}: {injected}"


def test_the_queue_holds_what_is_sent_while_the_database_is_away(cluster: Cluster) -> None:
    # It must outlast the stop of PostgreSQL on a busy machine.
    with load(cluster, cluster.urls, rate=125) as client:
        wait_for_acks(cluster, client, 500)
        cluster.stop_database()
        try:
            wait_for_acks(cluster, client, 500)
        finally:
            cluster.start_database()
        check_pass(client)


@pytest.mark.skipif(not find_haproxy() and os.environ.get("CI") != "true", reason=HOW_TO_INSTALL)
def test_a_draining_instance_gets_no_new_clients_and_a_cookie_leads_back(cluster: Cluster) -> None:
    assert cluster.haproxy is not None
    (leaving,) = cluster.add()
    port = cluster.haproxy.port

    def server_of(headers: dict[str, str]) -> tuple[str, str]:
        answer = request(port, "GET", "/health", headers)
        return answer.json()["serverId"], answer.headers.get("set-cookie", "")

    def cookie_of(name: str) -> str:
        server, cookie = server_of({})
        return cookie.partition(";")[0] if server == name else ""

    name = cluster.name_of(leaving)
    cookie = eventually(lambda: cookie_of(name), "the balancer sends somebody to the new instance")
    assert {server_of({"Cookie": cookie})[0] for _ in range(8)} == {name}
    assert leaving.stop() == 0
    assert server_of({"Cookie": cookie})[0] != name
