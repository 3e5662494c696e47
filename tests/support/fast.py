"""Which tests ``--fast`` leaves out: those that start a process. Nobody marks them.

A test does if its file imports, itself or through other modules of ``tests``, ``testbed`` and ``benchmarks``, what
starts one; or if one of its fixtures uses something from there.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import pytest

#: What starts processes.
_STARTERS = frozenset(
    {"subprocess", "playwright", "testbed.daemon", "testbed.emulator", "testbed.haproxy", "testbed.load_client"}
    | {"testbed.postgres"}
)
_OURS = ("tests.", "testbed.", "benchmarks.")
_HARMLESS = frozenset({"testbed.leftovers", "tests.support.run"})


def starts_processes(item: pytest.Item) -> bool:
    """Whether this test is left out."""
    assert isinstance(item, pytest.Function)
    if module_starts_processes(item.path, item.module.__name__):
        return True
    definitions = item._fixtureinfo.name2fixturedefs.values()
    return any(_uses_starters(definition.func) for (*_, definition) in definitions)


def _uses_starters(function: Any) -> bool:
    """Whether what a fixture names comes from a module that starts processes."""
    if not isinstance(function, FunctionType) or not function.__module__.startswith(_OURS):
        return False
    named = (function.__globals__.get(name) for name in function.__code__.co_names)
    modules = {one.__name__ if isinstance(one, ModuleType) else getattr(one, "__module__", None) for one in named}
    return any(isinstance(module, str) and _starts(module) for module in modules)


def _starts(name: str) -> bool:
    if name.partition(".")[0] in _STARTERS or name in _STARTERS:
        return True
    if not name.startswith(_OURS) or name in _HARMLESS:
        return False
    found = importlib.util.find_spec(name)
    return found is not None and found.origin is not None and module_starts_processes(Path(found.origin), name)


@functools.cache
def module_starts_processes(path: Path, name: str) -> bool:
    """Whether a module imports what starts processes, directly or through others of ours."""
    if path.name == "conftest.py" or path.name == "__init__.py":
        return False
    imported: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            imported.add(node.module)
            imported |= {f"{node.module}.{alias.name}" for alias in node.names if _is_module(node.module, alias.name)}
    return any(_starts(each) for each in imported - {name})


def _is_module(package: str, name: str) -> bool:
    root = Path(__file__).parents[2]
    return (root / package.replace(".", "/") / f"{name}.py").exists()
