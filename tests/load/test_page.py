"""``report.html`` and ``chatflow-load-compare``: what they show, of whatever report there is."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from chatflow.load.compare import main
from chatflow.load.latency import TicksOverTime, curve_ms, percentiles_by_second, percentiles_ms
from chatflow.load.page import as_page
from chatflow.load.report import as_report
from chatflow.load.run import Outcome
from chatflow.load.scenario import Settings
from chatflow.load.svg import percentile_axis
from chatflow.load.tally import PhaseTally, RoomTally, merge


class Reader(HTMLParser):
    """All tags with their attributes, and all text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loads: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [f"{name}={value}" for name, value in attrs if name in ("src", "href", "srcset", "style")]

    def handle_data(self, data: str) -> None:
        self.text += f" {data}"


def _observed(*observed: Mapping[int, Sequence[int]]) -> tuple[Counter[int], Counter[int]]:
    """All latencies, and the buckets, of what was observed in each second."""
    ticks: Counter[int] = Counter()
    buckets: Counter[int] = Counter()
    over_time = TicksOverTime(ticks, buckets)
    for part in observed:
        for second, values in part.items():
            over_time.update(second, values)
    over_time.close()
    return ticks, buckets


def a_report(**changed: Any) -> dict[str, Any]:
    ticks, buckets = _observed({second: [10 * (second + 1)] * 95 + [1000] * 5 for second in range(20) if second != 7})
    main_phase = PhaseTally(
        name="main", connections=4, sent=1900, acked=1900, expected=7600, received=7600, start_us=0,
        end_us=19_500_000, cpu_seconds=[1.0], waited_seconds=[0.0], ack_buckets=buckets,
        ack_ticks=ticks, delivery_ticks=ticks, types=Counter({"TEXT": 1800, "JOIN": 100}),
        acked_in_second=Counter({second: 100 for second in range(20) if second != 7}),
        rooms={room: RoomTally(connections=2, acked=950, first=1, last=950) for room in (1, 2)},
    )  # fmt: skip
    report: dict[str, Any] = json.loads(json.dumps(as_report(Outcome(Settings(seed=7), [main_phase]))))
    return report | changed


@pytest.mark.parametrize("values", [[0], [1, 2, 63, 64, 65], [100, 5000, 36_000_000], [99_999_999]])
def test_buckets_are_a_thirty_second_wide_at_most(values: list[int]) -> None:
    for value in values:
        ticks, buckets = _observed({3: [value] * 3})
        *before, (p50, p95, p99) = percentiles_by_second(buckets)  # type: ignore[misc]
        assert before == [None, None, None]
        assert p50 == p95 == p99 == pytest.approx(min(value, 36_000_000) / 10, rel=1 / 32)
        assert ticks == {value: 3}


def test_buckets_of_several_processes_add_up() -> None:
    one, other = _observed({0: [10] * 60}), _observed({0: [20] * 40})
    tallies = [PhaseTally(name="main", ack_buckets=buckets) for _, buckets in (one, other)]
    assert percentiles_by_second(merge(tallies).ack_buckets) == [[1.0, 2.0, 2.0]]


def test_a_second_that_comes_again_is_the_same_second() -> None:
    ticks, buckets = _observed({0: [10]}, {1: [10]}, {0: [10]})
    assert sum(buckets.values()) == sum(ticks.values()) == 3
    assert percentiles_by_second(buckets) == [[1.0] * 3, [1.0] * 3]


def test_the_curve_rises_and_agrees_with_the_percentiles() -> None:
    ticks = dict.fromkeys(range(1, 100001), 1)
    curve = curve_ms(ticks)
    assert curve == sorted(curve)
    assert curve[-1] == (100.0, 10_000.0)
    found = percentiles_ms(ticks)
    for percentile, name in ((99.0, "p99"), (99.9, "p99_9")):
        assert dict(curve)[percentile] == found[name]
    assert curve_ms({}) == []
    assert curve_ms({5: 1}) == [(0.0, 0.5), (100.0, 0.5)]


def test_each_nine_takes_as_much_place_as_the_one_before() -> None:
    axis = percentile_axis(4)
    assert [axis.place(value) for value in (0, 90, 99, 99.9, 99.99, 100)] == pytest.approx([0, 0.25, 0.5, 0.75, 1, 1])
    assert [text for _, text in axis.marks] == ["0 %", "50 %", "90 %", "99 %", "99.9 %", "99.99 %"]


