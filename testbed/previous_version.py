"""The previous version's own code, out of this repository's history, for what must live beside it.

Its dependencies are a part of this one's, so it runs in the same environment: its tree comes first on the path.
"""

from __future__ import annotations

import functools
import io
import subprocess
import tarfile
from pathlib import Path

#: The last commit before sql/0012. Nothing was released yet: the tag of the last release from then on.
PREVIOUS = "1260053841cebf56f726f80b1ae71b33114020f0"

_CHECKOUT = Path(__file__).parents[1]
_PARTS = ("chatflow", "sql", "twisted")


@functools.cache
def why_not() -> str:
    """In one line why that version is not here; nothing if it is."""
    if _git("cat-file", "-e", f"{PREVIOUS}^{{commit}}").returncode == 0:
        return ""
    return f"the history does not have {PREVIOUS[:12]} (a shallow clone or an exported tree): git fetch --unshallow"


def unpack(directory: Path) -> dict[str, str]:
    """Put it there; the environment of its processes."""
    archive = _git("archive", PREVIOUS, *_PARTS)
    archive.check_returncode()
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as tree:
        tree.extractall(directory, filter="data")
    return {"PYTHONPATH": str(directory)}


def _git(*words: str) -> subprocess.CompletedProcess[bytes]:
    # In CI the checkout often belongs to another user than who runs the tests.
    command = ["git", "-c", f"safe.directory={_CHECKOUT}", "-C", str(_CHECKOUT), *words]
    try:
        return subprocess.run(command, capture_output=True, check=False)
    except FileNotFoundError:
        return subprocess.CompletedProcess(command, 127, b"", b"there is no git")
