"""A plugin of pytest for every run: what its processes share, what is left when it ends, and ``--fast``.

Loaded by ``pyproject.toml``.
"""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from testbed import emulator, forkserver, postgres
from testbed.descriptions import keep_descriptions
from testbed.leftovers import Guard, end, guard, is_postgres, marked_processes
from testbed.shared import share
from tests.support.fast import module_starts_processes, starts_processes


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fast", action="store_true", help="only tests that start no process")


def pytest_configure(config: pytest.Config) -> None:
    """Most of it only in the process that begins the run, not in those that pytest-xdist starts."""
    forkserver.fork()
    keep_descriptions()
    if hasattr(config, "workerinput"):
        return
    _keep_bytecode()
    if config.option.collectonly:
        return
    _heed_signals()
    # What failed tests leave in tmp_path stays where pytest puts it.
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())
    config.pluginmanager.register(Leftovers(guard()), "leftovers")


def _heed_signals() -> None:
    """Heed what nohup, or a shell that runs this in the background, lets processes ignore: whoever is started inherits
    that."""
    for number, handler in (
        (signal.SIGHUP, signal.SIG_DFL),
        (signal.SIGQUIT, signal.SIG_DFL),
        (signal.SIGINT, signal.default_int_handler),
    ):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)


def _keep_bytecode() -> None:
    """Hundreds of daemons and commands start in a run: each would compile all that it imports, for two seconds, where
    somebody wants no bytecode beside sources."""
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False


def _has_bytecode(checkout: Path) -> bool:
    """Whether anybody has collected tests here. In a fresh clone each process of pytest-xdist would compile all of it,
    and of what they import whatever was installed without it, at the same time as the others."""
    return any((checkout / "tests" / "__pycache__").glob("test_*"))


class Leftovers:
    """Nothing of the run is left behind; its processes share servers meanwhile."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._is_shared = False

    @pytest.hookimpl(tryfirst=True)  # before pytest-xdist starts its processes
    def pytest_sessionstart(self, session: pytest.Session) -> None:
        self._is_shared = bool(getattr(session.config.option, "numprocesses", None))
        if self._is_shared:
            makers: dict[str, Callable[[], str]] = {
                "postgres": postgres.server_url,
                "template": postgres.template,
                "cluster": postgres.made_cluster,
                "forkserver": forkserver.server,
                "emulator": lambda: str(emulator.shared_emulator().port),
            }
            share(self._guard.directory, makers)
            if not _has_bytecode(session.config.rootpath):
                collect = [sys.executable, "-m", "pytest", "--collect-only", "-qq", "-n", "0"]
                collect += map(str, session.config.args)
                subprocess.run(collect, cwd=session.config.rootpath, stdout=subprocess.DEVNULL)

    def pytest_keyboard_interrupt(self) -> None:
        """End the others at once: pytest-xdist would wait for their tests for ten seconds."""
        if self._is_shared:
            end([process for process in marked_processes(self._guard.mark) if not is_postgres(process)])

    def pytest_sessionfinish(self, exitstatus: int) -> None:
        if exitstatus != pytest.ExitCode.INTERRUPTED:
            self._guard.run_is_complete()


def pytest_collection_finish() -> None:
    """What was imported and collected stays: nobody need look whether it is garbage, again and again."""
    gc.collect()
    gc.freeze()


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """``--fast`` need not even import what starts processes."""
    if not config.option.fast or collection_path.suffix != ".py":
        return None
    name = ".".join(collection_path.relative_to(config.rootpath).with_suffix("").parts)
    return module_starts_processes(collection_path, name) or None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """``--fast``."""
    if config.option.fast:
        slow = [item for item in items if starts_processes(item)]
        items[:] = [item for item in items if item not in set(slow)]
        config.hook.pytest_deselected(items=slow)
