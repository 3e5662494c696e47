"""Every figure that the documentation names exists under that name."""

from __future__ import annotations

import pytest

from testbed.daemon import running_daemon
from tests.support.documentation import DOCS, figures_named_in, figures_served_by


@pytest.fixture(scope="module")
def served() -> set[str]:
    """What Prometheus can be asked for on a single node."""
    with running_daemon() as daemon:
        return figures_served_by(daemon)


# Those of a cluster are asked for where there is one: tests/system/test_cluster.py, tests/monitoring.
@pytest.mark.parametrize("page", [page for page in sorted(DOCS) if page not in ("cluster", "runbook")])
def test_every_figure_that_the_documentation_names_is_served_under_that_name(page: str, served: set[str]) -> None:
    assert figures_named_in(page) - served == set()
