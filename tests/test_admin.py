"""``chatflow-admin``: exit statuses, one line for what went wrong, and `migrate`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from chatflow import admin
from chatflow.persistence.migrations import load_migrations
from testbed.postgres import execute

NAMES = [migration.name for migration in load_migrations()]


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No settings, and a working directory without a daemon's data."""
    for name in os.environ:
        if name.startswith("CHATFLOW_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def usage_error(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What a wrong command line is told on standard error."""
    with pytest.raises(SystemExit) as caught:
        admin.main(arguments)
    assert caught.value.code == 2
    return capsys.readouterr().err


class TestCommandLine:
    @pytest.mark.parametrize("arguments", [["--help"], ["migrate", "--help"]])
    def test_help_tells_the_exit_statuses(self, capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
        with pytest.raises(SystemExit) as caught:
            admin.main(arguments)
        assert caught.value.code == 0
        assert "exit status:" in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("arguments", "told"),
        [
            (["token", "--user", "7", "--jwt-key", "s3cret"], "unrecognized arguments: --jwt-key\n"),
            (["token", "--user", "7", "--jwt-key=s3cret"], "unrecognized arguments: --jwt-key\n"),
            (["token", "--user", "7", "--jwt-key", "s3cret and more", "--nmae", "al"], "arguments: --jwt-key --nmae\n"),
            (["token", "--user", "7", "--jwt-key", "-s3cret"], "unrecognized arguments: --jwt-key\n"),
            (["--jwt-key", "s3cret", "token"], "argument COMMAND: invalid choice\n"),
            (["--admin-token=s3cret", "token", "--user", "7"], "unrecognized arguments: --admin-token\n"),
            (["migrate", "--database", "postgresql://a:x@h/d", "s3cret"], "unrecognized arguments\n"),
            (["migraet"], "invalid choice: 'migraet'"),
        ],
    )
    def test_what_follows_an_unknown_option_is_not_repeated(
        self, capsys: pytest.CaptureFixture[str], arguments: list[str], told: str
    ) -> None:
        error = usage_error(capsys, *arguments)
        assert told in error
        assert "s3cret" not in error

    def test_a_command_is_needed(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert "COMMAND" in usage_error(capsys)

    def test_a_database_is_needed(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert admin.main(["migrate"]) == 1
        assert "no daemon runs its database in chatflow-data" in capsys.readouterr().err

    @pytest.mark.parametrize("text", ["mysql://host/db", "postgresql://user:secr#t@host/db", ""])
    def test_only_a_url_of_postgresql_is_a_database(self, capsys: pytest.CaptureFixture[str], text: str) -> None:
        error = usage_error(capsys, "migrate", "--database", text)
        assert "must be 'embedded' or a URL such as postgresql://" in error
        assert "secr" not in error

    def test_a_wrong_one_in_the_environment_is_named(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("CHATFLOW_DATABASE", "mysql://host/db")
        assert admin.main(["migrate"]) == 1
        assert "(environment variable CHATFLOW_DATABASE): must be 'embedded' or a URL" in capsys.readouterr().err


class TestMigrate:
    def test_it_applies_what_is_missing_and_says_so(
        self, empty_database_url: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert admin.main(["migrate", "--database", empty_database_url]) == 0
        assert capsys.readouterr().out.splitlines() == [
            *(f"applied {name}" for name in NAMES),
            f"the database has schema version {len(NAMES)}",
        ]
        assert execute(empty_database_url, "SELECT name FROM schema_version ORDER BY version") == [(n,) for n in NAMES]

    def test_a_current_database_needs_nothing(self, database_url: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert admin.main(["migrate", "--database", database_url]) == 0
        assert capsys.readouterr().out.splitlines() == [
            "nothing to apply",
            f"the database has schema version {len(NAMES)}",
        ]

    def test_a_dry_run_changes_nothing(self, empty_database_url: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert admin.main(["migrate", "--dry-run", "--database", empty_database_url]) == 0
        assert capsys.readouterr().out.splitlines() == [
            *(f"would apply {name}" for name in NAMES),
            "the database has schema version 0",
        ]
        assert execute(empty_database_url, "SELECT to_regclass('schema_version')") == [(None,)]

    def test_the_environment_names_the_database(self, database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CHATFLOW_DATABASE", database_url)
        assert admin.main(["migrate"]) == 0

    def test_the_daemons_file_names_the_database(self, database_url: str, tmp_path: Path) -> None:
        file = tmp_path / "chatflow.ini"
        file.write_text(f"[chatflow]\ndatabase = {database_url}\n")
        assert admin.main(["migrate", "--config", str(file)]) == 0

    def test_a_refusal_is_one_line_and_status_1(self, database_url: str, capsys: pytest.CaptureFixture[str]) -> None:
        execute(database_url, "UPDATE schema_version SET checksum = 'other' WHERE version = 1")
        assert admin.main(["migrate", "--database", database_url]) == 1
        output = capsys.readouterr()
        assert output.out == ""
        assert output.err.startswith("chatflow-admin: 0001_")
        assert output.err.count("\n") == 1

    def test_a_database_that_does_not_answer_is_one_line_without_its_password(
        self, capsys: pytest.CaptureFixture[str], tmp_path: object
    ) -> None:
        assert admin.main(["migrate", "--database", f"postgresql://ann:secret@/x?host={tmp_path}"]) == 1
        error = capsys.readouterr().err
        assert error.startswith("chatflow-admin: cannot connect to the database: ")
        assert error.count("\n") == 1
        assert "secret" not in error
