"""The systemd units and the scripts that put them in place."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

_ROOT = Path(__file__).parent.parent
_MAX_EXPOSURE = 2.0
_ANALYZE = shutil.which("systemd-analyze")

pytestmark = pytest.mark.skipif(
    _ANALYZE is None and not os.environ.get("CI"), reason="needs systemd-analyze (Debian: apt install systemd)"
)


@pytest.fixture(scope="module")
def units(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The units as scripts/install leaves them, with instances of port 8080."""
    directory = tmp_path_factory.mktemp("units")
    bin_ = directory / "opt/venv/bin"
    bin_.mkdir(parents=True)
    for program in ("twistd", "chatflow-admin"):
        (bin_ / program).symlink_to("/bin/true")
    for source in (_ROOT / "scripts/systemd").glob("chatflow*"):
        text = source.read_text().replace("@PREFIX@", str(directory / "opt")).replace("@ETC@", str(directory / "etc"))
        assert not re.search("@[A-Z]+@", text)
        (directory / source.name).write_text(text)
        (directory / source.name.replace("@.", "@8080.")).write_text(text)
    return directory


@pytest.mark.parametrize("unit", ["chatflow@8080.service", "chatflow@8080.socket", "chatflow-migrate.service"])
def test_a_unit_has_no_mistake(units: Path, unit: str) -> None:
    ended = subprocess.run(
        [str(_ANALYZE), "verify", "--man=no", str(units / unit)], capture_output=True, text=True, timeout=60
    )
    # Of other units of this machine it may say what it likes.
    assert [line for line in ended.stderr.splitlines() if "chatflow" in line] == []
    assert ended.returncode == 0


def test_a_mistake_would_be_seen(units: Path, tmp_path: Path) -> None:
    text = (units / "chatflow-migrate.service").read_text().replace("Type=oneshot", "Typ=oneshot")
    (tmp_path / "chatflow-wrong.service").write_text(text)
    ended = subprocess.run(
        [str(_ANALYZE), "verify", "--man=no", str(tmp_path / "chatflow-wrong.service")],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "Typ" in ended.stderr


@pytest.mark.parametrize("unit", ["chatflow@8080.service", "chatflow-migrate.service"])
def test_the_sandbox_leaves_little_exposed(units: Path, unit: str) -> None:
    ended = subprocess.run(
        [str(_ANALYZE), "security", "--offline=true", str(units / unit)], capture_output=True, text=True, timeout=60
    )
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", ended.stdout)
    assert found, ended.stderr
    print(found[0])
    assert float(found[1]) <= _MAX_EXPOSURE


def test_installing_again_changes_nothing_and_keeps_what_was_configured(tmp_path: Path) -> None:
    """Without dependencies, which take minutes: the program is not started here."""
    release = tmp_path / "release"
    archive = subprocess.run([_ROOT / "scripts/release", tmp_path], capture_output=True, text=True, check=True)
    with tarfile.open(archive.stdout.strip()) as packed:
        packed.extractall(release, filter="data")
    (root,) = release.iterdir()
    assert (root / "scripts/install").exists()
    places = {"--prefix": tmp_path / "opt", "--etc": tmp_path / "etc", "--units": tmp_path / "units"}
    options = [str(part) for pair in places.items() for part in pair]

    def install(*more: str) -> None:
        ended = subprocess.run(
            [root / "scripts/install", *options, "--extras", "", *more],
            env={**os.environ, "PIP_NO_DEPS": "1"},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert ended.returncode == 0, ended.stderr

    install("--instance", "8080")
    venv = (tmp_path / "opt/venv").readlink()
    (tmp_path / "etc/database.url").write_text("postgresql://chat:secret@db/chat\n")
    install("--instance", "8080", "--instance", "8081")
    assert (tmp_path / "opt/venv").readlink() == venv
    assert "secret" in (tmp_path / "etc/database.url").read_text()
    for secret in ("database.url", "8080.env", "8081.env"):
        assert (tmp_path / "etc" / secret).stat().st_mode & 0o777 == 0o600
    server_ids = {(tmp_path / f"etc/{port}.env").read_text().rpartition("=")[2].strip() for port in (8080, 8081)}
    assert len(server_ids) == 2
    assert all(re.fullmatch("[A-Za-z0-9_-]{1,20}", each) for each in server_ids)
    service = (tmp_path / "units/chatflow@.service").read_text()
    assert f"ExecStart={tmp_path}/opt/venv/bin/twistd " in service
    assert f"LoadCredential=chatflow.database:{tmp_path}/etc/database.url" in service


@pytest.mark.parametrize(
    "wrong",
    [
        ["--offline"],
        ["--instance", "0"],
        ["--instance", "80a"],
        ["--prefix", "relative"],
        ["--prefix", "/with space"],
        ["--x"],
    ],
)
def test_a_wrong_option_installs_nothing(tmp_path: Path, wrong: list[str]) -> None:
    ended = subprocess.run(
        [_ROOT / "scripts/install", "--etc", tmp_path / "etc", *wrong], capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 1
    assert ended.stderr.startswith("scripts/install: ")
    assert list(tmp_path.iterdir()) == []
