"""What a deployment costs in a month, at three loads. ``python -m scripts.aws.prices`` prints the table of the manual.

List prices on demand, without taxes, free tiers, savings plans and reservations.
"""

from __future__ import annotations

from collections.abc import Callable

from attrs import frozen

REGION = "us-east-1"
HOURS = 730
SECONDS = HOURS * 3600

# US dollars, as AWS listed them in that region in 2026. Per hour, unless the name says something else.
INSTANCE = {"c7a.medium": 0.05132, "c7a.large": 0.10264}
DATABASE = {"db.t4g.medium": 0.073, "db.r7g.large": 0.276, "db.r7g.xlarge": 0.553}
IO_OPTIMIZED = 1.3  # times the price of an instance, and no charge for I/O
DISK_GB_MONTH = 0.08
BALANCER = 0.0225
BALANCER_UNIT = 0.008
PUBLIC_ADDRESS = 0.005
ENDPOINT_ZONE = 0.01
STORAGE_GB_MONTH = 0.10
STORAGE_GB_MONTH_IO_OPTIMIZED = 0.225
MILLION_IO = 0.20
MILLION_CALLS = 0.50  # of SQS FIFO; a publish to SNS FIFO is cheaper, and counted as one here
NOTIFICATION_GB = 0.017
ALARM_MONTH = 0.10
LOG_GB = 0.50
SECRET_MONTH = 0.40
MILLION_SECRET_CALLS = 5.00
OUT_GB = ((10_000, 0.09), (40_000, 0.085), (100_000, 0.07))  # the first so many GB, the next, the next

# Of the daemon, as measured or set.
_CALLS_PER_MESSAGE = 10  # sent, received, deleted, announced; and by each of three others received and deleted
_MAX_CALLS_PER_SECOND = 100  # of an instance: --max-calls-per-second
_IDLE_CALLS_PER_QUEUE_SECOND = 3 / 60
_FRAME_BYTES = 270  # what a client receives of a message of 50 characters
_ENVELOPE_BYTES = 80  # a message within an envelope, compressed
_ROW_BYTES = 500  # a stored message with its indexes
_IO_PER_COMMIT = 10
_COMMITS_PER_SECOND = 20  # the most: batches grow instead
#: Beside one for each room queue.
OTHER_ALARMS = 9
_ZONES = 2
#: Interface endpoints, with those for management, in each zone.
ENDPOINT_ZONES = 7 * _ZONES


@frozen
class Load:
    """A deployment and how busy it is, on average over the month.

    :ivar queues: of rooms.
    :ivar kept_days: ``--retention-days``.
    """

    name: str
    connections: int
    rooms: int
    queues: int
    messages_per_second: float
    kept_days: int
    instance: str
    database: str
    io_optimized: bool = False
    instances: int = 4

    @property
    def calls_per_second(self) -> float:
        """To SQS and SNS: pacing bounds what messages make; idle queues are polled all the same."""
        polled = self.instances * (self.queues + 1)
        by_messages = min(self.messages_per_second * _CALLS_PER_MESSAGE, float(self.instances * _MAX_CALLS_PER_SECOND))
        return max(by_messages, polled * _IDLE_CALLS_PER_QUEUE_SECOND)

    @property
    def out_gb(self) -> float:
        """To clients: each message goes to everyone in its room."""
        return self.messages_per_second * self.connections / self.rooms * _FRAME_BYTES * SECONDS / 1e9

    @property
    def stored_gb(self) -> float:
        """Once as many days have passed as are kept."""
        return self.messages_per_second * _ROW_BYTES * self.kept_days * 86_400 / 1e9


LOADS = (
    Load("small", 500, 20, 20, 1, 365, "c7a.medium", "db.t4g.medium"),
    Load("medium", 5_000, 100, 20, 50, 90, "c7a.medium", "db.r7g.large"),
    Load("large", 20_000, 1_000, 20, 3_465, 30, "c7a.large", "db.r7g.xlarge", io_optimized=True),
)


