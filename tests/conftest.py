"""Fixtures for everybody."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from testbed.postgres import fresh_database

# How long something takes on a busy machine decides nothing.
settings.register_profile("chatflow", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.load_profile("chatflow")

# Hours instead of seconds, when they are asked for: see CONTRIBUTING.rst.
settings.register_profile("long", settings.get_profile("chatflow"), max_examples=20_000)


#: Where tests take longest, by a measured run of all: clusters, whose instances work, and waiting for a lease to run
#: out, for a client to come back, for a browser. They begin first, and all others fill the gaps; otherwise the last
#: worker is alone with them for minutes.
_LONGEST_FIRST = (
    "tests/deployment/test_roll_local.py",
    "tests/system/test_cluster.py",
    "tests/faults/test_laboratory.py",
    "tests/browser/test_page.py",
    "tests/test_benchmarks.py",
    "tests/system/test_crashes.py",
    "tests/system/test_clock_steps.py",
    "tests/system/test_lost_holders.py",
    "tests/browser/test_limits.py",
    "tests/system/test_any_instance.py",
    "tests/postgres/test_embedded.py",
    "tests/documentation/test_tutorial.py",
    "tests/system/test_api.py",
    "tests/browser/",
    "tests/system/",
    "tests/persistence/test_sessions.py",
    "tests/persistence/test_writer.py",
    "tests/deployment/",
    "tests/monitoring/",
    "tests/client/",
    "tests/load/",
    "tests/broker/",
    "tests/documentation/",
    "tests/persistence/",
)


def _place(item: pytest.Item) -> int:
    file = item.path.relative_to(item.config.rootpath).as_posix()
    return next((place for place, begin in enumerate(_LONGEST_FIRST) if file.startswith(begin)), len(_LONGEST_FIRST))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put them into this order, which ``scripts/test`` tells pytest-xdist to keep."""
    items.sort(key=_place)


@pytest.fixture
def database_url() -> Iterator[str]:
    """URL of a fresh database with the schema, dropped after the test."""
    with fresh_database() as url:
        yield url


@pytest.fixture(scope="class")
def class_database_url() -> Iterator[str]:
    """The same for all tests of a class together."""
    with fresh_database() as url:
        yield url


@pytest.fixture
def empty_database_url() -> Iterator[str]:
    """URL of a fresh database without the schema."""
    with fresh_database(migrated=False) as url:
        yield url
