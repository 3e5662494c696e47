"""The table of faults has a row for each that there is, with the command that makes it happen."""

from __future__ import annotations

import re
from pathlib import Path

from benchmarks.faults.catalogue import FAULTS

_PAGE = Path(__file__).parents[2] / "docs/faults.rst"


def test_every_fault_has_its_row_and_no_other_is_there() -> None:
    commands = re.findall(r"^     - ``faults ([\w-]+)``$", _PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(commands) == sorted(FAULTS)


def test_what_happens_is_said_as_the_command_says_it() -> None:
    page = _PAGE.read_text(encoding="utf-8")
    assert [fault.name for fault in FAULTS.values() if f"   * - {fault.what}\n     - {fault.sees}\n" not in page] == []
