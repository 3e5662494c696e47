"""What is installed from a wheel works without the checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from chatflow.persistence.migrations import load_migrations

CHECKOUT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with what the wheel installs; the dependencies are those of this interpreter."""
    work = tmp_path_factory.mktemp("packaging")
    # Built from a copy, because a build leaves files beside its sources; and without what earlier builds left.
    source = work / "source"
    source.mkdir()
    for name in ("setup.cfg", "setup.py", "pyproject.toml", "README.rst"):
        shutil.copy(CHECKOUT / name, source)
    for name in ("chatflow", "twisted", "sql"):
        shutil.copytree(CHECKOUT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "*.cache"))
    target = work / "installed"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    # Without isolation nothing is downloaded: setuptools is among the extra `test`.
    options = ["--no-deps", "--no-build-isolation", "--no-compile", "--target", str(target)]
    result = subprocess.run([*pip, *options, str(source)], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return target


def run(installed: Path, *command: str) -> str:
    """Standard output of a Python program that finds the installed package, and not the checkout."""
    result = subprocess.run(
        [sys.executable, *command],
        cwd=installed.parent,
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_twistd_lists_both_plugins(installed: Path) -> None:
    program = (
        "import sys; sys.argv = ['twistd', '--help']; from twisted.scripts.twistd import run\n"
        "try: run()\n"
        "finally: print(sys.modules['twisted.plugins.chatflow_plugin'].__file__)"
    )
    lines = run(installed, "-c", program).splitlines()
    assert {"chatflow", "chatflow-load"} <= {line.split()[0] for line in lines if line.strip()}
    assert lines[-1] == str(installed / "twisted" / "plugins" / "chatflow_plugin.py")


def test_the_schema_is_inside(installed: Path) -> None:
    program = (
        "import chatflow; from chatflow.persistence import migrations;"
        "print(chatflow.__file__); [print(file.name, file.checksum) for file in migrations.load_migrations()]"
    )
    place, *files = run(installed, "-c", program).splitlines()
    assert place == str(installed / "chatflow" / "__init__.py")
    assert files == [f"{file.name} {file.checksum}" for file in load_migrations()]


def test_the_pages_and_the_type_marker_are_inside(installed: Path) -> None:
    pages = {path.name for path in (CHECKOUT / "chatflow" / "edge" / "pages").iterdir()}
    assert {path.name for path in (installed / "chatflow" / "edge" / "pages").iterdir()} == pages
    assert (installed / "chatflow" / "py.typed").exists()


def test_every_package_of_the_checkout_is_inside(installed: Path) -> None:
    def packages(root: Path) -> set[str]:
        return {str(path.parent.relative_to(root)) for path in (root / "chatflow").rglob("__init__.py")}

    assert packages(installed) == packages(CHECKOUT)


def test_the_twisted_of_the_checkout_does_not_hide_the_real_one(installed: Path) -> None:
    assert not (installed / "twisted" / "__init__.py").exists()
    assert not (installed / "twisted" / "plugins" / "__init__.py").exists()


def test_the_admin_command_is_installed(installed: Path) -> None:
    assert (installed / "bin" / "chatflow-admin").exists()
    assert "migrate" in run(installed, "-m", "chatflow.admin", "--help")
