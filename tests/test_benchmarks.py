"""The benchmarks run, in a small size, and tell a fault from a goal that was missed."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks import __main__ as command
from benchmarks import results
from benchmarks.results import Result


@pytest.fixture(autouse=True)
def results_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    return tmp_path


def kept(directory: Path) -> dict[str, object]:
    """The one result that was written."""
    (path,) = directory.iterdir()
    content: dict[str, object] = json.loads(path.read_text())
    return content


@pytest.mark.parametrize(
    "arguments",
    [
        ["steps", "--seconds", "0.01"],
        ["commit", "--batches", "2"],
        ["commit-sizes", "--seconds", "0.2", "--rows", "1", "30"],
        ["throughput", "--messages", "2000", "--", "--batch-size", "100"],
        ["idle", "--connections", "20", "--seconds", "0"],
        ["archive", "--rows", "2000", "--days", "2", "--reads", "5", "--queries", "2", "--refreshes", "1"],
        ["resume-one", "--messages", "3000", "--times", "1", "--seconds", "0.2", "--rate", "100"],
        ["peers", "--workloads", "A,resume", "--rounds", "1", "--seconds", "0.2", "--missed", "500"],
        ["scale", "--connections", "40", "--rooms", "30", "--users", "2000", "--rate", "50", "--seconds", "0.3"],
        ["cluster-idle", "--instances", "1", "--connections", "5", "--no-proxy", "--seconds", "1"],
        ["resume-many", "--connections", "30", "--messages", "50", "--seconds", "0.2", "--rate", "100"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_a_benchmark_prints_its_figures_and_keeps_the_raw_numbers(
    arguments: list[str], results_directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmarks", *arguments])
    assert command.main() == 0
    content = kept(results_directory)
    assert content["name"] == arguments[0]
    assert content["figures"] and content["raw"]
    printed = capsys.readouterr().out
    assert all(figure["name"] in printed for figure in content["figures"])  # type: ignore[attr-defined]


def test_without_a_name_all_are_listed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmarks"])
    assert command.main() == 0
    listed = capsys.readouterr().out
    for name in ("steps", "throughput", "cluster-changes"):
        assert name in listed


def test_a_missed_goal_is_told_and_a_fault_fails(results_directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = Result("sample")
    result.add("too slow", 16.0, "ms", ("<=", 15))
    result.add("just right", 15.0, "ms", ("<=", 15))
    result.add("not taken", None, "ms", (">=", 1))
    assert result.tell() == 0
    missed = [line for line in capsys.readouterr().out.splitlines() if "MISSED" in line]
    assert [line.split("  ")[1] for line in missed] == ["too slow", "not taken"]
    result.expect_pass({"verdict": "fail", "causes": ["something is missing"]})
    assert result.tell() == 1
    assert "something is missing" in capsys.readouterr().out
