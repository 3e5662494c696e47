"""Fixtures for everybody."""

from __future__ import annotations

import unittest
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from testbed.postgres import fresh_database

# How long something takes on a busy machine decides nothing.
settings.register_profile("chatflow", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.load_profile("chatflow")


@pytest.fixture
def database_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """URL of a fresh database with the schema, dropped after the test.

    A ``TestCase`` takes no arguments: mark it ``@pytest.mark.usefixtures("database_url")`` and read
    ``self.database_url``.
    """
    with fresh_database() as url:
        if isinstance(request.instance, unittest.TestCase):
            request.instance.database_url = url  # type: ignore[attr-defined]
        yield url


@pytest.fixture(scope="class")
def class_database_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """The same for all tests of a class together; a ``TestCase`` reads ``self.class_database_url``."""
    with fresh_database() as url:
        if request.cls is not None:
            request.cls.class_database_url = url
        yield url


@pytest.fixture
def empty_database_url() -> Iterator[str]:
    """URL of a fresh database without the schema."""
    with fresh_database(migrated=False) as url:
        yield url
