"""What each kind of figures says: the writers of the instances, the queues, the database. Pure but for the rates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from chatflow.admin.monitor.findings import Cell, Level, Limits, Section
from chatflow.admin.monitor.instances import NoAnswer, Rates, Scrape, Target
from chatflow.admin.queues import Row, health_of
from chatflow.persistence.vitals import Vitals
from chatflow.text import visible

_WRITER = (
    "instance",
    "ready",
    "clients",
    "stored/s",
    "acked/s",
    "msgs/batch",
    "commit s",
    "buffer %",
    "retries",
    "set aside",
    "version",
)
_ERRORS = ("chatflow_database_retries_total", "chatflow_envelopes_set_aside_total")
_QUEUE_LEVELS = {"ok": Level.FINE, "behind": Level.WARNING}


def writer_section(
    targets: Sequence[Target], scrapes: Mapping[str, Scrape | NoAnswer], rates: Rates, limits: Limits
) -> Section:
    """A row for each instance."""
    rows: list[list[Cell]] = []
    findings: list[tuple[Level, str]] = []
    for place in targets:
        name = visible(place.name)
        if (
            place.silent_seconds is not None
            and (silent := limits.cell("heartbeat-seconds", place.silent_seconds)).level
        ):
            findings.append((silent.level, f"{name}: last heartbeat {place.silent_seconds:.0f} s ago"))
        found = scrapes.get(place.url) if place.url else None
        if isinstance(found, Scrape):
            rows.append(_writer_row(name, place.url or "", found, rates, limits))
            if not found.totals.get("chatflow_database_available", 1.0):
                findings.append((Level.CRITICAL, f"{name} cannot reach the database: nothing is stored"))
        else:
            reason = f"{place.url} does not answer: {found}" if place.url else "it has no connection to the database"
            findings.append((Level.CRITICAL, visible(f"{name} is DOWN: {reason}")))
            rows.append(
                [
                    Cell(name, place.name, Level.CRITICAL, is_told=True),
                    Cell("DOWN", False, Level.CRITICAL, is_told=True),
                    *[Cell("-")] * (len(_WRITER) - 2),
                ]
            )
    if not targets:
        findings.append((Level.CRITICAL, "there is no instance"))
    return Section("writer", _WRITER, rows, findings)


def _writer_row(name: str, url: str, now: Scrape, rates: Rates, limits: Limits) -> list[Cell]:
    totals = now.totals
    grown = rates.look(url, now)
    per_second: dict[str, float | None] = {"stored": None, "acknowledged": None}
    batch = commit = errors = None
    retries, set_aside = (totals.get(counter, 0.0) for counter in _ERRORS)
    if grown is not None:
        seconds, growth = grown
        per_second = {what: growth(f"chatflow_messages_{what}_total") / seconds for what in per_second}
        if batches := growth("chatflow_batch_messages_count"):
            batch = growth("chatflow_batch_messages_sum") / batches
            commit = growth("chatflow_commit_seconds_sum") / batches
        errors = sum(map(growth, _ERRORS))
    under_way = totals.get("chatflow_commit_under_way_seconds", 0.0)
    is_ready = bool(totals.get("chatflow_ready", 1.0))
    most = totals.get("chatflow_messages_pending_limit")
    buffer = 100 * totals.get("chatflow_messages_pending", 0.0) / most if most else None
    slow = limits.thresholds["oldest-seconds"].level(under_way)
    trouble = limits.thresholds["errors"].level(errors or 0.0)
    return [
        Cell(name, name),
        Cell("yes", True) if is_ready else Cell("NO", False, Level.WARNING),
        Cell(f"{totals.get('chatflow_connections', 0):.0f}", totals.get("chatflow_connections")),
        *[Cell("-" if rate is None else f"{rate:.0f}", rate) for rate in per_second.values()],
        Cell("-" if batch is None else f"{batch:.1f}", batch),
        Cell(f"{under_way:.1f}, not done", under_way, slow) if slow else limits.cell("commit-seconds", commit),
        limits.cell("buffer-percent", buffer, "-" if buffer is None else f"{buffer:.1f}"),
        Cell(f"{retries:.0f}", retries, trouble),
        Cell(f"{set_aside:.0f}", set_aside),
        Cell(visible(now.version) or "-", now.version),
    ]


def queue_section(rows: Sequence[Row], scrapes: Sequence[Scrape], ages: Mapping[str, float], limits: Limits) -> Section:
    """A row for each queue on SQS.

    :param ages: seconds by queue, as CloudWatch has them.
    """
    shown = []
    for row in rows:
        depth = row.depth
        oldest = _oldest(row, scrapes, ages)
        health = health_of(row, None)
        what = "dead-letters" if row.is_dead_letters else "waiting"
        waiting = None if depth is None else depth.waiting
        cells = [
            Cell(visible(row.queue), row.queue),
            Cell(visible(row.purpose), row.purpose),
            limits.cell(what, waiting),
            Cell("-" if depth is None else str(depth.in_flight), None if depth is None else depth.in_flight),
            Cell("-", None) if row.is_dead_letters else limits.cell("oldest-seconds", oldest, _seconds(oldest)),
        ]
        level = max(cell.level for cell in cells)
        if health in ("missing", "stranded"):
            cells.append(Cell(health, health, Level.CRITICAL))
        else:
            word = {Level.FINE: "ok", Level.WARNING: "behind", Level.CRITICAL: "late"}[level]
            cells.append(Cell(word, word))
        shown.append(cells)
    return Section("queues", ("queue", "for", "waiting", "in flight", "oldest", "health"), shown)


def _oldest(row: Row, scrapes: Sequence[Scrape], ages: Mapping[str, float]) -> float | None:
    """The largest age that anybody knows of."""
    known = [ages[row.queue]] if row.queue in ages else []
    if row.shard is not None:
        lags = [scrape.labelled.get("chatflow_queue_lag_seconds", {}).get(str(row.shard)) for scrape in scrapes]
        known += [lag for lag in lags if lag is not None]
    return max(known, default=None)


def embedded_queue_section(name: str, queues: Mapping[str, Any], found: Scrape, limits: Limits) -> Section:
    """A row for each room of an instance that runs alone.

    :param queues: what its ``/queue/all`` answers.
    """
    under_way = found.totals.get("chatflow_commit_under_way_seconds", 0.0)
    rows = []
    for room, depth in queues.items():
        waiting = int(depth["messages"])
        oldest = under_way if waiting else 0.0
        cells = [
            Cell(visible(room), room),
            Cell("in the process", None),
            limits.cell("waiting", waiting),
            Cell(visible(str(depth["notVisible"])), depth["notVisible"]),
            limits.cell("oldest-seconds", oldest, _seconds(oldest) if waiting else "-"),
        ]
        word = {Level.FINE: "ok", Level.WARNING: "behind", Level.CRITICAL: "late"}[max(one.level for one in cells)]
        rows.append([*cells, Cell(word, word)])
    return Section("queues", ("queue", "for", "waiting", "in flight", "oldest", "health"), rows)


def database_sections(vitals: Vitals, cloud: Mapping[str, float], limits: Limits) -> list[Section]:
    """The server's figures, its tables, its statements, its views.

    :param cloud: what CloudWatch knows, such as ``CPUUtilization``.
    """
    share = 100 * vitals.connections / vitals.max_connections
    connections = f"{vitals.connections} of {vitals.max_connections}"
    figures = [
        ("CPU", limits.cell("cpu-percent", cloud.get("CPUUtilization"), _percent(cloud.get("CPUUtilization")))),
        ("connections", limits.cell("connections-percent", share, connections)),
        ("active statements", Cell(str(vitals.active), vitals.active)),
        ("waiting for locks", limits.cell("lock-waits", vitals.lock_waits)),
        ("cache hits", limits.cell("cache-percent", vitals.cache_percent, _percent(vitals.cache_percent))),
        ("size", Cell(_size(vitals.size_bytes), vitals.size_bytes)),
        ("deadlocks", Cell(str(vitals.deadlocks), vitals.deadlocks)),
        ("dead letters", limits.cell("dead-letters", vitals.dead_letters)),
        ("schema version", Cell(str(vitals.schema_version), vitals.schema_version)),
        ("PostgreSQL", Cell(visible(vitals.version), vitals.version)),
    ]
    figures += [(f"CloudWatch {name}", Cell(f"{value:g}", value)) for name, value in sorted(cloud.items())]
    findings = [(Level.CRITICAL, "the database is a standby, which takes no writes")] if vitals.is_standby else []
    tables = [
        [
            Cell(visible(table.name), table.name),
            Cell(str(table.partitions or "-"), table.partitions),
            Cell(_size(table.size_bytes), table.size_bytes),
            Cell("-" if table.rows < 0 else f"{table.rows:,}", table.rows),
        ]
        for table in vitals.tables
    ]
    statements = [
        [
            Cell(str(one.pid), one.pid),
            Cell(visible(one.application or one.user), one.application),
            Cell(visible(one.state), one.state),
            limits.cell("query-seconds", one.seconds, f"{one.seconds:.1f}"),
            Cell(visible(one.waits_for) or "-", one.waits_for),
            Cell(visible(" ".join(one.text.split()))[:80], one.text),
        ]
        for one in vitals.statements
    ]
    views = [[Cell(visible(name), name), limits.cell("view-seconds", age, _seconds(age))] for name, age in vitals.views]
    return [
        Section("database", ("figure", "value"), [[Cell(name, name), cell] for name, cell in figures], findings),
        Section("tables", ("table", "partitions", "size", "rows"), tables),
        Section("statements", ("pid", "application", "state", "seconds", "waits for", "statement"), statements),
        Section("views", ("view", "refreshed"), views),
    ]


def _seconds(value: float | None) -> str:
    if value is None:
        return "?"
    return f"{value:.1f} s" if value < 100 else f"{value / 60:.0f} min" if value < 7200 else f"{value / 3600:.0f} h"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} %"


def _size(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
