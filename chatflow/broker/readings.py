"""The figures of an instance on SQS and SNS."""

from __future__ import annotations

from chatflow.broker.aws import Aws
from chatflow.broker.pacing import Pace
from chatflow.broker.reaping import Reaper
from chatflow.broker.sns import SnsFanout
from chatflow.broker.sqs import SqsRoomQueue
from chatflow.readings import Reading


def cluster_readings(aws: Aws, queue: SqsRoomQueue, fanout: SnsFanout, pace: Pace, reaper: Reaper) -> list[Reading]:
    """The figures of everything that speaks with AWS: calls, queues, subscription, pacing, reaper."""
    counter, gauge = True, False
    of_queue, of_fanout = queue.counters, fanout.counters

    def calls() -> dict[str, float]:
        return {f"{operation} {outcome}": number for (operation, outcome), number in aws.counters.calls.items()}

    def calls_per_1000_messages() -> float:
        messages = of_queue.published_messages
        return aws.counters.total / messages * 1000 if messages else 0.0

    def lags() -> dict[str, float]:
        return {str(shard): seconds for shard, seconds in queue.lag_seconds().items()}

    return [
        Reading("chatflow_aws_calls", "AWS calls by operation and outcome", calls, counter, "call"),
        Reading("chatflow_aws_call_seconds", "Time in calls", lambda: dict(aws.counters.seconds), counter, "operation"),
        Reading(
            "chatflow_aws_calls_per_1000_messages",
            "Of those this instance published since its start, 0 before the first",
            calls_per_1000_messages,
            gauge,
        ),
        Reading("chatflow_pace_gap_seconds", "Between two calls of a queue", lambda: pace.gap_seconds, gauge),
        Reading("chatflow_pace_round_trip_seconds", "Of a call, smoothed", lambda: pace.round_trip_seconds, gauge),
        Reading("chatflow_pace_base_seconds", "Of a call, at best", lambda: pace.base_seconds, gauge),
        Reading("chatflow_pace_calls_per_second", "Smoothed", lambda: pace.calls_per_second, gauge),
        Reading("chatflow_queue_lag_seconds", "Age of the oldest envelope held", lags, gauge, "queue"),
        Reading("chatflow_queue_redeliveries", "Received more than once", lambda: of_queue.redeliveries, counter),
        Reading("chatflow_queue_poison", "Bodies that are no envelope", lambda: of_queue.poison, counter),
        Reading("chatflow_queue_lost_receipts", "Not deleted in time", lambda: of_queue.lost_receipts, counter),
        Reading("chatflow_publish_retries", "Envelopes sent again", lambda: of_queue.publish_retries, counter),
        Reading("chatflow_fanout_hears", "1 when a probe came back", lambda: fanout.is_subscribed, gauge),
        Reading("chatflow_fanout_published", "Fan-out messages published", lambda: of_fanout.published, counter),
        Reading(
            "chatflow_fanout_publish_failures", "Fan-out messages given up", lambda: of_fanout.publish_failures, counter
        ),
        Reading("chatflow_fanout_throttled", "Publishes that SNS put off", lambda: of_fanout.throttled, counter),
        Reading("chatflow_fanout_received", "Messages heard", lambda: of_fanout.received, counter),
        Reading("chatflow_fanout_attachments", "Queues made", lambda: of_fanout.attachments, counter),
        Reading("chatflow_instances_reaped", "Dead ones whose queues were removed", lambda: reaper.reaped, counter),
    ]
