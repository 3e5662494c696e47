"""Commands read the daemon's settings where the daemon does."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest

from chatflow import admin
from chatflow.admin.settings import Settings, add_settings, read_settings
from chatflow.errors import ConfigError, StartupError

NAMES = ("queue-prefix", "rooms", "room-queues", "broker", "database", "data-dir", "reap-after-seconds")


def read(*arguments: str, names: tuple[str, ...] = NAMES) -> Settings:
    parser = argparse.ArgumentParser(exit_on_error=False)
    add_settings(parser, *names)
    return read_settings(parser.parse_args(arguments))


def test_without_any_they_are_the_daemons_defaults() -> None:
    settings = read()
    assert (settings.queue_prefix, settings.rooms, settings.room_queues) == ("chatflow", 20, None)
    assert (settings.broker, settings.database, settings.data_dir) == ("embedded", "embedded", Path("chatflow-data"))
    assert settings.reap_after_seconds == 60
    assert settings.names.room_queue(7) == "chatflow-room-7.fifo"


def test_the_command_line_comes_before_the_environment_and_that_before_the_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "chatflow.ini"
    file.write_text("[chatflow]\nqueue-prefix = file\nrooms = 3\nroom-queues = 2\n")
    monkeypatch.setenv("CHATFLOW_CONFIG", str(file))
    monkeypatch.setenv("CHATFLOW_QUEUE_PREFIX", "environment")
    monkeypatch.setenv("CHATFLOW_ROOMS", "4")
    settings = read("--rooms", "5")
    assert (settings.queue_prefix, settings.rooms, settings.room_queues) == ("environment", 5, 2)


def test_those_that_a_command_does_not_offer_are_read_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHATFLOW_DATABASE", "postgresql://db/chat")
    assert read(names=("rooms",)).database == "postgresql://db/chat"


@pytest.mark.parametrize(
    ("option", "text"), [("--rooms", "0"), ("--rooms", "x"), ("--queue-prefix", "a b"), ("--broker", "kafka")]
)
def test_a_wrong_one_on_the_command_line_is_a_usage_error(option: str, text: str) -> None:
    with pytest.raises(argparse.ArgumentError, match="must be"):
        read(option, text)


def test_a_wrong_one_in_the_environment_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHATFLOW_ROOMS", "many")
    with pytest.raises(ConfigError, match=r"rooms = .many. .environment variable CHATFLOW_ROOMS."):
        read()


def test_the_database_of_a_daemon_is_where_it_says(tmp_path: Path) -> None:
    (tmp_path / "database.url").write_text("postgresql:///chat?host=/tmp\n")
    assert read("--data-dir", str(tmp_path)).database_url() == "postgresql:///chat?host=/tmp"
    assert read("--database", "postgresql://db/chat").database_url() == "postgresql://db/chat"


def test_without_a_daemon_there_is_none(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="--data-dir"):
        read("--data-dir", str(tmp_path)).database_url()


def test_a_password_is_not_shown() -> None:
    assert "secret" not in repr(read("--database", "postgresql://ann:secret@db/chat"))


@pytest.mark.parametrize("command", ["setup", "teardown", "queues", "reap", "dlq list", "dlq replay"])
def test_every_command_explains_itself(capsys: pytest.CaptureFixture[Any], command: str) -> None:
    with pytest.raises(SystemExit) as caught:
        admin.main([*command.split(), "--help"])
    assert caught.value.code == 0
    assert "CHATFLOW_" in capsys.readouterr().out