class TestPage:
    def test_the_verdict_comes_first_and_all_is_there(self) -> None:
        page = Reader(as_page(a_report()))
        assert "PASS" in page.text.split("acknowledged")[0]
        for text in ("HDR histogram", "99.9 %", "Rooms", "JOIN", "950", "Errors", "Settings: urls"):
            assert text in page.text
        assert page.tags.count("svg") == 4

    def test_it_loads_nothing_and_runs_nothing(self) -> None:
        page = Reader(as_page(a_report()))
        assert page.loads == []
        assert not {"script", "link", "img", "iframe", "object"} & set(page.tags)

    def test_every_text_of_the_report_is_escaped(self) -> None:
        bad = "</style></p><script>alert(1)</script>\"'&amp;"
        report = a_report(
            verdict=bad, causes=[bad], client_ceiling_hint=bad, rooms={bad: {"acked": 1}}, types=Counter({bad: 1}),
            refusals=Counter({bad: 1}), losses={bad: 2}, settings={bad: bad}, phases=[{"name": bad}],
        )  # fmt: skip
        page = Reader(as_page(report))
        assert "script" not in page.tags
        assert page.text.count(bad) >= 8
        assert "img" not in page.tags and page.loads == []

    @pytest.mark.parametrize(
        "outcome",
        [
            Outcome(Settings(), causes=["cannot connect to ws://h, room 1: refused"]),
            Outcome(Settings(), [PhaseTally(name="warm-up")]),
            Outcome(
                Settings(),
                [PhaseTally(name="main", refused=5, refusals=Counter({"overloaded": 5}))],
                causes=["main: 5"],
            ),
        ],
        ids=["never began", "only warmed up", "all refused"],
    )
    def test_a_run_without_results_has_a_page_too(self, outcome: Outcome) -> None:
        page = Reader(as_page(json.loads(json.dumps(as_report(outcome)))))
        assert outcome.verdict.upper() in page.text
        assert "NaN" not in page.text and "None" not in page.text.split("Settings")[0]
        for cause in outcome.causes:
            assert cause in page.text

    def test_one_of_an_older_version_leaves_out_what_it_lacks(self) -> None:
        report = a_report()
        for key in ("ack_curve_ms", "delivery_curve_ms", "ack_latency_in_second_ms", "refusals", "losses", "client"):
            del report[key]
        assert "PASS" in Reader(as_page(report)).text
        assert "UNKNOWN" in Reader(as_page({})).text

    def test_a_long_run_with_many_rooms_is_no_large_page(self) -> None:
        day = [1000] * 86_400
        rooms = {str(room): {"connections": 1, "acked": 1, "first_seq": 1, "last_seq": 1} for room in range(10_000)}
        page = as_page(a_report(acked_in_second=day, ack_latency_in_second_ms=[[1.0, 2.0, 3.0]] * 86_400, rooms=rooms))
        assert len(page) < 300_000
        assert "and 9,800 more" in page


class TestCompare:
    @pytest.fixture
    def runs(self, tmp_path: Path) -> Path:
        fast = a_report()
        slow = a_report()
        slow["ack_latency_ms"] = {name: value * 2 for name, value in fast["ack_latency_ms"].items()}
        failed = a_report(verdict="fail", causes=["x"], failed=3)
        for name, report in (("fast", fast), ("slow", slow), ("failed", failed)):
            (tmp_path / name).mkdir()
            (tmp_path / name / "report.json").write_text(json.dumps(report))
        return tmp_path

    def test_two_that_passed_are_status_0_with_ratios(self, runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main([str(runs / "fast"), str(runs / "slow/report.json")]) == 0
        out = capsys.readouterr().out
        assert re.search(r"^ack p99, ms +100 +200 +2\.000$", out, re.MULTILINE)
        assert re.search(r"^acknowledged/s .* 1\.000$", out, re.MULTILINE)

    def test_one_that_failed_is_status_1_and_its_errors_are_told(
        self, runs: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main([str(runs / "fast"), str(runs / "failed")]) == 1
        assert re.search(r"^messages without an answer +0 +3$", capsys.readouterr().out, re.MULTILINE)

    @pytest.mark.parametrize(
        ("first", "second", "percent", "status"),
        [("fast", "slow", "150", 0), ("fast", "slow", "50", 1), ("slow", "fast", "0", 0), ("fast", "fast", "0", 0)],
    )
    def test_worse_by_more_than_allowed_is_status_1(
        self, runs: Path, first: str, second: str, percent: str, status: int
    ) -> None:
        assert main([str(runs / first), str(runs / second), "--max-worse", percent]) == status

    def test_the_page_has_both_in_each_chart(self, runs: Path) -> None:
        assert main([str(runs / "fast"), str(runs / "slow"), "--html", str(runs / "both.html")]) == 0
        page = Reader((runs / "both.html").read_text())
        assert page.tags.count("svg") == 4 and page.loads == []
        assert "worse" in page.text and "B p99" in page.text

    def test_reports_of_different_shapes_are_compared_as_far_as_they_go(
        self, runs: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (runs / "old.json").write_text(json.dumps({"verdict": "pass", "phases": [], "ack_latency_ms": {"p50": None}}))
        assert main([str(runs / "old.json"), str(runs / "fast"), "--html", str(runs / "both.html")]) == 0
        assert re.search(r"^ack p99, ms +– +100 +–$", capsys.readouterr().out, re.MULTILINE)

    @pytest.mark.parametrize(
        ("content", "complaint"),
        [("{", "is not JSON"), ("[]", "is no report of chatflow-load"), ("{}", "is no report"), ("[" * 9999, "is not")],
    )
    def test_what_is_no_report_is_one_line_and_status_2(
        self, runs: Path, capsys: pytest.CaptureFixture[str], content: str, complaint: str
    ) -> None:
        (runs / "bad.json").write_text(content)
        assert main([str(runs / "bad.json"), str(runs / "fast")]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("chatflow-load-compare: ") and complaint in line

    def test_what_is_not_there_or_cannot_be_written_is_status_2(
        self, runs: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main([str(runs / "gone"), str(runs / "fast")]) == 2
        assert main([str(runs / "fast"), str(runs / "fast"), "--html", str(runs / "gone/x.html")]) == 2
        assert "No such file" in capsys.readouterr().err
