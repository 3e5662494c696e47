"""Commands as an operator gives them, in an environment that says nothing but where AWS is."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from chatflow import admin
from chatflow.broker.names import Names
from testbed.emulator import shared_emulator
from tests.support.cloud import make_objects

Run = Callable[..., str]


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No settings but AWS's, and a working directory without a daemon's data."""
    for name in os.environ:
        if name.startswith("CHATFLOW_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def emulator(monkeypatch: pytest.MonkeyPatch) -> None:
    """AWS is the emulator."""
    for name, value in shared_emulator().environment().items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command that must succeed without a word on standard error: what it prints."""

    def run(*arguments: str) -> str:
        assert admin.main(arguments) == 0
        output = capsys.readouterr()
        assert output.err == ""
        return output.out

    return run


@pytest.fixture
def fail(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[str, str]]:
    """Run a command that must fail with one line: what it prints, and the line."""

    def fail(*arguments: str) -> tuple[str, str]:
        assert admin.main(arguments) == 1
        output = capsys.readouterr()
        assert output.err.startswith("chatflow-admin: ")
        assert output.err.count("\n") == 1
        return output.out, output.err.removeprefix("chatflow-admin: ").rstrip()

    return fail


@pytest.fixture
def names(emulator: None) -> Names:
    """Queues and topic of two rooms."""
    return make_objects(rooms=2)
