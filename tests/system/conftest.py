"""A running daemon for the tests of a module."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from testbed.daemon import Daemon, running_daemon
from testbed.postgres import fresh_database


@pytest.fixture(scope="module")
def module_database_url() -> Iterator[str]:
    """URL of a database with the schema, for a module's tests together."""
    with fresh_database() as url:
        yield url


@pytest.fixture(scope="module")
def daemon(request: pytest.FixtureRequest, module_database_url: str) -> Iterator[Daemon]:
    """One daemon for all tests of a module, with a database of its own on the tests' server.

    The module may say ``DAEMON_OPTIONS``.
    """
    with running_daemon(*getattr(request.module, "DAEMON_OPTIONS", ()), database=module_database_url) as daemon:
        yield daemon


_next_room = itertools.count(1)


@pytest.fixture
def room() -> int:
    """A room that no other test uses; the module's daemon needs ``--rooms 1000``."""
    return next(_next_room)
