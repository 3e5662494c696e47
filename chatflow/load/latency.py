"""Latencies: counted in ticks of 0.1 ms during the run, put into an HDR histogram at its end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from hdrh.histogram import HdrHistogram

from chatflow.load.roomlog import TICK_US

_HIGHEST_TICKS = 36_000_000  # one hour
_SIGNIFICANT_DIGITS = 3
_CURVE_STEPS = 8  # for each nine
_BUCKETS = 1024  # more than there are up to the highest latency
_PERCENTILES = {"p50": 50.0, "p95": 95.0, "p99": 99.0, "p99_9": 99.9}


def histogram(ticks: Mapping[int, int]) -> HdrHistogram:
    """:param ticks: latency in ticks → how many had it."""
    result = HdrHistogram(1, _HIGHEST_TICKS, _SIGNIFICANT_DIGITS)
    for value, count in ticks.items():
        result.record_value(min(max(value, 0), _HIGHEST_TICKS), count)
    return result


def percentiles_ms(ticks: Mapping[int, int]) -> dict[str, float | None]:
    """``p50``, ``p95``, ``p99``, ``p99_9``, ``max`` and ``mean`` in milliseconds; all None without a sample."""
    if not ticks:
        return dict.fromkeys([*_PERCENTILES, "max", "mean"])
    filled = histogram(ticks)
    found: dict[str, float | None] = {
        name: filled.get_value_at_percentile(percentile) * TICK_US / 1000 for name, percentile in _PERCENTILES.items()
    }
    found["max"] = max(ticks) * TICK_US / 1000
    found["mean"] = round(
        sum(value * count for value, count in ticks.items()) / sum(ticks.values()) * TICK_US / 1000, 3
    )
    return found


def curve_ms(ticks: Mapping[int, int]) -> list[tuple[float, float]]:
    """The HDR curve: percentile and milliseconds, the nearer to 100 the closer together; ends with the maximum."""
    if not ticks:
        return []
    filled, count = histogram(ticks), sum(ticks.values())
    found = []
    for step in range(_CURVE_STEPS * len(str(count)) + 1):
        above = 10 ** (-step / _CURVE_STEPS)
        if above * count < 1:
            break
        percentile = 100 * (1 - above)
        found.append((round(percentile, 6), filled.get_value_at_percentile(percentile) * TICK_US / 1000))
    return [*found, (100.0, max(ticks) * TICK_US / 1000)]


class TicksOverTime:
    """Counts all latencies of a phase, and those of each second in buckets a thirty-second of a power of two wide.

    A second is put into buckets when it is over, latency by latency and not message by message.

    :param ticks: latency in ticks → how many had it; whole after :meth:`close`.
    :param buckets: second and bucket, as one number → how many; whole after :meth:`close`.
    """

    def __init__(self, ticks: Counter[int], buckets: Counter[int]) -> None:
        self._ticks = ticks
        self._buckets = buckets
        self._under_way: Counter[int] = Counter()
        self._second = 0

    def update(self, second: int, ticks: Sequence[int]) -> None:
        """These were observed in that second of the phase."""
        if second != self._second:
            self.close()
            self._second = second
        self._under_way.update(ticks)

    def close(self) -> None:
        """The second under way is over."""
        key = self._second * _BUCKETS
        for value, count in self._under_way.items():
            self._buckets[key + _bucket(value)] += count
        self._ticks.update(self._under_way)
        self._under_way.clear()


def _bucket(ticks: int) -> int:
    value = min(max(ticks, 0), _HIGHEST_TICKS)
    exponent = max(0, value.bit_length() - 6)
    return (exponent << 5) + (value >> exponent)


def _ticks_of(bucket: int) -> int:
    exponent = max(0, (bucket >> 5) - 1)
    return (bucket - (exponent << 5)) << exponent


def percentiles_by_second(buckets: Mapping[int, int]) -> list[list[float] | None]:
    """p50, p95 and p99 in milliseconds of each second from the phase's first; None if nothing was observed in it.

    :param buckets: of :class:`TicksOverTime`; those of several processes may be added up.
    """
    seconds: dict[int, list[tuple[int, int]]] = {}
    for key in sorted(buckets):
        seconds.setdefault(key // _BUCKETS, []).append((_ticks_of(key % _BUCKETS), buckets[key]))
    return [
        list(_percentiles(seconds[second])) if second in seconds else None
        for second in range(max(seconds, default=-1) + 1)
    ]


def _percentiles(counts: Sequence[tuple[int, int]]) -> Iterator[float]:
    """:param counts: ticks in rising order, and how many."""
    total = sum(count for _, count in counts)
    for share in (0.5, 0.95, 0.99):
        seen = 0
        for ticks, count in counts:
            seen += count
            if seen >= share * total:
                yield ticks * TICK_US / 1000
                break
