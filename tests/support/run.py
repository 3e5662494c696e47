"""A plugin of pytest for every run: what its processes share, what is left when it ends, and ``--fast``.

Loaded by ``pyproject.toml``.
"""

from __future__ import annotations

import os
import tempfile

import pytest

from testbed import emulator, postgres
from testbed.leftovers import Guard, guard
from testbed.shared import share
from tests.support.fast import starts_processes

_guard = pytest.StashKey[Guard]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fast", action="store_true", help="only tests that start no process but PostgreSQL")


def pytest_configure(config: pytest.Config) -> None:
    """Only in the process that begins the run, not in those that pytest-xdist starts."""
    if hasattr(config, "workerinput") or config.option.collectonly:
        return
    # What failed tests leave in tmp_path stays where pytest puts it.
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())
    config.stash[_guard] = guard()
    if getattr(config.option, "numprocesses", None):
        makers = {
            "postgres": postgres.server_url,
            "template": postgres.template,
            "emulator": lambda: str(emulator.shared_emulator().port),
        }
        share(config.stash[_guard].directory, makers)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    if exitstatus != pytest.ExitCode.INTERRUPTED and _guard in session.config.stash:
        session.config.stash[_guard].run_is_complete()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.option.fast:
        slow = [item for item in items if starts_processes(item)]
        items[:] = [item for item in items if item not in set(slow)]
        config.hook.pytest_deselected(items=slow)
