"""Settings that are read again: what is applied, what waits, what is refused, each said in a line."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from twisted.logger import formatEvent, globalLogPublisher

from chatflow.errors import ConfigError
from chatflow.lifecycle import Reloads
from chatflow.options import Option, Setting, Table, Text, Url

TABLE = Table(
    name="tea",
    own_options=tuple(
        Option(name=name, kind=kind, default="", help="", group="")
        for name, kind in (
            ("leaf", Text()),
            ("milk", Text()),
            ("store", Url(schemes=("postgresql",), example="postgresql://h/db")),
        )
    ),
)


class Sources:
    """What the files say."""

    def __init__(self) -> None:
        self.values = {"leaf": "black", "milk": "no", "store": "postgresql://ann:first@h/db"}
        self.wrong = ""

    def read(self) -> dict[str, Setting]:
        if self.wrong:
            raise ConfigError(self.wrong)
        return {option.name: Setting(self.values.get(option.name), "file f") for option in TABLE.options}


@pytest.fixture
def lines() -> Iterator[list[str]]:
    seen: list[str] = []

    def observe(event: dict[str, Any]) -> None:
        if event.get("log_namespace", "").startswith("chatflow.lifecycle.reload"):
            seen.append(f"{event['log_level'].name}: {formatEvent(event)}")

    globalLogPublisher.addObserver(observe)  # type: ignore[arg-type]  # any callable is one
    yield seen
    globalLogPublisher.removeObserver(observe)  # type: ignore[arg-type]


@pytest.fixture
def sources() -> Sources:
    return Sources()


@pytest.fixture
def reloads(sources: Sources) -> Reloads:
    return Reloads(TABLE, sources.read(), sources.read)


def test_what_is_registered_is_applied_once(reloads: Reloads, sources: Sources, lines: list[str]) -> None:
    applied: list[str] = []
    reloads.add("leaf", applied.append)
    sources.values["leaf"] = "green"
    assert reloads.reload() == "1 applied"
    assert reloads.reload() == "nothing has changed"
    assert applied == ["green"]
    assert lines[0] == "info: reload: leaf = green (file f) is applied"


def test_what_is_not_needs_a_restart_and_is_said_again(reloads: Reloads, sources: Sources, lines: list[str]) -> None:
    sources.values["milk"] = "yes"
    assert [reloads.reload(), reloads.reload()] == ["1 waiting for a restart"] * 2
    assert lines[0] == "warn: reload: a restart is needed for milk = yes (file f)"
    sources.values["milk"] = "no"
    assert reloads.reload() == "nothing has changed"


def test_all_that_need_a_restart_are_named_in_one_line(reloads: Reloads, sources: Sources, lines: list[str]) -> None:
    applied: list[str] = []
    reloads.add("milk", applied.append)
    sources.values.update(leaf="green", milk="yes", store="postgresql://ann:hunter2@h/db")
    assert reloads.reload() == "1 applied, 2 waiting for a restart"
    (line,) = [line for line in lines if "restart is needed" in line]
    assert line == (
        "warn: reload: a restart is needed for leaf = green (file f), store = postgresql://ann:***@h/db (file f)"
    )


def test_a_wrong_setting_leaves_all_as_they_were(reloads: Reloads, sources: Sources, lines: list[str]) -> None:
    reloads.add("leaf", pytest.fail)
    sources.values["leaf"] = "green"
    sources.wrong = "milk = perhaps: must be yes or no"
    assert reloads.reload() == "a setting is wrong, all stay as they were"
    assert lines == ["error: reload: milk = perhaps: must be yes or no; every setting stays as it was"]


@pytest.mark.parametrize("error", [ConfigError("no such leaf"), KeyError("bug")])
def test_what_is_refused_stays_and_the_others_are_applied(
    reloads: Reloads, sources: Sources, lines: list[str], error: Exception
) -> None:
    def refuse(value: str) -> None:
        raise error

    applied: list[str] = []
    reloads.add("leaf", refuse)
    reloads.add("milk", applied.append)
    sources.values.update(leaf="straw", milk="yes")
    assert reloads.reload() == "1 applied, 1 refused"
    assert applied == ["yes"]
    assert any(line.startswith("error: reload: leaf = straw (file f) is refused and stays as it was") for line in lines)
    assert reloads.reload() == "1 refused"


def test_a_secret_is_not_shown(reloads: Reloads, sources: Sources, lines: list[str]) -> None:
    sources.values["store"] = "postgresql://ann:hunter2@h/db"
    reloads.reload()
    assert "hunter2" not in "".join(lines)
    assert "store = postgresql://ann:***@h/db" in lines[0]
