"""What this instance counts, as Prometheus is told it.

Counters are plain integers of the parts that count, read when somebody asks: nothing is paid per message.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence

from prometheus_client import CollectorRegistry, GCCollector, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from chatflow.errors import Unavailable
from chatflow.readings import Reading

_COMMIT_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
# Close together, so that percentiles can be told from them.
_ACK_SECONDS = tuple(round(digit * 10**power, 4) for power in range(-3, 2) for digit in (1, 1.5, 2, 3, 5, 7))
_BATCH_MESSAGES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000)


class _Readings(Collector):
    def __init__(self, readings: Iterable[Reading]) -> None:
        self._readings = tuple(readings)

    def collect(self) -> Iterator[Metric]:
        for reading in self._readings:
            kind = CounterMetricFamily if reading.is_counter else GaugeMetricFamily
            family = kind(reading.name, reading.help, labels=[reading.label] if reading.label else None)
            value = reading.read()
            for label, number in value.items() if isinstance(value, Mapping) else [(None, value)]:
                family.add_metric([] if label is None else [label], number)
            yield family


class Metrics:
    """The figures of one daemon. ``observe_batch`` is given to the batch writer.

    :ivar observe_ack: takes the seconds from the acceptance of an envelope's oldest message to its acknowledgement.
    """

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._commit_seconds = Histogram(
            "chatflow_commit_seconds",
            "From the start of a flush to its commit",
            buckets=_COMMIT_SECONDS,
            registry=self._registry,
        )
        self._batch_messages = Histogram(
            "chatflow_batch_messages", "Messages per commit", buckets=_BATCH_MESSAGES, registry=self._registry
        )
        self.observe_ack = self.histogram(
            "chatflow_ack_seconds", "Of each envelope's oldest message: from its acceptance until durable", _ACK_SECONDS
        )
        ProcessCollector(registry=self._registry)
        GCCollector(registry=self._registry)

    def observe_batch(self, messages: int, seconds: float) -> None:
        """Record a committed batch: messages, and seconds that the transaction took."""
        self._batch_messages.observe(messages)
        self._commit_seconds.observe(seconds)

    def histogram(self, name: str, help_: str, buckets: Sequence[float]) -> Callable[[float], None]:
        """Show one more histogram; what this returns adds an observation to it."""
        return Histogram(name, help_, buckets=buckets, registry=self._registry).observe

    def add(self, readings: Iterable[Reading]) -> None:
        """Show these figures to Prometheus, too."""
        self._registry.register(_Readings(readings))

    def snapshot(self) -> dict[str, dict[str, float]]:
        """Every sample by name and label, as Prometheus would get it; without a label it is ``""``."""
        found: dict[str, dict[str, float]] = {}
        for family in self._registry.collect():
            for sample in family.samples:
                found.setdefault(sample.name, {})[",".join(sample.labels.values())] = sample.value
        return found

    def prometheus(self) -> tuple[bytes, str]:
        """The text and its content type."""
        encode, content_type = choose_encoder("")
        return encode(self._registry), content_type


class Latest:
    """A figure that costs a question, asked from time to time. ``value``: NaN while it is not known."""

    def __init__(self, ask: Callable[[], Awaitable[float]]) -> None:
        self._ask = ask
        self.value = float("nan")

    async def ask(self) -> None:
        """Ask again. Does not fail."""
        try:
            self.value = float(await self._ask())
        except Unavailable:
            self.value = float("nan")

    def readings(self, name: str, help_: str) -> list[Reading]:
        """For Prometheus, under this name."""
        return [Reading(name, help_, lambda: self.value, is_counter=False)]
