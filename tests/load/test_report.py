"""What a run tells of itself."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from chatflow.load.interfaces import Progress
from chatflow.load.latency import percentiles_ms
from chatflow.load.output import KeptAcks, join_parts, part_path
from chatflow.load.progress import progress_text
from chatflow.load.proof import Stored
from chatflow.load.report import as_report, as_summary, ceiling_hint, throughput_lines, write_files
from chatflow.load.run import Outcome
from chatflow.load.scenario import Settings, kinds
from chatflow.load.tally import PhaseTally, RoomTally
from chatflow.load.wall_clock import Clock


def _outcome() -> Outcome:
    warm_up = PhaseTally(
        name="warm-up", sent=10, acked=10, expected=30, received=30, start_us=0, end_us=500_000,
        ack_ticks=Counter({99: 10}), types=Counter({"TEXT": 10}), acked_in_second=Counter({0: 10}),
    )  # fmt: skip
    main = PhaseTally(
        name="main", connections=4, sent=104, acked=100, refused=3, failed=1, expected=400, received=398, repeated=2,
        duplicated=1, out_of_order=5, room_seq_holes=1, start_us=1_000_000, end_us=23_500_000, cpu_seconds=[4.5],
        waited_seconds=[0.0], ack_ticks=Counter({10: 50, 20: 49, 500: 1}), delivery_ticks=Counter({30: 398}),
        types=Counter({"TEXT": 90, "JOIN": 10}), acked_in_second=Counter({0: 40, 9: 10, 10: 20, 22: 30}),
        rooms={2: RoomTally(connections=4, acked=100, first=11, last=110)},
    )  # fmt: skip
    stored = Stored(checked=110, missing=4, duplicated=5, holes=6)
    return Outcome(Settings(seed=7), [warm_up, main], stored, ["main: something"])


def test_the_report_has_the_keys_that_others_read() -> None:
    report = as_report(_outcome())
    assert report["verdict"] == "fail"
    assert (report["sent"], report["acked"], report["refused"], report["failed"]) == (114, 110, 3, 1)
    assert report["reconnects"] == 0
    deliveries = report["deliveries"]
    assert (deliveries["expected"], deliveries["received"], deliveries["missing"]) == (430, 428, 2)
    assert (deliveries["duplicated"], deliveries["out_of_order"]) == (3, 5)
    assert report["stored"] == {"checked": 110, "missing": 4, "duplicated": 5, "holes": 6}
    assert report["room_seq_holes"] == 1
    assert [phase["name"] for phase in report["phases"]] == ["warm-up", "main"]
    main = report["phases"][1]
    assert main["seconds"] == 22.5
    assert main["acked"] == 100
    assert main["acked_per_second"] == round(100 / 22.5, 1)
    assert main["delivered_per_second"] == round(398 / 22.5, 1)
    assert set(report["ack_latency_ms"]) >= {"p50", "p95", "p99", "p99_9", "max"}
    assert report["delivery_latency_ms"]["max"] == 3.0


def test_a_setting_that_was_not_made_is_told_as_it_would_be_written() -> None:
    told = as_report(_outcome())["settings"]
    assert (told["rate"], told["senders"], told["reconnect"], told["output"]) == (0.0, 0, 0.0, "")


def test_latencies_are_of_the_main_phase_only() -> None:
    assert as_report(_outcome())["ack_latency_ms"]["max"] == 50.0


def test_percentiles_are_those_of_the_samples() -> None:
    found = percentiles_ms(dict.fromkeys(range(1, 1001), 1))
    assert found["p50"] == pytest.approx(50.0, rel=0.002)
    assert found["p95"] == pytest.approx(95.0, rel=0.002)
    assert found["p99"] == pytest.approx(99.0, rel=0.002)
    assert found["p99_9"] == pytest.approx(99.9, rel=0.002)
    assert found["max"] == 100.0
    assert found["mean"] == pytest.approx(50.05, rel=0.002)


def test_without_a_sample_there_are_no_percentiles() -> None:
    assert set(percentiles_ms({}).values()) == {None}


def test_a_latency_of_zero_counts() -> None:
    assert percentiles_ms({0: 9, 1000: 1})["p50"] == 0.0


def test_throughput_is_in_intervals_of_ten_seconds_and_the_last_one_has_its_true_length() -> None:
    assert list(throughput_lines(_outcome().phases[1])) == [
        "TimeInterval,StartTime,EndTime,MessageCount,Throughput\n",
        "0-10,0,10,50,5.00\n",
        "10-20,10,20,20,2.00\n",
        "20-22.5,20,22.5,30,12.00\n",
    ]


def test_the_summary_names_the_verdict_the_causes_and_the_figures() -> None:
    summary = as_summary(_outcome())
    assert summary.startswith("Verdict: FAIL\n  - main: something\n")
    assert "100 messages acknowledged in 22.50 s over 4 connections: 4/s acknowledged, 18/s delivered" in summary
    assert "missing 2, duplicated 3, out of order 5" in summary
    assert "Database    checked 110, missing 4, duplicated 5, holes 6" in summary
    assert "JOIN 10 (10.0%), TEXT 90 (90.0%)" in summary
    assert "Rooms: 2: 100" in summary
    assert "used 20% of a processor" in summary
    assert "Seed: 7" in summary


def test_a_run_that_never_began_has_a_report_too() -> None:
    outcome = Outcome(Settings(), causes=["cannot connect"])
    assert json.loads(json.dumps(as_report(outcome)))["verdict"] == "fail"
    assert as_summary(outcome).startswith("Verdict: FAIL\n  - cannot connect\n")


def test_what_was_not_checked_is_not_said_to_be_stored() -> None:
    outcome = Outcome(Settings(), [PhaseTally(name="main")])
    assert outcome.verdict == "pass"
    assert "Database    not checked" in as_summary(outcome)
    assert as_report(outcome)["stored"]["checked"] == 0


@pytest.mark.parametrize(
    ("cpu", "waited", "hint"),
    [
        (0.5, 0.1, "it was not the bottleneck"),
        (0.95, 0.0, "the client may have been the bottleneck"),
        (0.5, 0.4, "it shared the processors with others"),
    ],
)
def test_the_client_tells_whether_it_was_the_bottleneck(cpu: float, waited: float, hint: str) -> None:
    phase = PhaseTally(
        name="main", start_us=0, end_us=10_000_000, cpu_seconds=[1.0, cpu * 10], waited_seconds=[waited * 10]
    )
    assert hint in ceiling_hint(phase)


def test_the_files_of_a_run_are_written(tmp_path: Path) -> None:
    write_files(_outcome(), str(tmp_path))
    assert json.loads((tmp_path / "report.json").read_text())["sent"] == 114
    assert (tmp_path / "throughput.csv").read_text().startswith("TimeInterval,")


def test_lines_of_messages_are_in_iso_8601_and_those_without_an_answer_failed(tmp_path: Path) -> None:
    table = kinds((90, 5, 5))
    join = next(index for index, kind in enumerate(table) if kind.type == "JOIN")
    kept = KeptAcks(ids=False, lines=True)
    kept.add(3, ["not kept"], [(1_000_000, join, 123)])
    clock = Clock(lambda: 0, 1_700_000_000_000_000)
    with part_path(str(tmp_path), 0).open("w") as part:
        part.writelines(kept.lines(table, clock, [(2_500_000, 4)]))
    part_path(str(tmp_path), 2).write_text("of the third process\n")
    join_parts(str(tmp_path), 3)
    assert (tmp_path / "messages.csv").read_text().splitlines() == [
        "timestamp,messageType,latency_ms,status,room",
        "2023-11-14T22:13:21.000000Z,JOIN,12.3,SUCCESS,3",
        "2023-11-14T22:13:22.500000Z,,,FAILED,4",
        "of the third process",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["messages.csv"]


def test_ids_are_kept_as_16_bytes_and_what_is_no_uuid_is_in_no_database() -> None:
    kept = KeptAcks(ids=True, lines=False)
    ids = ["018f3c5e-7b1a-7c3d-9e4f-000000000001", "018f3c5e7b1a7c3d9e4f000000000002", "nonsense", "ab"]
    kept.add(3, ids, [])
    assert bytes(kept.ids[3]).hex() == "018f3c5e7b1a7c3d9e4f000000000001018f3c5e7b1a7c3d9e4f000000000002" + "0" * 64


def test_progress_is_told_as_a_rate_since_the_last_time() -> None:
    text = progress_text("main", Progress(90, 100, 400), Progress(250, 200, 900), 0.5)
    assert text == "main: 250 sent, 200 acknowledged (200/s), 900 delivered (1,000/s)"


def test_progress_begins_anew_with_a_phase() -> None:
    text = progress_text("main", Progress(900, 900, 900), Progress(60, 50, 100), 0.5)
    assert "50 acknowledged (100/s)" in text
