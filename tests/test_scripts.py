"""The scripts that newcomers begin with."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from testbed.daemon import TWISTD, clean_environment

_ROOT = Path(__file__).parent.parent
# What scripts/environment.sh leaves in an environment that is complete.
_STAMP = """echo "$("$0" -V) $(cksum <"$1/setup.cfg") $1" >"$2/installed-embedded" """


def test_the_daemon_starts_from_an_environment_in_another_place(tmp_path: Path) -> None:
    subprocess.run(["bash", "-c", _STAMP, sys.executable, _ROOT, tmp_path], check=True)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "twistd").symlink_to(TWISTD)
    ended = subprocess.run(
        [_ROOT / "scripts" / "run", "--show-config"],
        env={**clean_environment(), "PYTHON": sys.executable, "CHATFLOW_VENV": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "rooms = 20" in ended.stdout
