"""``queues``: what waits where, once or again and again."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import NoReturn

from attrs import define, field, frozen
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from chatflow.admin.output import make_console
from chatflow.admin.settings import add_settings, read_settings
from chatflow.broker.depth import ask_depth
from chatflow.broker.interfaces import Calls
from chatflow.broker.names import Names
from chatflow.contracts.room_queue import Depth
from chatflow.errors import ChatFlowError
from chatflow.lifecycle.blocking import at_once
from chatflow.text import visible

_QUEUES = """\
Shows for each queue how many envelopes (messages of a room that one instance sent together) wait in it, and
how many are with a consumer just now. All figures are SQS's, and approximate.

SQS does not tell the age of the oldest one without a receive, which would be in the consumers' way. So with
--watch the column says since when the queue has not been seen empty: the oldest envelope is younger than
that; without it, nothing is known. The instances measure it exactly (chatflow_queue_lag_seconds in /metrics).

health:
  ok       a room queue with at most 10 waiting, what one receive takes; a fan-out queue with at most 100;
           no dead letter
  behind   more than that
  late     a room queue with more than 100 waiting, or not seen empty for a minute; a fan-out queue with
           more than 1000; a dead letter, which waits for `chatflow-admin dlq`
  missing  run `chatflow-admin setup`
  stranded a room queue that other settings made, with messages that were acknowledged and are not stored:
           run an instance with the settings shown until it is empty. Empty ones are not shown
"""

_LATE_SECONDS = 60.0
_STYLES = {"ok": "green", "behind": "yellow", "late": "bold red", "missing": "bold red", "stranded": "bold red"}


@frozen
class _Limits:
    """More than ``ok`` waiting is behind, and more than ``behind`` is late."""

    ok: int
    behind: int


_ROOM = _Limits(10, 100)
_FANOUT = _Limits(100, 1000)
_DEAD_LETTERS = _Limits(0, 0)
_STRANDED = _Limits(0, 0)


@frozen
class Row:
    """A queue. ``depth``: None if there is none of this name. ``shard``: of a room queue."""

    queue: str
    purpose: str
    limits: _Limits
    depth: Depth | None
    shard: int | None = None

    @property
    def is_dead_letters(self) -> bool:
        """Whether it is the queue of what was set aside."""
        return self.limits is _DEAD_LETTERS


@define
class _Watch:
    """Since when each queue has not been seen empty."""

    empty_at: dict[str, float] = field(factory=dict)

    def look(self, row: Row, now: float) -> float | None:
        """Seconds since the queue was seen empty; None if it never was."""
        if row.depth is not None and not (row.depth.waiting or row.depth.in_flight):
            self.empty_at[row.queue] = now
        return now - self.empty_at[row.queue] if row.queue in self.empty_at else None


def add_to(add_command: Callable[..., argparse.ArgumentParser]) -> None:
    """Register the command; see :func:`chatflow.admin.make_parser`."""
    queues = add_command("queues", help="show what waits in the queues", description=_QUEUES)
    queues.add_argument("--watch", action="store_true", help="again and again, until Ctrl-C")
    queues.add_argument(
        "--interval-seconds", metavar="SECONDS", type=seconds, default=5.0, help="between two looks. Default: 5."
    )
    add_settings(queues, "queue-prefix", "rooms", "room-queues")
    queues.set_defaults(run=_queues)


def seconds(text: str) -> float:
    """An interval, for argparse."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.1 <= value <= 3600:
        raise argparse.ArgumentTypeError("must be a number from 0.1 to 3600")
    return value


def _queues(arguments: argparse.Namespace) -> None:
    from chatflow.broker.calls import blocking_calls

    names = read_settings(arguments).names
    calls = blocking_calls()
    console = make_console()
    watch = _Watch()

    def look() -> Table:
        now = time.monotonic()
        return _table([(row, watch.look(row, now)) for row in ask_queues(calls, names)], arguments.watch)

    if not arguments.watch:
        console.print(look())
        return
    with suppress(KeyboardInterrupt):  # that is how it ends
        if console.is_terminal:
            with Live(console=console, auto_refresh=False) as live:
                _repeat(look, lambda table: live.update(table, refresh=True), console, arguments.interval_seconds)
        _repeat(look, console.print, console, arguments.interval_seconds)


def _repeat(
    look: Callable[[], Table], show: Callable[[Table], object], console: Console, interval_seconds: float
) -> NoReturn:
    show(look())
    while True:
        time.sleep(interval_seconds)
        try:
            show(look())
        except ChatFlowError as error:
            console.print(Text(visible(str(error)), "yellow"))  # AWS does not answer just now: keep on looking


def ask_queues(calls: Calls, names: Names) -> Iterator[Row]:
    """Every queue of a prefix, as it is now. Blocks.

    :param calls: that block.
    :raises AwsError: AWS does not answer.
    """
    from chatflow.broker.lookup import queue_url
    from chatflow.broker.setup import queues_beginning

    def url_of(name: str) -> str | None:
        return at_once(queue_url(calls, name))

    def beginning(prefix: str) -> list[tuple[str, str]]:
        return sorted(at_once(queues_beginning(calls, prefix)).items())

    def row(name: str, purpose: str, limits: _Limits, url: str | None, shard: int | None = None) -> Row:
        return Row(name, purpose, limits, at_once(ask_depth(calls, url)) if url else None, shard)

    for shard in names.shards:
        rooms = names.shard_rooms(shard)
        purpose = f"room {rooms[0]}" if len(rooms) == 1 else f"{len(rooms)} rooms"
        name = names.room_queue(shard)
        yield row(name, purpose, _ROOM, url_of(name), shard)
    for name, url in beginning(f"{names.prefix}-room"):
        if (settings := names.settings_of(name)) and (one := row(name, settings, _STRANDED, url)).depth != Depth(url):
            yield one
    yield row(names.dead_letters, "dead letters", _DEAD_LETTERS, url_of(names.dead_letters))
    for name, url in beginning(names.fanout_prefix):
        yield row(name, "fan-out", _FANOUT, url)


def _table(rows: list[tuple[Row, float | None]], is_watching: bool) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("queue", no_wrap=True)
    table.add_column("for", no_wrap=True)
    for title in ("waiting", "in flight", "oldest" if is_watching else "oldest (needs --watch)"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("health", no_wrap=True)
    for row, age_seconds in rows:
        health = health_of(row, age_seconds)
        depth = row.depth or Depth()
        table.add_row(
            visible(row.queue),
            row.purpose,
            str(depth.waiting),
            str(depth.in_flight),
            _oldest(depth, age_seconds),
            Text(health, _STYLES[health]),
        )
    return table


def _oldest(depth: Depth, age_seconds: float | None) -> str:
    if not (depth.waiting or depth.in_flight):
        return "-"
    return "?" if age_seconds is None else f"< {age_seconds:.0f} s"


def health_of(row: Row, age_seconds: float | None) -> str:
    """The word that the table shows for a queue's state."""
    if row.depth is None:
        return "missing"
    if row.limits is _STRANDED:
        return "stranded"
    waiting = row.depth.waiting
    is_old = row.limits is _ROOM and age_seconds is not None and age_seconds > _LATE_SECONDS
    if waiting > row.limits.behind or (waiting and is_old):
        return "late"
    return "behind" if waiting > row.limits.ok else "ok"
