"""``scripts/deploy`` within the tests' own process: it takes seconds to start as one of its own."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Mapping

import pytest
from attrs import frozen

from scripts.deployment.command import main
from testbed.daemon import clean_environment

# So that only what a test gives is found.
_NOTHING = {"AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": "/none", "AWS_SHARED_CREDENTIALS_FILE": "/none"}


@frozen
class Ended:
    """What a command left."""

    returncode: int
    stdout: str
    stderr: str


def deploy(*words: str, environment: Mapping[str, str]) -> Ended:
    """Run it without a terminal, with these variables and none of the caller's for AWS."""
    alone = {name: value for name, value in clean_environment().items() if not name.startswith("AWS_")}
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(io.StringIO()) as stdout,
        contextlib.redirect_stderr(io.StringIO()) as stderr,
    ):
        for name in os.environ.keys() - alone.keys():
            patch.delenv(name)
        for name, value in {**_NOTHING, **environment}.items():
            patch.setenv(name, value)
        patch.setattr("sys.stdin", io.StringIO())
        try:
            status = main(words)
        except SystemExit as ended:
            assert isinstance(ended.code, int)
            status = ended.code
    return Ended(status, stdout.getvalue(), stderr.getvalue())
