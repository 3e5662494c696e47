"""What the system lets a process have: the least of all limits counts, and who asks for more is told in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from chatflow.errors import StartupError
from chatflow.resources import OTHER_FILES, Memory, allow_buffers, lacking_files, memory

_GIB = 1 << 30


@pytest.fixture
def process(tmp_path: Path) -> Path:
    (tmp_path / "groups/system/chat").mkdir(parents=True)
    (tmp_path / "cgroup").write_text("0::/system/chat\n")
    return tmp_path


@pytest.mark.parametrize(
    ("limits", "size_bytes"),
    [
        ({"system/chat": "300000000", "system": "max"}, 300_000_000),
        ({"system/chat": "300000000", "system": "200000000"}, 200_000_000),
        ({".": "100000000"}, 100_000_000),
    ],
)
def test_the_least_limit_of_a_control_group_counts(process: Path, limits: dict[str, str], size_bytes: int) -> None:
    for group, limit in limits.items():
        (process / "groups" / group / "memory.max").write_text(limit + "\n")
    assert memory(process, process / "groups") == Memory(size_bytes, "its control group")


def test_so_does_that_of_the_first_version(process: Path) -> None:
    (process / "cgroup").write_text("5:cpu:/x\n4:memory:/chat\n")
    (process / "groups/memory/chat").mkdir(parents=True)
    (process / "groups/memory/chat/memory.limit_in_bytes").write_text("150000000\n")
    assert memory(process, process / "groups").size_bytes == 150_000_000


def test_without_any_it_is_the_machine_or_ulimit(process: Path) -> None:
    assert memory(process / "none", process / "groups").source in ("the machine's memory", "ulimit -v")


def test_the_usual_share_is_a_quarter_of_it_up_to_a_gibibyte() -> None:
    assert allow_buffers(0, Memory(_GIB, "x")) == _GIB // 4
    assert allow_buffers(0, Memory(100 * _GIB, "x")) == _GIB


def test_three_quarters_may_be_asked_for_and_not_a_byte_more() -> None:
    assert allow_buffers(750, Memory(1000, "x")) == 750
    with pytest.raises(StartupError, match=r"= 751: this process may have 1000 bytes \(x\); give at most 750"):
        allow_buffers(751, Memory(1000, "x"))


def test_files_that_do_not_suffice_are_told_with_the_remedy() -> None:
    assert lacking_files(10_000, 10_000 + OTHER_FILES) == ""
    assert lacking_files(10_000, -1) == ""
    assert lacking_files(10_000, 9_999 + OTHER_FILES).endswith("give --max-connections 9999")
