"""Whatever somebody writes for a setting, wherever: it is a value of its kind, or one line says what is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from chatflow import config
from chatflow.config import Config
from chatflow.errors import ConfigError
from chatflow.load.options import TABLE as LOAD_TABLE
from chatflow.options import load
from chatflow.options.table import COMMAND_LINE, FILE, Option, Setting, Table

_TEXTS = st.one_of(
    st.text(),
    st.text("0123456789.-+eE_x, :/[]=%\n\0\t"),
    st.from_regex(r"[a-z]{2,10}:[ -~]{0,30}", fullmatch=True),
    st.integers().map(str),
    st.floats().map(str),
)

_OPTIONS = st.sampled_from([(table, option) for table in (config.TABLE, LOAD_TABLE) for option in table.options])


def loaded(table: Table, given: dict[str, list[str]], environ: dict[str, str], file: str = "") -> Mapping[str, Setting]:
    """The settings, or none if there is a line that says why."""
    try:
        settings = load(table, given, environ, lambda path: file)
        if table is config.TABLE:
            Config.from_settings(settings)
    except ConfigError as error:
        assert str(error)
        return {}
    return settings


def check(table: Table, option: Option, settings: Mapping[str, Setting]) -> None:
    """What was taken can be shown, and means the same when it is written again."""
    if option.name in settings:
        value: Any = settings[option.name].value
        for each in value if option.repeatable else (value,):
            option.kind.show(each)


@given(_OPTIONS, _TEXTS)
def test_on_the_command_line(where: tuple[Table, Option], text: str) -> None:
    table, option = where
    if COMMAND_LINE in option.sources:
        check(table, option, loaded(table, {option.name: [text]}, {}))


@given(_OPTIONS, _TEXTS)
def test_in_the_environment(where: tuple[Table, Option], text: str) -> None:
    table, option = where
    check(table, option, loaded(table, {}, {table.variable(option): text}))


@given(_OPTIONS, _TEXTS)
def test_in_the_file(where: tuple[Table, Option], text: str) -> None:
    table, option = where
    if FILE in option.sources:
        line = f"[{table.name}]\n{option.name} = {text}\n"
        check(table, option, loaded(table, {"config": ["x"]}, {}, line))


@given(
    st.text()
    | st.lists(st.sampled_from(["[chatflow]", "listen = 1", " = ", "\n", "[", "]", "%", "\t", "x"])).map("".join)
)
def test_any_file(text: str) -> None:
    loaded(config.TABLE, {"config": ["x"]}, {}, text)
