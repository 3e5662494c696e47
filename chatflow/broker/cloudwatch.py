"""CloudWatch's figures, where there are credentials that may read them. Blocks."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import boto3
from botocore.config import Config

from chatflow.broker.surroundings import tidy_environment

#: SQS publishes each minute, some minutes late.
_LOOK_BACK_SECONDS = 900
_PERIOD_SECONDS = 60
_MAX_QUERIES = 500  # of one GetMetricData
_DATABASE_FIGURES = ("CPUUtilization", "FreeableMemory", "DatabaseConnections", "CommitLatency", "FreeLocalStorage")


class CloudWatch:
    """:param now: seconds since 1970."""

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._now = now
        tidy_environment()
        self._client = boto3.session.Session().client(
            "cloudwatch",
            config=Config(connect_timeout=2, read_timeout=5, retries={"mode": "standard", "total_max_attempts": 1}),
        )

    def oldest_seconds(self, queues: Sequence[str]) -> dict[str, float]:
        """Age of the oldest message by queue; of an idle queue CloudWatch knows none."""
        return self._latest(
            [("AWS/SQS", "ApproximateAgeOfOldestMessage", "QueueName", queue, "Maximum") for queue in queues],
            list(queues),
        )

    def database(self, cluster: str) -> dict[str, float]:
        """Figures of an Aurora cluster by their name in CloudWatch."""
        return self._latest(
            [("AWS/RDS", figure, "DBClusterIdentifier", cluster, "Average") for figure in _DATABASE_FIGURES],
            _DATABASE_FIGURES,
        )

    def _latest(self, figures: Sequence[tuple[str, str, str, str, str]], names: Sequence[str]) -> dict[str, float]:
        found: dict[str, float] = {}
        end = self._now()
        for begin in range(0, len(figures), _MAX_QUERIES):
            answer = self._client.get_metric_data(
                MetricDataQueries=[
                    {
                        "Id": f"f{index}",
                        "MetricStat": {
                            "Metric": {
                                "Namespace": namespace,
                                "MetricName": metric,
                                "Dimensions": [{"Name": dimension, "Value": value}],
                            },
                            "Period": _PERIOD_SECONDS,
                            "Stat": statistic,
                        },
                    }
                    for index, (namespace, metric, dimension, value, statistic) in enumerate(
                        figures[begin : begin + _MAX_QUERIES], begin
                    )
                ],
                StartTime=datetime.fromtimestamp(end - _LOOK_BACK_SECONDS, UTC),
                EndTime=datetime.fromtimestamp(end, UTC),
                ScanBy="TimestampDescending",
            )
            for result in answer["MetricDataResults"]:
                if result["Values"]:
                    found[names[int(result["Id"][1:])]] = result["Values"][0]
        return found


def ask(look: Callable[[CloudWatch], dict[str, float]]) -> dict[str, float]:
    """What a look gives; nothing where CloudWatch cannot be asked, for whatever reason: it is an addition."""
    try:
        return look(CloudWatch())
    except Exception:
        return {}
