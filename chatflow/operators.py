"""What is for operators alone, put together: the dashboard, and the ports that nobody else reaches."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from twisted.application.service import Service

from chatflow.config import Config
from chatflow.edge.dashboard import Dashboard
from chatflow.edge.listeners import Listener
from chatflow.edge.site import ChatSite
from chatflow.metrics import Metrics
from chatflow.persistence.database import Database
from chatflow.persistence.membership import read_census


def make_dashboard(
    config: Config, reactor: Any, metrics: Metrics, databases: tuple[Database, Database], ready: Callable[[], bool]
) -> Dashboard:
    """What ``/dashboard`` shows.

    :param databases: the writer's, and the readers'.
    :param ready: whether a load balancer should send clients here.
    """
    commits, reads = databases
    return Dashboard(
        clock=reactor,
        now=time.time,
        server_id=config.server_id,
        cluster=config.is_cluster,
        snapshot=metrics.snapshot,
        census=lambda: read_census(reads),
        silent_seconds=min(11.0, 0.55 * config.reap_after_seconds),  # long before it is taken for dead
        away_seconds=lambda: max(commits.away_seconds, reads.away_seconds),
        ready=ready,
    )


def operators_ports(config: Config, reactor: Any, site: ChatSite) -> Sequence[tuple[str, Service]]:
    """What listens at ``--admin-listen``, by name."""
    return [
        (f"operators' port {endpoint}", Listener(reactor, endpoint, site, option="--admin-listen"))
        for endpoint in config.admin_listen
    ]
