"""The documentation builds without a warning, and names only what there is."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).parent.parent.parent
_NAMES = re.compile(r":code:`(chatflow\.[\w.]+)`")


def _named() -> list[tuple[str, str]]:
    """Every dotted name of the code, with the page that names it."""
    pages = sorted((_ROOT / "docs").rglob("*.rst"))
    return sorted(
        {(page.stem, name) for page in pages for name in _NAMES.findall(page.read_text(encoding="utf-8"))},
    )


def _resolve(name: str) -> object:
    """What a dotted name stands for: the longest module, then attributes."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for attribute in parts[length:]:
            found = getattr(found, attribute)
        return found
    raise ModuleNotFoundError(name)


def test_the_documentation_builds_without_a_warning(tmp_path: Path) -> None:
    ended = subprocess.run(
        [
            sys.executable,
            "-m",
            "sphinx",
            "-q",
            "-W",
            "--keep-going",
            "-b",
            "html",
            "-d",
            tmp_path / "d",
            "docs",
            tmp_path,
        ],
        cwd=_ROOT,
        capture_output=True,
        text=True,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "proves what it delivers" in (tmp_path / "index.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(("page", "name"), _named())
def test_a_function_that_the_documentation_names_is_in_the_code(page: str, name: str) -> None:
    assert callable(_resolve(name))


def test_the_path_of_a_message_has_a_function_at_each_step() -> None:
    assert sum(page == "architecture" for page, _ in _named()) >= 10


def test_every_page_is_reached_from_the_index() -> None:
    linked = set(
        re.findall(r"^   ([\w/-]+)$", (_ROOT / "docs" / "index.rst").read_text(encoding="utf-8"), re.MULTILINE)
    )
    pages = {page.stem for page in (_ROOT / "docs").glob("*.rst")} - {"index"}
    assert pages <= {name.partition("/")[0] for name in linked}


def test_the_changelog_can_be_made() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "towncrier", "build", "--draft", "--version", "9.9.9"],
        cwd=_ROOT,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    assert "()" not in ended.stdout, "of numbers of issues"
    fragments = [path.name for path in (_ROOT / "changelog.d").glob("*.rst")]
    assert all(re.fullmatch(r"[a-z0-9-]+\.(added|changed|fixed|removed|security)\.rst", name) for name in fragments)
