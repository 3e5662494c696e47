"""The table of what is sent, or fails, names tests that there are."""

from __future__ import annotations

import ast
import re
from pathlib import Path

_ROOT = Path(__file__).parents[2]
_ROW = re.compile(r"^   \* - ", re.MULTILINE)
_CELL = re.compile(r"^     - ", re.MULTILINE)
_TEST = re.compile(r"``(tests/[\w/]+\.py)::(test_\w+)``")
_HEADING = ["what is sent, or happens", "what a user sees", "the test"]


def _rows() -> list[list[str]]:
    """The cells of each row, without those of headings."""
    page = (_ROOT / "docs/reliability.rst").read_text(encoding="utf-8")
    rows = [[" ".join(cell.split()) for cell in _CELL.split(row)] for row in _ROW.split(page)[1:]]
    return [row for row in rows if row[0] != _HEADING[0]]


def _tests(path: Path) -> set[str]:
    return {
        node.name
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


def test_every_row_says_what_is_sent_what_is_seen_and_which_test_holds_it_so() -> None:
    rows = _rows()
    assert len(rows) >= 60
    assert [row for row in rows if len(row) < 3 or not all(row[:2]) or not _TEST.search(row[2])] == []
    assert len({row[0] for row in rows}) == len(rows), "each once"


def test_every_test_that_it_names_is_there() -> None:
    named = {place for row in _rows() for place in _TEST.findall(row[2])}
    missing = {(path, name) for path, name in named if not (_ROOT / path).is_file() or name not in _tests(_ROOT / path)}
    assert missing == set()
