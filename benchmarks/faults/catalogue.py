"""Every fault that there is."""

from __future__ import annotations

from benchmarks.faults import clients, databases, instances, networks, queues
from benchmarks.faults.fault import Fault

FAULTS: dict[str, Fault] = {
    one.name: one for one in (*instances.FAULTS, *databases.FAULTS, *queues.FAULTS, *networks.FAULTS, *clients.FAULTS)
}
