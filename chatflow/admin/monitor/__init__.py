"""``monitor``: is it well, and if not, what is wrong: queues, writers, database; once or again and again."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from datetime import UTC, datetime
from typing import Any

from attrs import define, field
from rich.live import Live

from chatflow.admin.monitor.findings import (
    THRESHOLDS,
    Level,
    Limits,
    Section,
    parse_threshold,
    unreachable,
    with_overrides,
)
from chatflow.admin.monitor.instances import NoAnswer, Rates, Scrape, Target, get_json, scrape_all
from chatflow.admin.monitor.sections import database_sections, embedded_queue_section, queue_section, writer_section
from chatflow.admin.monitor.show import as_json, as_lines, as_screen
from chatflow.admin.output import make_console
from chatflow.admin.queues import ask_queues, seconds
from chatflow.admin.settings import Settings, add_settings, read_settings
from chatflow.errors import ChatFlowError, StartupError
from chatflow.persistence.database import connect
from chatflow.persistence.vitals import InstanceEntry, read_instances, read_vitals

_DEFAULT_URL = "http://localhost:8080"

_MONITOR = """\
Shows whether all is well, and what is not: a table at a terminal, renewed until Ctrl-C; one line for each row
in a pipe; one JSON object for each look with --json. What is wrong stands first, in words.

  queues    of each room: envelopes that wait, are in flight, the age of the oldest; the dead letters.
            Ages are what the instances measure, and CloudWatch's where it can be asked
  writer    of each instance: messages stored and acknowledged per second, messages per batch, seconds per
            commit, how full the buffer is, transactions tried again, envelopes set aside
  database  CPU (CloudWatch's, of --db-cluster), connections, cache hits, locks, sizes of tables and their
            partitions, statements that run, age of the analytics' views
  all       all of these

Instances of --broker sqs are found in the database: each tells there where it listens. For others, and where
there is a PgBouncer between, name them with --url.

exit status (that of the last look):
  0  all is well
  1  there is nothing to look at: a setting is wrong or missing
  2  the command line is wrong
  3  something is worth a look: a warning
  4  something is broken or about to be, or does not answer
"""


def add_to(add_command: Callable[..., argparse.ArgumentParser]) -> None:
    """Register the command; see :func:`chatflow.admin.make_parser`."""
    names = "\n".join(
        f"  {name:20} {one.warning:g},{one.critical:g}  {one.meaning}" for name, one in THRESHOLDS.items()
    )
    monitor = add_command("monitor", help="show whether all is well", description=_MONITOR)
    monitor.epilog = f"thresholds, for a warning and for worse:\n{names}"
    monitor.add_argument("what", choices=("queues", "writer", "database", "all"), help="to look at")
    monitor.add_argument("--once", action="store_true", help="look once; for rates, a second is waited for")
    monitor.add_argument("--json", action="store_true", help="print a JSON object for each look")
    monitor.add_argument(
        "--interval-seconds", metavar="SECONDS", type=seconds, default=5.0, help="between two looks. Default: 5."
    )
    monitor.add_argument("--url", action="append", help=f"of an instance; may be repeated. Default: {_DEFAULT_URL}, "
                         "or with --broker sqs those that the database knows")  # fmt: skip
    monitor.add_argument("--db-cluster", metavar="NAME", help="of Aurora, to ask CloudWatch for its figures")
    monitor.add_argument(
        "--threshold", metavar="NAME=WARNING,CRITICAL", type=parse_threshold, action="append", default=[],
        help="another threshold; may be repeated. See below",
    )  # fmt: skip
    add_settings(monitor, "broker", "queue-prefix", "rooms", "room-queues", "database", "data-dir", "admin-token")
    monitor.set_defaults(run=_monitor)


@define
class Look:
    """One look at all that was asked for, again and again. Blocks."""

    what: str
    settings: Settings
    urls: Sequence[str]
    db_cluster: str | None
    limits: Limits
    _calls: Any = None
    _rates: Rates = field(factory=Rates)
    _known: dict[str, Target] = field(factory=dict)

    def look(self) -> list[Section]:
        """What is seen now. What does not answer is a finding."""
        database: list[Section] = []
        entries: Sequence[InstanceEntry] = ()
        if self.what in ("database", "all") or (self.settings.broker == "sqs" and not self.urls):
            database, entries = self._look_at_database()
        if self.what == "database":
            return database
        targets = self._targets(entries)
        scrapes = scrape_all(targets, self.settings.operator_token)
        sections = []
        database_is_away = not entries and any(one.findings and not one.rows for one in database)
        if self.what in ("writer", "all") and (targets or not database_is_away):
            sections.append(writer_section(targets, scrapes, self._rates, self.limits))
        if self.what in ("queues", "all"):
            sections.append(self._look_at_queues(targets, scrapes))
        if self.what == "all" or not entries:
            # Why there are no instances to be seen.
            sections += database if self.what == "all" else [one for one in database if one.findings]
        return sections

    def _look_at_database(self) -> tuple[list[Section], Sequence[InstanceEntry]]:
        try:
            with closing(connect(self.settings.database_url(), "chatflow-monitor")) as connection:
                vitals = read_vitals(connection)
                entries = read_instances(connection)
        except ChatFlowError as error:
            return [unreachable("database", "the database", str(error))], ()
        return database_sections(vitals, self._of_cloudwatch_database(), self.limits), entries

    def _of_cloudwatch_database(self) -> dict[str, float]:
        if self.db_cluster is None:
            return {}
        from chatflow.broker.cloudwatch import ask

        cluster = self.db_cluster
        return ask(lambda cloud: cloud.database(cluster))

    def _targets(self, entries: Sequence[InstanceEntry]) -> list[Target]:
        """Where to look. One that was seen before and is gone from the database is still looked for."""
        if self.urls or self.settings.broker != "sqs":
            return [Target(url, url) for url in self.urls or [_DEFAULT_URL]]
        for entry in entries:
            known = self._known.get(entry.server_id)
            url = entry.url or (known.url if known else None)
            self._known[entry.server_id] = Target(entry.server_id, url, entry.silent_seconds)
        return list(self._known.values())

    def _look_at_queues(self, targets: Sequence[Target], scrapes: dict[str, Scrape | NoAnswer]) -> Section:
        if self.settings.broker == "sqs":
            return self._look_at_sqs([one for one in scrapes.values() if isinstance(one, Scrape)])
        place, found = targets[0], scrapes[targets[0].url or ""]
        try:
            if isinstance(found, NoAnswer):
                raise found
            return embedded_queue_section(
                place.name, get_json(f"{place.url}/queue/all", self.settings.operator_token), found, self.limits
            )
        except (NoAnswer, KeyError, TypeError, ValueError) as error:
            return unreachable("queues", f"{place.url}", str(error))

    def _look_at_sqs(self, scrapes: Sequence[Scrape]) -> Section:
        from chatflow.broker.calls import blocking_calls
        from chatflow.broker.cloudwatch import ask

        if self._calls is None:
            self._calls = blocking_calls()
        try:
            rows = list(ask_queues(self._calls, self.settings.names))
        except ChatFlowError as error:
            return unreachable("queues", "AWS", str(error))
        names = [row.queue for row in rows if row.shard is not None]
        return queue_section(rows, scrapes, ask(lambda cloud: cloud.oldest_seconds(names)), self.limits)


def _monitor(arguments: argparse.Namespace) -> int:
    settings = read_settings(arguments)
    if arguments.what != "queues" or settings.broker == "sqs":
        _require_something(arguments, settings)
    looks = Look(
        what=arguments.what,
        settings=settings,
        urls=[url.rstrip("/") for url in arguments.url or ()],
        db_cluster=arguments.db_cluster,
        limits=with_overrides(arguments.threshold),
    )
    console = make_console()
    sections: list[Section] = []

    def look() -> list[Section]:
        nonlocal sections
        sections = looks.look()
        return sections

    with suppress(KeyboardInterrupt):  # that is how it ends
        if arguments.once:
            if arguments.what in ("writer", "all"):
                looks.look()
                time.sleep(1.0)  # rates need two looks
            _print(look(), arguments.json, console.is_terminal and not arguments.json)
        elif console.is_terminal and not arguments.json:
            with Live(console=console, auto_refresh=False, screen=False) as live:
                while True:
                    live.update(as_screen(look(), _now()), refresh=True)
                    time.sleep(arguments.interval_seconds)
        else:
            while True:
                _print(look(), arguments.json, False)
                time.sleep(arguments.interval_seconds)
    return int(max((section.level for section in sections), default=Level.FINE))


def _require_something(arguments: argparse.Namespace, settings: Settings) -> None:
    """:raises StartupError: the database is asked for, and nobody says where it is."""
    if arguments.what == "database" or settings.broker == "sqs":
        settings.database_url()
    elif arguments.what == "all":
        with suppress(StartupError):
            settings.database_url()


def _print(sections: Sequence[Section], json_wanted: bool, for_people: bool) -> None:
    if json_wanted:
        print(json.dumps(as_json(sections, _now())), flush=True)
    elif for_people:
        make_console().print(as_screen(sections, _now()))
    else:
        print("\n".join(as_lines(sections, _now())), flush=True)
    sys.stdout.flush()


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
