"""The figures of Prometheus that the documentation names, and those that a daemon serves."""

from __future__ import annotations

import re
from pathlib import Path

from testbed.daemon import Daemon

#: Its pages, by name.
DOCS = {path.stem: path for path in (Path(__file__).parents[2] / "docs").glob("*.rst")}


def figures_named_in(page: str) -> set[str]:
    """``chatflow_...`` in the text of a page."""
    return set(re.findall(r"\bchatflow_[a-z0-9_]+", DOCS[page].read_text(encoding="utf-8")))


def figures_served_by(daemon: Daemon) -> set[str]:
    """The names as they are served; a histogram's also without what its samples add to it."""
    text = daemon.get("/metrics", headers={"Accept": "text/plain"}).body.decode()
    samples = set(re.findall(r"^(chatflow_\w+)", text, re.MULTILINE))
    described = set(re.findall(r"^# TYPE (chatflow_\w+) \w+$", text, re.MULTILINE))
    return samples | described
