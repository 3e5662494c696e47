"""A leak is found in what was measured, and latencies of the beginning are told from those of the end."""

from __future__ import annotations

import json
import sys
from array import array
from pathlib import Path
from random import Random

import pytest

from benchmarks import __main__ as command
from benchmarks import results
from benchmarks.endurance import latencies_ms
from benchmarks.trend import fifths, percentile, slope_per_minute


def samples(bytes_per_minute: float, warm_up_bytes: float = 0.0) -> list[tuple[float, float]]:
    """Half an hour of a daemon of 80 MB with noise of 2 MB, which grows in its first five minutes as all do."""
    random = Random(1)
    return [
        (
            1000.0 + second,
            80e6 + warm_up_bytes * min(1.0, second / 300) + bytes_per_minute * second / 60 + random.gauss(0, 2e6),
        )
        for second in range(0, 1800, 3)
    ]


def test_a_leak_is_found_and_noise_is_none() -> None:
    assert abs(slope_per_minute(samples(0))) < 50_000
    assert slope_per_minute(samples(1_500_000)) == pytest.approx(1_500_000, rel=0.05)
    assert slope_per_minute(samples(-500_000)) == pytest.approx(-500_000, rel=0.15)


def test_what_grows_in_the_warm_up_alone_is_no_leak() -> None:
    grown = samples(0, warm_up_bytes=100e6)
    assert slope_per_minute(grown) > 1e6
    assert abs(slope_per_minute(grown, warm_up_seconds=600)) < 50_000


def test_of_too_few_samples_nothing_is_said() -> None:
    assert slope_per_minute([]) == slope_per_minute([(1.0, 5.0)]) == slope_per_minute([(1.0, 5.0), (2.0, 9.0)], 2) == 0


def test_fifths_are_everything_in_order() -> None:
    parts = fifths(range(23))
    assert len(parts) == 5 and [value for part in parts for value in part] == list(range(23))
    assert {len(part) for part in parts} <= {4, 5}


def test_a_percentile_is_one_of_the_values() -> None:
    assert percentile([], 50) is None
    assert [percentile(range(1, 101), percent) for percent in (0, 50, 99, 100)] == [1, 51, 100, 100]


def test_latencies_are_those_of_acknowledged_messages(tmp_path: Path) -> None:
    path = tmp_path / "messages.csv"
    path.write_text(
        "timestamp,messageType,latency_ms,status,room\nt,TEXT,1.5,SUCCESS,1\nt,,,FAILED,2\nt,JOIN,2.0,SUCCESS,1\n"
    )
    assert latencies_ms(path) == array("d", [1.5, 2.0])


def test_a_daemon_that_leaks_is_seen_to_grow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    size = ["--minutes", "0.06", "--rate", "400", "--connections", "10", "--every-seconds", "1"]
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    monkeypatch.setattr(sys, "argv", ["benchmarks", "endurance", *size, "--plant", "leak"])
    assert command.main() == 0, "a run of seconds proves nothing of memory"
    (path,) = tmp_path.iterdir()
    figures = {figure["name"]: figure for figure in json.loads(path.read_text())["figures"]}
    growth = figures["grows after the warm-up by"]
    assert growth["value"] > 5 and not growth["met"]
    assert figures["messages acknowledged, stored and delivered"]["value"] == 1440
    assert figures["times that a connection came back"]["value"] > 0
    assert "MISSED" in capsys.readouterr().out
