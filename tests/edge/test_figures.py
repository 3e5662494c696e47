"""What two snapshots of the counters say of the time between them."""

from __future__ import annotations

import pytest

from chatflow.edge import figures
from chatflow.metrics import Metrics


def test_a_rate_is_what_was_added_per_second() -> None:
    before = {"chatflow_messages_received_total": {"": 10.0}}
    after = {"chatflow_messages_received_total": {"": 40.0}}
    assert figures.rates(figures.RATES, before, after, 2.0)["received"] == 15.0


def test_what_a_single_node_does_not_count_is_zero() -> None:
    assert set(figures.rates(figures.ERRORS, {}, {}, 1.0).values()) == {0.0}


def test_failed_calls_to_aws_are_those_that_are_not_ok() -> None:
    before = {"chatflow_aws_calls_total": {"receive_message ok": 5.0, "publish throttled": 1.0}}
    after = {"chatflow_aws_calls_total": {"receive_message ok": 50.0, "publish throttled": 4.0, "publish failed": 1.0}}
    assert figures.aws_failures(before, after, 2.0) == 2.0


def test_percentiles_are_those_of_what_was_observed_between() -> None:
    metrics = Metrics()
    for _ in range(1000):
        metrics.observe_ack(9.0)  # before: does not count
    before = metrics.snapshot()
    for thousandth in range(1, 101):
        metrics.observe_ack(thousandth / 1000)
    p50, p95, p99 = figures.latencies_ms(before, metrics.snapshot())["ack"] or []
    assert p50 == pytest.approx(50, rel=0.05)
    assert p95 == pytest.approx(95, rel=0.05)
    assert p99 == pytest.approx(99, rel=0.05)


def test_without_an_observation_there_are_none() -> None:
    metrics = Metrics()
    metrics.observe_ack(0.1)
    snapshot = metrics.snapshot()
    assert figures.latencies_ms(snapshot, snapshot)["ack"] is None


def test_a_histogram_that_there_is_not_is_left_out() -> None:
    snapshot = Metrics().snapshot()
    assert set(figures.latencies_ms(snapshot, snapshot)) == {"ack", "commit"}


def test_what_is_above_all_buckets_counts_as_the_last() -> None:
    assert figures.percentiles_ms({}, {"1.0": 0.0, "2.0": 0.0, "+Inf": 4.0}) == [2000.0, 2000.0, 2000.0]