def _instances(load: Load) -> float:
    return load.instances * (INSTANCE[load.instance] * HOURS + 16 * DISK_GB_MONTH)


def _balancer(load: Load) -> float:
    # A unit is 3,000 connections, or a GB in an hour, whatever is more.
    units = max(load.connections / 3_000, load.out_gb / HOURS)
    return HOURS * (BALANCER + _ZONES * PUBLIC_ADDRESS + units * BALANCER_UNIT)


def _database(load: Load) -> float:
    each = DATABASE[load.database] * (IO_OPTIMIZED if load.io_optimized else 1)
    return 2 * each * HOURS


def _storage(load: Load) -> float:
    if load.io_optimized:
        return load.stored_gb * STORAGE_GB_MONTH_IO_OPTIMIZED
    commits = min(load.messages_per_second, _COMMITS_PER_SECOND) * SECONDS
    return load.stored_gb * STORAGE_GB_MONTH + commits * _IO_PER_COMMIT / 1e6 * MILLION_IO


def _queues(load: Load) -> float:
    announced_gb = load.messages_per_second * _ENVELOPE_BYTES * SECONDS / 1e9
    return load.calls_per_second * SECONDS / 1e6 * MILLION_CALLS + announced_gb * NOTIFICATION_GB


def _endpoints(load: Load) -> float:
    return ENDPOINT_ZONES * ENDPOINT_ZONE * HOURS


def _watching(load: Load) -> float:
    alarms = (load.queues + OTHER_ALARMS) * ALARM_MONTH
    secret = SECRET_MONTH + load.instances * SECONDS / 60 / 1e6 * MILLION_SECRET_CALLS
    return alarms + secret + 5 * LOG_GB


def _out(load: Load) -> float:
    left, dollars = load.out_gb, 0.0
    for gigabytes, price in OUT_GB:
        part = min(left, gigabytes)
        dollars, left = dollars + part * price, left - part
    return dollars


ITEMS: tuple[tuple[str, Callable[[Load], float]], ...] = (
    ("instances and their disks", _instances),
    ("load balancer", _balancer),
    ("database, writer and reader", _database),
    ("its storage and I/O", _storage),
    ("SQS and SNS", _queues),
    ("endpoints", _endpoints),
    ("alarms, secret, logs", _watching),
    ("traffic to clients", _out),
)


def total(load: Load) -> float:
    """US dollars in a month."""
    return sum(cost(load) for _, cost in ITEMS)


def _row(label: str, cells: list[str]) -> str:
    return f"{label:<31}{''.join(f' {cell:>17}' for cell in cells)}".rstrip()


def table() -> str:
    """Of all loads, as reStructuredText."""
    ruler = f"{'=' * 31} {' '.join('=' * 17 for _ in LOADS)}"
    facts: tuple[tuple[str, Callable[[Load], str]], ...] = (
        ("connections", lambda load: f"{load.connections:,}"),
        ("rooms, room queues", lambda load: f"{load.rooms:,}, {load.queues}"),
        ("messages/s, on average", lambda load: f"{load.messages_per_second:,}"),
        ("kept for days", lambda load: f"{load.kept_days}"),
        ("instances", lambda load: f"{load.instances} {load.instance}"),
        ("database", lambda load: f"2 {load.database}"),
    )
    derived: tuple[tuple[str, Callable[[Load], str]], ...] = (
        ("calls/s to SQS and SNS", lambda load: f"{load.calls_per_second:,.0f}"),
        ("stored, GB", lambda load: f"{load.stored_gb:,.0f}"),
        ("to clients, GB a month", lambda load: f"{load.out_gb:,.0f}"),
    )
    lines = [ruler, _row("load", [load.name for load in LOADS]), ruler]
    lines += [_row(label, [tell(load) for load in LOADS]) for label, tell in (*facts, *derived)]
    lines += [_row(f"{label}, $", [f"{cost(load):,.0f}" for load in LOADS]) for label, cost in ITEMS]
    lines += [_row("**a month**, $", [f"**{total(load):,.0f}**" for load in LOADS]), ruler]
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
