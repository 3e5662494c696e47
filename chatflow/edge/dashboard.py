"""``/dashboard``: what this instance does, second by second, for as long as somebody looks.

One sample serves all who look; when nobody does, nothing runs.
"""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec
from klein import Klein
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from chatflow.contracts.membership import InstanceState
from chatflow.edge import figures
from chatflow.edge.alarms import Alarm, Alarms, Facts, Roster, Server
from chatflow.edge.answers import ErrorAnswer
from chatflow.edge.figures import Snapshot, total
from chatflow.edge.refusals import RequestRefused
from chatflow.edge.sse import EventStreams, event
from chatflow.edge.static import PageFile, add_files
from chatflow.errors import Unavailable

_INTERVAL_SECONDS = 1.0
#: What a page is given at its beginning: five minutes, less than 200 KiB.
_KEPT_SAMPLES = 300
_CENSUS_EVERY = 2
#: A database that takes longer to say who is there does not answer.
_CENSUS_SECONDS = 2.0
_MAX_ROOMS = 20

_FILES = (
    PageFile("/dashboard", "dashboard.html", b"text/html; charset=utf-8"),
    PageFile("/dashboard/page.css", "dashboard.css", b"text/css; charset=utf-8"),
    PageFile("/dashboard/page.js", "dashboard.js", b"text/javascript; charset=utf-8"),
    PageFile("/dashboard/charts.js", "charts.js", b"text/javascript; charset=utf-8"),
)


class Sample(msgspec.Struct, frozen=True):
    """One event of the stream. Rates are per second, over the second before.

    :ivar at: milliseconds since the epoch.
    :ivar server: who answers. :ivar cluster: whether there are others.
    :ivar latencies_ms: p50, p95 and p99 of each; None if nothing was measured in that second.
    :ivar members: of the rooms with most of them. :ivar rooms: how many have any.
    :ivar cpu: share of one processor.
    """

    at: int
    server: str
    cluster: bool
    up_seconds: float
    rates: dict[str, float]
    latencies_ms: dict[str, list[float] | None]
    errors: dict[str, float]
    connections: int
    rooms: int
    members: dict[str, int]
    pending: int
    waiting: int
    lag_seconds: float
    dead_letters: int
    cpu: float
    memory_bytes: int
    servers: list[Server]
    alarms: list[Alarm]


