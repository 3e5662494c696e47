"""From settings to what a run is made of."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from chatflow.errors import ConfigError
from chatflow.load.options import TABLE, LoadConfig
from chatflow.options import load
from chatflow.options.manual import as_page

_PAGE = Path(__file__).parents[2] / "docs" / "load-configuration.rst"


def _config(environ: Mapping[str, str] | None = None, **given: str) -> LoadConfig:
    texts = {name.replace("_", "-"): [text] for name, text in given.items()}
    return LoadConfig.from_settings(load(TABLE, texts, environ or {}, lambda path: ""))


def test_the_defaults_are_the_references_run() -> None:
    settings = _config().settings
    assert settings.urls == ("ws://127.0.0.1:8080/chat",)
    assert (settings.connections, settings.rooms, settings.messages, settings.in_flight) == (64, 20, 500_000, 50)
    assert (settings.warmup_connections, settings.warmup_messages) == (32, 32_000)
    assert (settings.mix, settings.processes, settings.timeout_seconds) == ((90, 5, 5), 1, 30)
    assert (settings.rate, settings.senders, settings.reconnect, settings.output) == (None, None, None, None)


def test_every_option_arrives_in_the_settings_of_the_run() -> None:
    config = _config(
        url="wss://chat.example/chat", connections="7", senders="3", rooms="4", even_rooms="yes", messages="5",
        warmup_connections="6", warmup_messages="8", in_flight="9", rate="10.5", mix="1:2:3", seed="11",
        processes="2", timeout_seconds="12", output="here", check_database="postgresql://h/d",
    )  # fmt: skip
    settings = config.settings
    assert (settings.urls, settings.connections, settings.senders) == (("wss://chat.example/chat",), 7, 3)
    assert (settings.rooms, settings.even_rooms, settings.messages, settings.in_flight) == (4, True, 5, 9)
    assert (settings.warmup_connections, settings.warmup_messages, settings.rate) == (6, 8, 10.5)
    assert (settings.mix, settings.seed, settings.processes, settings.timeout_seconds) == ((1, 2, 3), 11, 2, 12)
    assert (settings.output, config.check_database, settings.keep_ids) == ("here", "postgresql://h/d", True)


def test_ids_are_kept_only_for_the_database_check() -> None:
    assert not _config().settings.keep_ids


def test_two_runs_are_told_apart_and_have_different_seeds() -> None:
    one, two = _config().settings, _config().settings
    assert one.run != two.run
    assert one.seed != two.seed


def test_the_databases_password_can_come_by_the_environment_and_is_not_shown() -> None:
    config = _config({"CHATFLOW_LOAD_CHECK_DATABASE": "postgresql://me:secret@h/d"})
    assert config.check_database == "postgresql://me:secret@h/d"
    assert "secret" not in repr(config)


@pytest.mark.parametrize("text", ["90", "90:5", "90:5:5:0", "0:0:0", "-1:5:5", "101:0:0", "a:b:c", "٣:1:1"])
def test_a_wrong_mix_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="three whole numbers"):
        _config(mix=text)


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"processes": "65"}, "processes = 65 .* must be at most connections = 64"),
        ({"senders": "65"}, "senders = 65 .* must be at most connections = 64"),
        ({"url": "ws://h/chat?room=1"}, "must have no query"),
        ({"timeout_seconds": "0"}, "timeout-seconds"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(given: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        _config(**given)


def test_the_page_of_the_documentation_is_the_tables() -> None:
    page = as_page(TABLE, "Configuration of the load client")
    assert _PAGE.read_text(encoding="utf-8") == page, (
        "run: python -m chatflow.load.options > docs/load-configuration.rst"
    )
