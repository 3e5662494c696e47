"""The numbered files are applied once each, in order, all or nothing, and only to a database that they fit."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from chatflow.errors import StartupError
from chatflow.persistence import migrations
from testbed.postgres import execute
from testbed.threads import run_together


@pytest.fixture
def connection(empty_database_url: str) -> Iterator[Any]:
    with closing(psycopg2.connect(empty_database_url)) as connection:
        yield connection


def directory_with(tmp_path: Path, **sql: str) -> Path:
    """A directory of numbered files: the real first one, which makes schema_version, and the given ones."""
    first = migrations.load_migrations()[0]
    (tmp_path / first.name).write_text(first.sql)
    for name, text in sql.items():
        (tmp_path / f"{name[1:]}.sql").write_text(text)
    return tmp_path


def tables(connection: Any) -> set[str]:
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'")
        return {name for (name,) in cursor}


class TestFiles:
    def test_they_are_numbered_from_one_without_a_gap(self) -> None:
        files = migrations.load_migrations()
        assert [file.version for file in files] == list(range(1, len(files) + 1))

    def test_a_gap_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(StartupError, match="without a gap"):
            migrations.load_migrations(directory_with(tmp_path, _0003_c="SELECT 1"))

    def test_a_number_given_twice_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(StartupError, match="without a gap"):
            migrations.load_migrations(directory_with(tmp_path, _0002_a="SELECT 1", _0002_b="SELECT 1"))

    def test_a_file_with_another_name_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(StartupError, match="0001_what_it_does"):
            migrations.load_migrations(directory_with(tmp_path, _2_c="SELECT 1"))

    def test_a_missing_directory_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(StartupError, match="incomplete"):
            migrations.load_migrations(tmp_path / "nowhere")


class TestApply:
    def test_an_empty_database_gets_all_files_in_order(self, connection: Any) -> None:
        files = migrations.load_migrations()
        assert migrations.current_version(connection) == 0
        assert migrations.pending(connection) == files
        reported: list[migrations.Migration] = []
        assert migrations.apply_in_thread(connection, on_applied=reported.append) == files
        assert reported == files
        assert migrations.current_version(connection) == len(files)
        assert {"rooms", "messages_default", "user_activity", "message_stats_minute"} <= tables(connection)

    def test_a_second_time_does_nothing(self, connection: Any) -> None:
        migrations.apply_in_thread(connection)
        assert migrations.pending(connection) == []
        assert migrations.apply_in_thread(connection) == []

    def test_only_what_is_missing_is_applied(self, connection: Any, tmp_path: Path) -> None:
        migrations.apply_in_thread(connection, migrations.load_migrations(directory_with(tmp_path)))
        longer = migrations.load_migrations(directory_with(tmp_path, _0002_b="CREATE TABLE b ()"))
        assert [file.name for file in migrations.pending(connection, longer)] == ["0002_b.sql"]
        assert [file.name for file in migrations.apply_in_thread(connection, longer)] == ["0002_b.sql"]

    def test_nothing_of_a_failing_file_remains_and_those_before_it_stay(self, connection: Any, tmp_path: Path) -> None:
        files = migrations.load_migrations(
            directory_with(tmp_path, _0002_b="CREATE TABLE b ()", _0003_c="CREATE TABLE c (); SELECT 1/0")
        )
        with pytest.raises(StartupError, match=r"0003_c\.sql failed.*: division by zero$"):
            migrations.apply_in_thread(connection, files)
        assert tables(connection) == {"schema_version", "b"}
        assert migrations.current_version(connection) == 2

    def test_a_percent_sign_in_a_file_is_just_that(self, connection: Any, tmp_path: Path) -> None:
        files = migrations.load_migrations(directory_with(tmp_path, _0002_b="CREATE TABLE b AS SELECT '100%s' AS x"))
        migrations.apply_in_thread(connection, files)
        assert tables(connection) == {"schema_version", "b"}

    def test_two_at_once_apply_each_file_once(self, empty_database_url: str, tmp_path: Path) -> None:
        # Each file's statements would fail when they are run twice.
        names = {f"_{number:04}_t": f"CREATE TABLE t{number} ()" for number in range(2, 12)}
        files = migrations.load_migrations(directory_with(tmp_path, **names))
        applied: list[str] = []
        together = threading.Barrier(4)

        def migrate() -> None:
            with closing(psycopg2.connect(empty_database_url)) as connection:
                together.wait()
                applied.extend(file.name for file in migrations.apply_in_thread(connection, files))

        run_together([migrate] * 4)
        assert sorted(applied) == [file.name for file in files]


class TestRefusals:
    def test_an_older_database_is_told_the_remedy(self, connection: Any) -> None:
        with pytest.raises(StartupError, match="run `chatflow-admin migrate`"):
            migrations.require_current(connection)

    def test_the_current_database_is_accepted(self, database_url: str) -> None:
        with closing(psycopg2.connect(database_url)) as connection:
            migrations.require_current(connection)

    @pytest.mark.parametrize("change", ["UPDATE oldest_program SET schema_version = 9999", "DROP TABLE oldest_program"])
    def test_a_newer_database_that_does_not_serve_this_program_is_left_alone(
        self, database_url: str, change: str
    ) -> None:
        execute(database_url, "INSERT INTO schema_version (version, name, checksum) VALUES (9999, '9999_x.sql', '')")
        execute(database_url, change)
        with closing(psycopg2.connect(database_url)) as connection:
            for function in (migrations.require_current, migrations.pending, migrations.apply_in_thread):
                with pytest.raises(StartupError, match=r"version 9999, newer than this program's \d+"):
                    function(connection)

    def test_a_newer_database_that_serves_this_program_is_accepted(self, database_url: str) -> None:
        own = len(migrations.load_migrations())
        execute(database_url, "UPDATE oldest_program SET schema_version = %s", (own,))
        with closing(psycopg2.connect(database_url)) as connection:
            assert migrations.newer_version(connection) is None
            execute(
                database_url, "INSERT INTO schema_version (version, name, checksum) VALUES (9999, '9999_x.sql', '')"
            )
            migrations.require_current(connection)
            assert migrations.apply_in_thread(connection) == []
            assert migrations.newer_version(connection) == 9999

    def test_a_file_that_changed_after_it_was_applied_is_refused(self, database_url: str) -> None:
        execute(database_url, "UPDATE schema_version SET checksum = 'other' WHERE version = 2")
        with closing(psycopg2.connect(database_url)) as connection:
            for function in (migrations.require_current, migrations.pending, migrations.apply_in_thread):
                with pytest.raises(StartupError, match=r"0002_\w+\.sql is not the file that this database"):
                    function(connection)

    def test_every_refusal_is_one_line(self, connection: Any, tmp_path: Path) -> None:
        files = migrations.load_migrations(directory_with(tmp_path, _0002_b="SELECT\n1/0\n"))
        with pytest.raises(StartupError) as caught:
            migrations.apply_in_thread(connection, files)
        assert "\n" not in str(caught.value)
