"""What two snapshots of all counters say of the time between them. Pure.

A snapshot is what :meth:`chatflow.metrics.Metrics.snapshot` returns: values by name and label.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

Snapshot = Mapping[str, Mapping[str, float]]

PERCENTILES = (0.5, 0.95, 0.99)

#: Name for people → counters that are added up.
RATES: Mapping[str, str] = {
    "received": "chatflow_messages_received_total",
    "acknowledged": "chatflow_messages_acknowledged_total",
    "stored": "chatflow_messages_stored_total",
    "delivered": "chatflow_deliveries_total",
}
ERRORS: Mapping[str, str] = {
    "messages refused": "chatflow_messages_refused_total",
    "connections refused": "chatflow_connections_refused_total",
    "slow clients closed": "chatflow_slow_clients_closed_total",
    "silent clients dropped": "chatflow_silent_clients_dropped_total",
    "database retries": "chatflow_database_retries_total",
    "dead letters": "chatflow_envelopes_set_aside_total",
    "fan-out given up": "chatflow_fanout_publish_failures_total",
}
LATENCIES: Mapping[str, str] = {
    "ack": "chatflow_ack_seconds",
    "commit": "chatflow_commit_seconds",
    "fanout": "chatflow_fanout_latency_seconds",
}
_AWS_CALLS = "chatflow_aws_calls_total"


def total(snapshot: Snapshot, name: str) -> float:
    """Over all labels; 0 where there is no such figure, as those of a cluster on a single node."""
    return sum(snapshot.get(name, {}).values())


def rates(names: Mapping[str, str], before: Snapshot, after: Snapshot, seconds: float) -> dict[str, float]:
    """The growth of each counter per second between two samples."""
    return {
        name: round((total(after, counter) - total(before, counter)) / seconds, 2) for name, counter in names.items()
    }


def aws_failures(before: Snapshot, after: Snapshot, seconds: float) -> float:
    """Calls to AWS that failed, per second."""

    def failed(snapshot: Snapshot) -> float:
        return sum(count for call, count in snapshot.get(_AWS_CALLS, {}).items() if not call.endswith(" ok"))

    return round((failed(after) - failed(before)) / seconds, 2)


def latencies_ms(before: Snapshot, after: Snapshot) -> dict[str, list[float] | None]:
    """The :data:`PERCENTILES` of each histogram that there is; None if nothing was observed meanwhile."""
    return {
        name: percentiles_ms(before.get(f"{histogram}_bucket", {}), after[f"{histogram}_bucket"])
        for name, histogram in LATENCIES.items()
        if f"{histogram}_bucket" in after
    }


def percentiles_ms(before: Mapping[str, float], after: Mapping[str, float]) -> list[float] | None:
    """Estimates: values are taken to be spread evenly within a bucket. What is above all buckets counts as the last.

    :param before, after: cumulative counts by upper bound in seconds.
    """
    bounds = sorted(after, key=float)
    counts = [after[bound] - before.get(bound, 0.0) for bound in bounds]
    if not counts or counts[-1] <= 0:
        return None
    return [round(_value_at(share * counts[-1], bounds, counts) * 1000, 2) for share in PERCENTILES]


def _value_at(rank: float, bounds: Sequence[str], counts: Sequence[float]) -> float:
    low_bound = low_count = 0.0
    for text, count in zip(bounds, counts, strict=True):
        bound = float(text)
        if count >= rank:
            if math.isinf(bound):
                return low_bound
            return low_bound + (bound - low_bound) * (rank - low_count) / (count - low_count)
        low_bound, low_count = bound, count
    return low_bound
