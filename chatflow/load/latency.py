"""Latencies: counted in ticks of 0.1 ms during the run, put into an HDR histogram at its end."""

from __future__ import annotations

from collections.abc import Mapping

from hdrh.histogram import HdrHistogram

from chatflow.load.roomlog import TICK_US

_HIGHEST_TICKS = 36_000_000  # one hour
_SIGNIFICANT_DIGITS = 3
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
    found["mean"] = round(filled.get_mean_value() * TICK_US / 1000, 3)
    return found
