"""One of many takes clients only while it hears the others, and tells what it measures."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import boto3
import pytest

from testbed.client import ChatClient
from testbed.cluster import Cluster
from testbed.waiting import eventually

_NO_PROBE = "PublishBatch:fail=1"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """No instance yet; their calls go through a proxy that makes them fail."""
    with Cluster("--long-poll-seconds", "1", instances=0, rooms=2, faults=()) as cluster:
        yield cluster.start()


def is_ready(cluster: Cluster) -> bool:
    return cluster.instances[0].is_ready()


def test_it_is_not_ready_until_a_probe_came_back_and_again_when_its_queue_is_gone(cluster: Cluster) -> None:
    proxy = cluster.faults
    proxy.set_rules(_NO_PROBE)
    with ThreadPoolExecutor(1) as pool:
        adding = pool.submit(cluster.add)  # waits until it is ready
        eventually(lambda: proxy.injected("PublishBatch", "fail") >= 2, "probes are lost")
        eventually(lambda: cluster.instances[0].port, "it listens")
        assert not is_ready(cluster)
        assert cluster.instances[0].get("/health/live").status == 200
        proxy.set_rules()
        (instance,) = adding.result()
    (queue,) = cluster.fanout_names()

    proxy.set_rules(_NO_PROBE)
    sqs = boto3.session.Session("test", "test", region_name="us-east-1").client(
        "sqs", endpoint_url=cluster.emulator.url
    )
    sqs.delete_queue(QueueUrl=sqs.get_queue_url(QueueName=queue)["QueueUrl"])
    eventually(lambda: not is_ready(cluster), "it notices that its queue is gone")
    eventually(lambda: cluster.fanout_names() - {queue}, "it makes another one")
    assert not is_ready(cluster)
    proxy.set_rules()
    eventually(lambda: is_ready(cluster), "a probe comes back")
    assert cluster.fanout_names().isdisjoint({queue})

    with ChatClient(instance.chat_url(1)) as client:
        client.send("hello")
        assert client.receive_kind("broadcast")["message"] == "hello"
    check_figures(cluster)
    assert instance.stop() == 0
    assert "has not stopped" not in instance.output()


def check_figures(cluster: Cluster) -> None:
    """What docs/cluster.rst says to watch is there."""
    figures = dict(cluster.figures_of(cluster.instances[0]))
    for name in (
        "chatflow_aws_calls_total",
        "chatflow_aws_calls_per_1000_messages",
        "chatflow_pace_gap_seconds",
        "chatflow_pace_round_trip_seconds",
        "chatflow_queue_lag_seconds",
        "chatflow_queue_redeliveries_total",
        "chatflow_envelope_bytes_bucket",
        "chatflow_envelope_bytes_sum",
        "chatflow_fanout_latency_seconds_bucket",
        "chatflow_fanout_publish_failures_total",
        "chatflow_instances_reaped_total",
        "chatflow_gaps_filled_total",
    ):
        assert name in figures, name
    assert figures["chatflow_envelope_bytes_count"] == 1
    assert figures["chatflow_fanout_attachments_total"] == 2
    assert figures["chatflow_pace_round_trip_seconds"] > 0
