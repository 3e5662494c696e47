"""Fault points wrap what implements ChatFlow's contracts from outside; ChatFlow knows nothing of them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from chatflow.contracts.fanout import IFanout
from chatflow.contracts.room_queue import IRoomQueue
from chatflow.contracts.writer import IBatchWriter
from testbed.fault_points import PLANTS, POINTS, implementations

_ROOT = Path(__file__).parents[2]
_WORDS = ["fault_points", "TESTBED", "testbed", *POINTS, *PLANTS]


@pytest.mark.parametrize("contract", [IRoomQueue, IBatchWriter, IFanout])
def test_every_implementation_of_a_contract_is_wrapped(contract: type) -> None:
    """Those that say so in their source, wherever it is."""
    source = re.compile(rf"@implementer\([^)]*\b{contract.__name__}\b[^)]*\)\s*class (\w+)")
    said = {name for path in (_ROOT / "chatflow").rglob("*.py") for name in source.findall(path.read_text())}
    assert {one.__name__ for one in implementations(contract)} == said != set()


def test_chatflow_has_no_hook_for_faults() -> None:
    shipped = [*(_ROOT / "chatflow").rglob("*"), *(_ROOT / "twisted").rglob("*.py"), *(_ROOT / "sql").rglob("*")]
    texts = {path: path.read_text() for path in shipped if path.suffix in (".py", ".sql", ".js", ".html")}
    assert len(texts) > 100
    found = {(path.name, word) for path, text in texts.items() for word in _WORDS if f'"{word}"' in text}
    found |= {
        (path.name, "import") for path, text in texts.items() if re.search(r"^\s*(from|import) testbed", text, re.M)
    }
    assert found == set()


def test_a_daemon_that_is_started_as_people_do_loads_none() -> None:
    code = (
        "import sys, chatflow.tap; from chatflow.persistence.writer import BatchWriter;"
        "print([name for name in sys.modules if name.startswith('testbed')], BatchWriter.write.__module__)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=_ROOT).stdout
    assert said.split() == ["[]", "chatflow.persistence.writer"]
