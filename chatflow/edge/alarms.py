"""What is wrong, and since when: the sentences on top of the dashboard. Pure but for the memory of the last look."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import msgspec
from attrs import define, field, frozen

from chatflow.contracts.membership import InstanceState

#: Messages wait and nothing was committed for so long. A commit takes milliseconds.
STUCK_SECONDS = 3.0
#: Age of the oldest envelope that this instance holds.
LAG_SECONDS = 5.0
#: How long a server that has left is shown.
_REMEMBER_SECONDS = 600.0

BAD, WARN = "bad", "warn"


class Alarm(msgspec.Struct, frozen=True):
    """:ivar key: the same while it is the same trouble. :ivar since_seconds: how long ago it began."""

    key: str
    level: str
    text: str
    since_seconds: float


class Server(msgspec.Struct, frozen=True):
    """A row of the table of instances.

    :ivar state: ``up``, ``silent``, ``lost`` (taken for dead), ``left``, or ``unknown`` (the table cannot be read).
    """

    id: str
    state: str
    up_seconds: float | None
    silent_seconds: float


@frozen(kw_only=True)
class Facts:
    """What one look at an instance found.

    :ivar database_away_seconds: None if it answers.
    :ivar waiting: messages that are accepted and not yet answered, or wait for a flush.
    :ivar batches: commits so far.
    :ivar lag_seconds: age of the oldest envelope held.
    :ivar dead_letters: since the start.
    """

    database_away_seconds: float | None
    waiting: float
    batches: float
    lag_seconds: float
    ready: bool
    hears: bool
    dead_letters: float
    aws_failures_per_second: float = 0.0
    servers: Sequence[Server] = ()


@define
class Alarms:
    """Remembers since when each thing is as it is."""

    _since: dict[str, float] = field(factory=dict, init=False)
    _batches: float = field(default=-1.0, init=False)

    def look(self, now: float, facts: Facts) -> list[Alarm]:
        """Worst first, then oldest. :param now: seconds of a clock that never goes back."""
        alarms = list(self._found(now, facts))
        for key in self._since.keys() - {alarm.key for alarm in alarms} - {"waiting"}:
            del self._since[key]
        return sorted(alarms, key=lambda alarm: (alarm.level != BAD, -alarm.since_seconds))

    def _found(self, now: float, facts: Facts) -> Iterator[Alarm]:
        away = facts.database_away_seconds
        if away is not None:
            waiting = f"; {facts.waiting:,.0f} messages wait here" if facts.waiting else ""
            yield Alarm("database", BAD, f"PostgreSQL does not answer: nothing is stored or delivered{waiting}", away)
        stuck = self._stuck_seconds(now, facts)
        if away is None and stuck >= STUCK_SECONDS:
            text = f"{facts.waiting:,.0f} messages wait and none is stored: PostgreSQL answers, but does not commit"
            yield Alarm("stuck", BAD, text, stuck)
        if facts.lag_seconds >= LAG_SECONDS:
            text = f"The room queues lag: the oldest envelope is {facts.lag_seconds:.0f} s old"
            yield self._alarm(now, "lag", WARN, text)
        if not facts.hears:
            yield self._alarm(now, "deaf", BAD, "This instance does not hear the others, and takes no new clients")
        elif not facts.ready:
            yield self._alarm(now, "ready", WARN, "This instance is not ready: it starts or stops")
        if facts.aws_failures_per_second:
            yield self._alarm(now, "aws", WARN, "Calls to SQS or SNS fail")
        for server in facts.servers:
            if server.state in ("silent", "lost"):
                what = "was taken for dead" if server.state == "lost" else "is silent: it hangs, or was killed"
                yield Alarm(f"instance {server.id}", BAD, f"Instance {server.id} {what}", server.silent_seconds)
        if facts.dead_letters:
            text = f"{facts.dead_letters:,.0f} envelopes were set aside here since the start: chatflow-admin dlq list"
            yield self._alarm(now, "dead letters", WARN, text)

    def _alarm(self, now: float, key: str, level: str, text: str) -> Alarm:
        return Alarm(key, level, text, now - self._since.setdefault(key, now))

    def _stuck_seconds(self, now: float, facts: Facts) -> float:
        if not facts.waiting or facts.batches != self._batches:
            self._since.pop("waiting", None)
        self._batches = facts.batches
        return now - self._since.setdefault("waiting", now) if facts.waiting else 0.0


@define
class Roster:
    """Which servers there are, and those that were there before.

    :param silent_seconds: a server whose last heartbeat is older hangs or is dead.
    """

    _silent_seconds: float
    _seen: dict[str, tuple[float, InstanceState]] = field(factory=dict, init=False)
    _noted_at: float = field(default=0.0, init=False)

    def note(self, now: float, census: Iterable[InstanceState]) -> None:
        """Take note of the census of instances, as the database has it now."""
        self._noted_at = now
        for state in census:
            self._seen[state.server_id] = now, state

    def servers(self, now: float) -> list[Server]:
        """All of them, by id. Who has not been able to read the table for long blames nobody who was up then."""
        found = []
        for server_id, (at, state) in sorted(self._seen.items()):
            silent_seconds = round(now - at + state.silent_seconds, 1)
            was_up = state.silent_seconds < self._silent_seconds
            if at == self._noted_at:
                name = "silent" if not was_up else "up" if now - at < self._silent_seconds else "unknown"
                found.append(Server(server_id, name, round(now - at + state.up_seconds), silent_seconds))
            elif now - at < _REMEMBER_SECONDS:
                # In order it leaves in the middle of its heartbeats; otherwise others removed it.
                found.append(Server(server_id, "left" if was_up else "lost", None, silent_seconds))
            else:
                del self._seen[server_id]
        return found
