"""AWS's settings as the world gives them: every command tells what is wrong in one line, with status 1."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from testbed.emulator import shared_emulator
from testbed.http_answers import Answers
from tests.admin.conftest import Run
from tests.support.cloud import make_objects

Fail = Callable[..., tuple[str, str]]

COMMANDS = ["setup", "teardown", "queues", "reap", "dlq list --broker sqs", "monitor queues --once --broker sqs"]
SECRET = "hunter2hunter2"


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., None]:
    """No settings of AWS's at all, but these."""

    def give(**variables: str) -> None:
        for name in os.environ:
            if name.startswith("AWS_"):
                monkeypatch.delenv(name)
        nothing = {
            "AWS_CONFIG_FILE": "/none",
            "AWS_SHARED_CREDENTIALS_FILE": "/none",
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        for name, value in {**nothing, **variables}.items():
            monkeypatch.setenv(name, value)

    return give


KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_REGION": "us-east-1"}
NOBODY = {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_profile_that_there_is_not_is_named_by_every_command(
    command: str, aws: Callable[..., None], fail: Fail, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    aws(AWS_PROFILE="nope")
    monkeypatch.setenv("CHATFLOW_DATABASE", database_url)
    _out, line = fail(*command.split())
    assert "nope" in line


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({}, "region"),
        ({"AWS_REGION": "us-east-1"}, "credentials"),
        ({**KEYS, "AWS_REGION": "no such region"}, "region"),
        ({"AWS_REGION": "us-east-1", "AWS_ACCESS_KEY_ID": "test"}, "AWS_SECRET_ACCESS_KEY"),
        ({**KEYS, "AWS_ENDPOINT_URL": "nowhere"}, "nowhere"),
        ({**KEYS, "AWS_ENDPOINT_URL": f"http://ann:{SECRET}@127.0.0.1:9"}, "AWS_ENDPOINT_URL"),
        ({**KEYS, **NOBODY, "AWS_SESSION_TOKEN": f"{SECRET}\n{SECRET}"}, "characters that cannot be sent"),
    ],
)
def test_what_is_missing_or_malformed_is_told_in_one_line(
    variables: dict[str, str], said: str, aws: Callable[..., None], fail: Fail
) -> None:
    aws(**variables)
    _out, line = fail("setup")
    assert said in line
    assert SECRET not in line


@pytest.mark.parametrize("content", [b"[profile x\nhunter2hunter2", b"\xff\xfe[\0d\0", b"no section"])
def test_a_configuration_file_that_is_none_is_named(
    content: bytes, aws: Callable[..., None], fail: Fail, tmp_path: Path
) -> None:
    file = tmp_path / "config"
    file.write_bytes(content)
    aws(**KEYS, AWS_CONFIG_FILE=str(file))
    _out, line = fail("setup")
    assert str(file) in line
    assert SECRET not in line


@pytest.mark.parametrize(
    ("code", "message", "remedy"),
    [
        ("RequestTimeTooSkewed", "The difference is too large.", "clock"),
        ("SignatureDoesNotMatch", "Signature expired: 20260101T000000Z is now earlier than", "clock"),
        ("SignatureDoesNotMatch", "The signature does not match", "credentials"),
        ("AccessDenied", "not authorized to perform: sqs:createqueue", "docs/cluster.rst"),
        ("InvalidClientTokenId", "The security token is invalid", "credentials"),
        ("ExpiredToken", "The security token is expired", "credentials"),
    ],
)
def test_what_aws_refuses_is_told_with_a_remedy(
    code: str, message: str, remedy: str, aws: Callable[..., None], fail: Fail
) -> None:
    with Answers(403, {"__type": f"com.amazonaws.sqs#{code}", "message": message}) as server:
        aws(**KEYS, AWS_ENDPOINT_URL=server.url)
        _out, line = fail("setup")
    assert code in line
    assert remedy in line


def test_a_file_of_certificates_that_there_is_not_is_named(aws: Callable[..., None], fail: Fail) -> None:
    with Answers(200, {}) as server:
        aws(**KEYS, AWS_ENDPOINT_URL=server.url.replace("http:", "https:"), AWS_CA_BUNDLE="/none")
        _out, line = fail("setup")
    assert "AWS_CA_BUNDLE" in line


def test_what_is_empty_counts_as_not_set_and_line_ends_behind_a_value_do_not_count(
    aws: Callable[..., None], run: Run
) -> None:
    names = make_objects(rooms=1)
    empty = {
        "AWS_PROFILE": "",
        "AWS_DEFAULT_PROFILE": "",
        "AWS_SESSION_TOKEN": "",
        "AWS_CA_BUNDLE": "",
        "AWS_DEFAULT_REGION": " ",
    }
    aws(**empty, **{**KEYS, "AWS_REGION": "us-east-1\n"}, AWS_ENDPOINT_URL=shared_emulator().url + "\r\n")
    assert names.room_queue(1) in run("queues", "--queue-prefix", names.prefix, "--rooms", "1")


def test_nothing_of_python_is_told_by_the_program_itself() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "chatflow.admin", "setup"],
        env={"PATH": os.environ["PATH"], "AWS_PROFILE": "nope"},
        capture_output=True,
        text=True,
    )
    assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (1, "", 1)
