"""A marker where a password can be, and everything that the product writes: the marker is in none of it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg2
import pytest
from psycopg2.extensions import parse_dsn

from chatflow.errors import StartupError, Unavailable
from chatflow.persistence.audit import audit_in_thread
from chatflow.persistence.database import connect
from chatflow.persistence.membership import open_membership
from chatflow.persistence.refresh import refresh_in_thread
from testbed.daemon import Daemon, clean_environment, run_twistd, running_daemon
from testbed.forkserver import run
from testbed.postgres import execute
from tests.test_passwords import MALFORMED

MARKER = "hunter2"

#: libpq takes all of them apart in its own way, and nobody listens there.
NOBODY = [
    f"postgresql://ann:{MARKER}@127.0.0.1:9/db",
    f"postgresql://ann%3A{MARKER}@127.0.0.1:9/db",
    f"postgresql://127.0.0.1:9/db?password={MARKER}",
    f"postgresql://127.0.0.1:9/db?sslpassword={MARKER}",
    f"postgresql://127.0.0.1:9/db?pasword={MARKER}",
]


@pytest.mark.parametrize("url", [*MALFORMED, *NOBODY])
def test_whoever_connects_says_nothing_of_it(url: str) -> None:
    """Also with what the settings would have refused: the second line of defence."""
    url = url.replace("@h/", "@127.0.0.1:9/").replace("//h/", "//127.0.0.1:9/")  # a look-up takes its time
    attempts = [
        lambda: connect(url),
        lambda: open_membership(url).__enter__(),
        lambda: refresh_in_thread(url, "a"),
        lambda: audit_in_thread(url, []),
    ]
    for attempt in attempts if "%" in url else attempts[:1]:
        with pytest.raises((StartupError, Unavailable)) as caught:
            attempt()
        assert MARKER not in str(caught.value)
        assert MARKER not in repr(caught.value)


def test_libpq_itself_does_repeat_it() -> None:
    """Or these tests would prove nothing."""
    with pytest.raises(psycopg2.ProgrammingError, match=MARKER):
        parse_dsn(f"postgresql://ann:{MARKER}%zz@h/db")


@pytest.mark.parametrize("url", [MALFORMED[0], MALFORMED[8], NOBODY[0], NOBODY[4]])
@pytest.mark.parametrize("where", ["environment", "file", "command line"])
def test_a_daemon_that_cannot_start_says_nothing_of_it(url: str, where: str, tmp_path: Path) -> None:
    arguments, environment = ["-n", "chatflow"], {}
    if where == "environment":
        environment["CHATFLOW_DATABASE"] = url
    elif where == "file":
        (tmp_path / "chatflow.ini").write_text(f"[chatflow]\ndatabase = {url}\n")
        arguments += ["--config", "chatflow.ini"]
    else:
        arguments += ["--database", url]
    ended = run_twistd(*arguments, directory=tmp_path, environment=environment)
    assert ended.returncode == 1
    assert MARKER not in ended.stdout + ended.stderr
    assert ended.stderr.count("\n") == 1


@pytest.mark.parametrize("url", [MALFORMED[0], NOBODY[2]])
def test_no_command_says_anything_of_it(url: str, tmp_path: Path) -> None:
    commands = ["migrate", "dlq list", "verify-analytics", "monitor database --once"]
    for command in commands:
        ended = run(
            [sys.executable, "-m", "chatflow.admin", *command.split()],
            env={**clean_environment(), "CHATFLOW_DATABASE": url},
            cwd=tmp_path,
        )
        assert ended.returncode != 0
        assert MARKER not in ended.stdout + ended.stderr, command
        assert "Traceback" not in ended.stderr


def test_nor_does_the_load_client(tmp_path: Path) -> None:
    for url in (MALFORMED[0], MALFORMED[8]):
        environment = {"CHATFLOW_LOAD_CHECK_DATABASE": url, "CHATFLOW_LOAD_URL": "ws://127.0.0.1:9"}
        ended = run_twistd("-n", "chatflow-load", directory=tmp_path, environment=environment)
        assert ended.returncode == 1
        assert MARKER not in ended.stdout + ended.stderr
    environment = {"CHATFLOW_LOAD_URL": f"ws://ann:{MARKER}@127.0.0.1:9/chat"}
    ended = run_twistd("-n", "chatflow-load", "--output", "out", directory=tmp_path, environment=environment)
    assert ended.returncode != 0
    assert MARKER not in ended.stdout + ended.stderr
    for file in (tmp_path / "out").rglob("*"):
        assert MARKER not in file.read_text(errors="replace")


@pytest.fixture
def daemon(database_url: str) -> Iterator[Daemon]:
    joint = "&" if "?" in database_url else "?"
    environment = {"CHATFLOW_DATABASE": f"{database_url}{joint}password={MARKER}"}
    with running_daemon("--rooms", "1", database=environment["CHATFLOW_DATABASE"]) as daemon:
        yield daemon


def test_a_running_daemon_writes_it_nowhere_whatever_happens_to_its_database(daemon: Daemon) -> None:
    for path in ("/metrics", "/health", "/health/ready", "/db-metrics", "/queue/all", "/api/metrics/all"):
        for accept in ("application/json", "text/plain"):
            assert MARKER not in daemon.get(path, headers={"Accept": accept}).body.decode()
    execute(
        daemon.database_url,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
        " AND pid <> pg_backend_pid()",
    )
    client = [sys.executable, "-m", "chatflow.client", f"ws://127.0.0.1:{daemon.port}", "1", "--name", "bob"]
    subprocess.run(client, input=b"stored on another connection\n", check=True, timeout=60)
    assert "is tried again" in daemon.output()
    assert daemon.stop() == 0
    for file in daemon.directory.rglob("*"):
        if file.is_file():
            assert MARKER not in file.read_text(errors="replace"), file


def test_what_is_shown_of_the_settings_hides_it(tmp_path: Path) -> None:
    for url in (NOBODY[1], NOBODY[4]):
        ended = run_twistd(
            "-n", "chatflow", "--show-config", directory=tmp_path, environment={"CHATFLOW_DATABASE": url}
        )
        assert ended.returncode == 0
        assert MARKER not in ended.stdout + ended.stderr
        assert "***" in ended.stdout


def test_aws_secrets_are_in_no_error(tmp_path: Path) -> None:
    environment = {
        "PATH": os.environ["PATH"],
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": MARKER,
        "AWS_SESSION_TOKEN": f"{MARKER}\n{MARKER}",
        "AWS_ENDPOINT_URL": f"http://ann:{MARKER}@127.0.0.1:9",
    }
    for command in ("setup", "queues"):
        ended = subprocess.run(
            [sys.executable, "-m", "chatflow.admin", command], env=environment, capture_output=True, text=True
        )
        assert (ended.returncode, ended.stderr.count("\n")) == (1, 1)
        assert MARKER not in ended.stdout + ended.stderr


@pytest.mark.parametrize("name", ["jwt-key", "admin-token"])
def test_a_secret_of_tokens_is_shown_by_no_refusal_and_no_setting(name: str, tmp_path: Path) -> None:
    """Wherever it is given, and whatever is wrong with it."""
    good, short, broken = f"{MARKER}-{'x' * 40}", MARKER, f"{MARKER}\x07{'x' * 40}"
    option, variable = f"--{name}-file", f"CHATFLOW_{name.replace('-', '_').upper()}"
    auth = ["--auth", "jwt", "--jwt-audience", "a", "--jwt-jwks", "keys.json"]
    (tmp_path / "good").write_text(f"{good}\n{good}2\n")
    shown = run_twistd("-n", "chatflow", *auth, option, "good", "--show-config", directory=tmp_path)
    assert shown.returncode == 0
    shown_too = run_twistd(
        "-n", "chatflow", *auth, "--show-config", directory=tmp_path, environment={variable: f"{good}\n{good}2"}
    )
    for ended in (shown, shown_too):
        assert MARKER not in ended.stdout + ended.stderr
        assert "***" in ended.stdout
    for text in (short, broken):
        (tmp_path / "bad").write_text(text)
        (tmp_path / "chatflow.ini").write_text(f"[chatflow]\n{name} = {text}\n")
        for arguments, environment in (
            ([option, "bad"], {}),
            ([], {variable: text}),
            (["--config", "chatflow.ini"], {}),
        ):
            ended = run_twistd("-n", "chatflow", *auth, *arguments, directory=tmp_path, environment=environment)
            assert ended.returncode != 0
            assert MARKER not in ended.stdout + ended.stderr
            assert "Traceback" not in ended.stderr
            assert name in ended.stderr
    given = run_twistd("-n", "chatflow", *auth, f"--{name}", good, directory=tmp_path)
    assert given.returncode != 0, "ps would show it"
    assert MARKER not in given.stdout + given.stderr


def test_no_token_of_a_url_is_written_when_a_client_cannot_connect(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "chatflow.client", f"ws://127.0.0.1:9/?access_token={MARKER}", "1"]
    ended = subprocess.run(command, input="", capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert ended.returncode != 0
    assert MARKER not in ended.stdout + ended.stderr
