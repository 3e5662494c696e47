"""A release holds all that an instance installs, in the form in which it is taken."""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from scripts.deployment.packing import build

_CERTIFICATE = "-----BEGIN CERTIFICATE-----\n"


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archive, without the wheels of others: these would have to be fetched."""
    directory = tmp_path_factory.mktemp("release")
    certificates = directory / "bundle.pem"
    certificates.write_text(_CERTIFICATE)
    return build(directory / "made", certificates=certificates)


def unpack(release: Path, directory: Path) -> Path:
    """As user data does."""
    target = directory / "release"
    target.mkdir()
    subprocess.run(["tar", "-xzf", release, "--strip-components=1", "-C", target], check=True)
    return target


def test_it_holds_the_wheel_the_scripts_and_the_certificates_and_nothing_that_was_made_here(release: Path) -> None:
    with tarfile.open(release) as tar:
        members = {member.name: member for member in tar.getmembers()}
    version = release.name.removeprefix("chatflow-").removesuffix(".tar.gz")
    top = f"chatflow-{version}"
    assert {f"{top}/chatflow-{version}-py3-none-any.whl", f"{top}/docs/cluster.rst"} <= members.keys()
    assert {f"{top}/rds-ca.pem", f"{top}/scripts/systemd/chatflow@.service"} <= members.keys()
    assert members[f"{top}/scripts/install"].mode & 0o111
    assert not [name for name in members if "scripts/deployment" in name], "only what is run where it is installed"
    for script in ("bootstrap", "refresh-password", "watch-termination"):
        assert members[f"{top}/scripts/aws/instance/{script}"].mode & 0o111
    assert not [name for name in members if "__pycache__" in name or not name.startswith(top)]
    assert {(member.uid, member.uname) for member in members.values()} == {(0, "root")}
    assert not list(release.parent.glob("*.new"))


def test_the_same_sources_make_the_same_bytes(release: Path, tmp_path: Path) -> None:
    certificates = tmp_path / "bundle.pem"
    certificates.write_text(_CERTIFICATE)
    assert build(tmp_path, certificates=certificates).read_bytes() == release.read_bytes()


def test_its_scripts_are_such_that_bash_takes(release: Path, tmp_path: Path) -> None:
    unpacked = unpack(release, tmp_path)
    for script in ("bootstrap", "watch-termination"):
        subprocess.run(["bash", "-n", unpacked / "scripts" / "aws" / "instance" / script], check=True)


@pytest.mark.skipif(
    not shutil.which("systemd-analyze") and os.environ.get("CI") != "true",
    reason="needs systemd-analyze (Debian: apt install systemd)",
)
def test_its_units_are_such_that_systemd_takes(release: Path, tmp_path: Path) -> None:
    instance = unpack(release, tmp_path) / "scripts" / "aws" / "instance"
    for unit in instance.glob("chatflow-*.*"):
        text = unit.read_text().replace("/opt/chatflow/release/scripts/aws/instance", str(instance))
        unit.write_text(text)
    ended = subprocess.run(
        ["systemd-analyze", "verify", *sorted(instance.glob("chatflow-*.*"))], capture_output=True, text=True
    )
    complaints = [line for line in ended.stderr.splitlines() if str(instance) in line]
    assert complaints == []