class Dashboard:
    """Takes samples while somebody listens. Runs on the reactor thread.

    :param now: seconds since the epoch, for what is shown.
    :param snapshot: every counter of this instance; see :mod:`chatflow.edge.figures`.
    :param census: who is in the table of instances; None on a single node. Asked in both cases, since it also tells
        whether the database answers.
    :param silent_seconds: after this long without a heartbeat an instance is shown as silent.
    :param away_seconds: for how long the database has not answered others; 0 if it does.
    """

    _log = Logger()

    def __init__(
        self,
        *,
        clock: IReactorTime,
        now: Callable[[], float],
        server_id: str,
        cluster: bool,
        snapshot: Callable[[], Snapshot],
        census: Callable[[], Awaitable[Sequence[InstanceState]]],
        silent_seconds: float,
        away_seconds: Callable[[], float],
        ready: Callable[[], bool],
    ) -> None:
        self._clock = clock
        self._now = now
        self._server_id = server_id
        self._cluster = cluster
        self._snapshot = snapshot
        self._census = census
        self._away_seconds = away_seconds
        self._ready = ready
        self._started_at = clock.seconds()
        self._run = secrets.token_hex(4)
        self._number = 0
        self._kept: deque[tuple[int, bytes]] = deque(maxlen=_KEPT_SAMPLES)
        self._last: tuple[float, Snapshot] | None = None
        self._alarms = Alarms()
        self._roster = Roster(silent_seconds)
        self._asking_since: float | None = None
        self._unanswered_since: float | None = None
        self._streams = EventStreams(clock=clock, changed=self._listeners_changed)
        self._loop = LoopingCall(self._beat)
        self._loop.clock = clock

    @property
    def runs(self) -> bool:
        """Whether samples are being taken, which is so while somebody looks."""
        return bool(self._loop.running)

    async def serve(self, request: Any) -> bytes:
        """Answer ``/dashboard/events``. :raises RequestRefused: too many listen, or this instance stops."""
        return await self._streams.serve(request, self._first)

    def close(self) -> None:
        """End all streams: the pages go on elsewhere."""
        self._streams.close(event(b"{}", name="bye"))

    def _first(self, last_id: str) -> bytes:
        """What somebody who comes has missed."""
        run, _, number = last_id.partition("-")
        after = int(number) if run == self._run and number.isdecimal() and len(number) < 16 else -1
        return b"".join(text for at, text in self._kept if at > after)

    def _listeners_changed(self, count: int) -> None:
        if count and not self._loop.running:
            # The first sample comes a second later: it takes two readings.
            self._last = self._clock.seconds(), self._snapshot()
            self._ask()
            self._loop.start(_INTERVAL_SECONDS, now=False).addErrback(
                lambda failure: self._log.failure("the dashboard has stopped", failure)
            )
        elif not count and self._loop.running:
            self._loop.stop()

    def _beat(self) -> None:
        try:
            sample = self._sample()
        except Exception:
            self._log.failure("a sample failed")
            return
        self._number += 1
        text = event(msgspec.json.encode(sample), event_id=f"{self._run}-{self._number}")
        self._kept.append((self._number, text))
        self._streams.send(text)
        if self._number % _CENSUS_EVERY == 0:
            self._ask()

    # The database

    def _ask(self) -> None:
        if self._asking_since is None:
            self._asking_since = self._clock.seconds()
            Deferred.fromCoroutine(self._look_around())

    async def _look_around(self) -> None:
        asked_at = self._asking_since
        try:
            self._roster.note(self._clock.seconds(), await self._census())
            self._unanswered_since = None
        except Exception as error:
            if not isinstance(error, Unavailable):
                self._log.failure("the instances could not be read")
            if self._unanswered_since is None:
                self._unanswered_since = asked_at
        finally:
            self._asking_since = None

    def _database_away_seconds(self) -> float | None:
        now = self._clock.seconds()
        since = [self._unanswered_since] if self._unanswered_since is not None else []
        if self._asking_since is not None and now - self._asking_since > _CENSUS_SECONDS:
            since.append(self._asking_since)
        away = [self._away_seconds(), *(now - each for each in since)]
        return max(away) or None

    # A sample

    def _sample(self) -> Sample:
        now, after = self._clock.seconds(), self._snapshot()
        began, before = self._last or (now - _INTERVAL_SECONDS, after)
        self._last = now, after
        seconds = max(now - began, 0.001)
        errors = figures.rates(figures.ERRORS, before, after, seconds)
        aws_failures = figures.aws_failures(before, after, seconds)
        if self._cluster:
            errors["AWS calls failed"] = aws_failures
        members = after.get("chatflow_room_members", {})
        most = sorted(members.items(), key=lambda each: (-each[1], int(each[0])))[:_MAX_ROOMS]
        pending, waiting = total(after, "chatflow_messages_pending"), total(after, "chatflow_writer_waiting_messages")
        lag = max(after.get("chatflow_queue_lag_seconds", {}).values(), default=0.0)
        dead_letters = total(after, "chatflow_envelopes_set_aside_total")
        servers = self._roster.servers(now)
        alarms = self._alarms.look(
            now,
            Facts(
                database_away_seconds=self._database_away_seconds(),
                waiting=max(pending, waiting),
                batches=total(after, "chatflow_batches_committed_total"),
                lag_seconds=lag,
                ready=self._ready(),
                hears=bool(after.get("chatflow_fanout_hears", {}).get("", 1)),
                dead_letters=dead_letters,
                aws_failures_per_second=aws_failures,
                servers=servers,
            ),
        )
        cpu = "process_cpu_seconds_total"
        return Sample(
            at=int(self._now() * 1000),
            server=self._server_id,
            cluster=self._cluster,
            up_seconds=round(now - self._started_at),
            rates=figures.rates(figures.RATES, before, after, seconds),
            latencies_ms=figures.latencies_ms(before, after),
            errors=errors,
            connections=int(total(after, "chatflow_connections")),
            rooms=len(members),
            members={room: int(count) for room, count in most},
            pending=int(pending),
            waiting=int(waiting),
            lag_seconds=round(lag, 2),
            dead_letters=int(dead_letters),
            cpu=round((total(after, cpu) - total(before, cpu)) / seconds, 3),
            memory_bytes=int(total(after, "process_resident_memory_bytes")),
            servers=servers,
            alarms=alarms,
        )


def add_dashboard(app: Klein, dashboard: Dashboard) -> None:
    """The page, its files and its stream: all below ``/dashboard``."""
    add_files(app, _FILES)

    @app.route("/dashboard/events", methods=["GET", "HEAD"])
    async def events(request: Any) -> bytes:
        try:
            return await dashboard.serve(request)
        except RequestRefused as refused:
            return ErrorAnswer(refused).render(request)
