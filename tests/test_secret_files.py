"""A setting that can hold a secret may be kept in a file of its own, or come as a credential of systemd's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from chatflow.config import TABLE
from chatflow.errors import ConfigError
from chatflow.options import Setting, load, read_file

_URL = "postgresql://chat:hunter2@db/chat"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "url"
    path.write_text(f"\ufeff{_URL}\r\n")
    return path


def read(argv: Mapping[str, list[str]] | None = None, environ: Mapping[str, str] | None = None) -> dict[str, Setting]:
    return load(TABLE, argv or {}, environ or {}, read_file)


def test_each_source_can_name_the_file(file: Path, tmp_path: Path) -> None:
    ini = tmp_path / "ini"
    ini.write_text(f"[chatflow]\ndatabase-file = {file}\n")
    for given in (
        read(argv={"database-file": [str(file)]}),
        read(environ={"CHATFLOW_DATABASE_FILE": str(file)}),
        read(argv={"config": [str(ini)]}),
    ):
        assert given["database"].value == _URL
        assert given["database"].source.startswith(f"file {file}, named by database-file (")


def test_a_credential_needs_no_setting(tmp_path: Path) -> None:
    (tmp_path / "chatflow.database").write_text(f"{_URL}\n")
    given = read(environ={"CREDENTIALS_DIRECTORY": str(tmp_path)})
    assert given["database"] == Setting(_URL, "credential chatflow.database")


def test_a_directory_of_other_credentials_changes_nothing(tmp_path: Path) -> None:
    assert read(environ={"CREDENTIALS_DIRECTORY": str(tmp_path)})["database"].source == "default"


def test_the_strongest_source_counts(file: Path, tmp_path: Path) -> None:
    (tmp_path / "chatflow.database").write_text("postgresql://credential/")
    (tmp_path / "ini").write_text("[chatflow]\ndatabase = postgresql://ini/\n")
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path), "CHATFLOW_CONFIG": str(tmp_path / "ini")}
    assert read(environ=environ)["database"].value == "postgresql://credential/"
    environ["CHATFLOW_DATABASE"] = "postgresql://environment/"
    assert read(environ=environ)["database"].value == "postgresql://environment/"
    assert read(argv={"database-file": [str(file)]}, environ=environ)["database"].value == _URL


def test_value_and_file_in_one_place_contradict_each_other(file: Path) -> None:
    with pytest.raises(ConfigError, match=r"database-file \(command line\): cannot stand beside database"):
        read(argv={"database": ["postgresql://a/"], "database-file": [str(file)]})


@pytest.mark.parametrize("content", [b"", b"hunter2", b"http://u:hunter2@x/", b"\xffhunter2", None])
def test_a_wrong_file_is_told_without_what_it_holds(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "chatflow.database").write_bytes(content)
    for environ in (
        {"CHATFLOW_DATABASE_FILE": str(tmp_path / "chatflow.database")},
        {"CREDENTIALS_DIRECTORY": str(tmp_path)} if content is not None else {"CHATFLOW_DATABASE_FILE": "/"},
    ):
        with pytest.raises(ConfigError) as caught:
            read(environ=environ)
        assert "database" in str(caught.value)
        assert "hunter2" not in str(caught.value)
